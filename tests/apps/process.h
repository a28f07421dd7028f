// Runs the program under test and keeps what it printed.
#ifndef MLA_TESTS_APPS_PROCESS_H_
#define MLA_TESTS_APPS_PROCESS_H_

#include <fcntl.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <fstream>
#include <nlohmann/json.hpp>
#include <sstream>
#include <string>
#include <string_view>
#include <vector>

#include "base/check.h"
#include "io/temp_dir.h"

namespace mla::test {

inline const std::string kModel = MLA_SOURCE_DIR "/models/stories-mla-9m";

struct ProcessOptions {
  std::string input;            // standard input; empty: /dev/null
  std::string directory;        // to run in; empty: this one
  int64_t max_file_bytes = -1;  // RLIMIT_FSIZE; -1: no limit
  enum class OnOutput { kRead, kInterrupt, kClose } on_first_output = OnOutput::kRead;
};

struct ProcessResult {
  int status = -1;  // of exit; -1 if a signal ended it
  std::string out, err;
};

inline std::string ReadAll(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  std::ostringstream text;
  text << file.rdbuf();
  return std::move(text).str();
}

// The child's side: never returns.
[[noreturn]] inline void ExecMla(const std::vector<std::string>& args,
                                 const ProcessOptions& options, const std::string& input_path,
                                 const std::string& error_path, int output) {
  const int input = ::open(input_path.c_str(), O_RDONLY);
  const int error = ::open(error_path.c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0600);
  ::dup2(input, STDIN_FILENO);
  ::dup2(output, STDOUT_FILENO);
  ::dup2(error, STDERR_FILENO);
  if (!options.directory.empty() && ::chdir(options.directory.c_str()) != 0) ::_exit(120);
  if (options.max_file_bytes >= 0) {
    const auto bytes = static_cast<rlim_t>(options.max_file_bytes);
    const struct rlimit limit { bytes, bytes };
    ::setrlimit(RLIMIT_FSIZE, &limit);
  }
  ::signal(SIGINT, SIG_DFL);
  ::signal(SIGPIPE, SIG_DFL);
  std::vector<char*> argv = {const_cast<char*>(MLA_BINARY)};
  for (const std::string& arg : args) argv.push_back(const_cast<char*>(arg.c_str()));
  argv.push_back(nullptr);
  ::execv(MLA_BINARY, argv.data());
  ::_exit(121);
}

// Runs `mla args...`.
inline ProcessResult RunMla(const std::vector<std::string>& args,
                            const ProcessOptions& options = {}) {
  using OnOutput = ProcessOptions::OnOutput;
  const TempDir dir;
  const std::string input = options.input.empty() ? "/dev/null" : dir.Write("in", options.input);
  const std::string error = dir / "err";
  int pipe_fds[2];
  MLA_CHECK(::pipe2(pipe_fds, O_CLOEXEC) == 0);
  const pid_t pid = ::fork();
  MLA_CHECK(pid >= 0);
  if (pid == 0) ExecMla(args, options, input, error, pipe_fds[1]);
  ::close(pipe_fds[1]);

  ProcessResult result;
  char buffer[4096];
  ssize_t count;
  while ((count = ::read(pipe_fds[0], buffer, sizeof(buffer))) > 0) {
    if (result.out.empty() && options.on_first_output == OnOutput::kInterrupt) {
      ::kill(pid, SIGINT);
    }
    result.out.append(buffer, static_cast<size_t>(count));
    if (options.on_first_output == OnOutput::kClose) break;
  }
  ::close(pipe_fds[0]);
  int status = 0;
  MLA_CHECK(::waitpid(pid, &status, 0) == pid);
  if (WIFEXITED(status)) result.status = WEXITSTATUS(status);
  result.err = ReadAll(error);
  return result;
}

// Runs a command that must succeed and print JSON.
inline nlohmann::json RunJson(const std::vector<std::string>& args,
                              const ProcessOptions& options = {}) {
  const ProcessResult result = RunMla(args, options);
  EXPECT_EQ(result.status, 0) << result.err;
  nlohmann::json json = nlohmann::json::parse(result.out, nullptr, /*allow_exceptions=*/false);
  EXPECT_FALSE(json.is_discarded()) << result.out;
  return json;
}

inline nlohmann::json ExpectedJson() {
  return nlohmann::json::parse(ReadAll(MLA_SOURCE_DIR "/tests/data/stories-mla-9m.expected.json"));
}

// "0,17,52"
inline std::string JoinIds(const std::vector<int32_t>& ids) {
  std::string text;
  for (const int32_t id : ids) text += Concat(text.empty() ? "" : ",", id);
  return text;
}

inline bool Contains(std::string_view text, std::string_view part) {
  return text.find(part) != std::string_view::npos;
}

// True if the text is one line, with its end.
inline bool IsOneLine(const std::string& text) {
  return !text.empty() && text.find('\n') == text.size() - 1;
}

}  // namespace mla::test

#endif  // MLA_TESTS_APPS_PROCESS_H_
