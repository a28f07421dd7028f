// The program among pipes, signals, limits and files that are not what they seem.
#include <fcntl.h>
#include <poll.h>
#include <pty.h>
#include <sys/stat.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdlib>
#include <filesystem>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include "apps/process.h"
#include "io/safetensors.h"

namespace mla::test {
namespace {

using Json = nlohmann::json;

#ifdef MLA_SANITIZED
constexpr bool kMemoryCanBeLimited = false;  // the sanitizer's own takes terabytes of addresses
#else
constexpr bool kMemoryCanBeLimited = true;
#endif

// Runs a script of sh in which $M is the program and $S the model; a minute at most.
ProcessResult RunScript(const TempDir& dir, const std::string& script) {
  const TempDir outside;
  dir.Write("script.sh", script);
  const std::string command =
      Concat("cd '", dir.path(), "' && M='", MLA_BINARY, "' S='", kModel,
             "' timeout 60 sh script.sh >'", outside / "out", "' 2>'", outside / "err", "'");
  const int status = std::system(command.c_str());
  std::filesystem::remove(dir / "script.sh");
  return {WIFEXITED(status) ? WEXITSTATUS(status) : -1, ReadAll(outside / "out"),
          ReadAll(outside / "err")};
}

void ExpectError(const ProcessResult& result, const std::string& part) {
  EXPECT_EQ(result.status, 1);
  EXPECT_TRUE(IsOneLine(result.err)) << result.err;
  EXPECT_TRUE(Contains(result.err, part)) << "want " << part << " in: " << result.err;
}

void CopyModel(const TempDir& dir) {
  for (const char* name : {"config.json", "model.safetensors", "tokenizer.json"}) {
    std::filesystem::copy(kModel + "/" + name, dir / name);
  }
}

// One weight that is no number makes every logit one.
TEST(Surroundings, LogitsThatAreNoNumbersAreNotCompared) {
  const TempDir dir;
  CopyModel(dir);
  const auto file = SafetensorsFile::Open(kModel + "/model.safetensors");
  ASSERT_TRUE(file.ok());
  std::vector<TensorSource> sources;
  for (const StoredTensor& tensor : file->tensors()) sources.push_back({tensor});
  const auto norm = std::find_if(sources.begin(), sources.end(), [](const TensorSource& source) {
    return source.tensor.name == "model.norm.weight";
  });
  ASSERT_NE(norm, sources.end());
  std::vector<std::byte> bytes(norm->tensor.data.begin(), norm->tensor.data.end());
  const std::byte nan[] = {std::byte{0xff}, std::byte{0x7f}, std::byte{0xff}, std::byte{0x7f}};
  std::copy(std::begin(nan), std::end(nan), bytes.begin());  // in bf16 and in f32
  norm->tensor.data = bytes;
  ASSERT_TRUE(WriteSafetensors(dir / "model.safetensors", sources).ok());
  const std::string text = dir.Write("text", "Once upon a time there was a dog.\n");
  const std::vector<std::vector<std::string>> commands = {
      {"compare", dir.path(), "--depths", "0", "-n", "1", "--repetitions", "1", "--context", "8"},
      {"compare", dir.path(), "--depths", "0", "-n", "1", "--file", text},
      {"perplexity", dir.path(), "--file", text},
      {"perplexity", dir.path(), "--file", text, "--json"},
      {"run", dir.path(), "-p", "Once"}};
  for (const std::vector<std::string>& command : commands) {
    SCOPED_TRACE(command[0]);
    const ProcessResult result = RunMla(command);
    EXPECT_EQ(result.status, 1);
    EXPECT_TRUE(Contains(result.err, "logits are not finite")) << result.err;
    EXPECT_FALSE(Contains(result.out, "nan") || Contains(result.out, "null")) << result.out;
  }
}

TEST(Surroundings, StandardInputIsReadFromWhereItStands) {
  const TempDir dir;
  dir.Write("lines", "Once upon\na time");
  const ProcessResult rest =
      RunScript(dir, R"({ read -r first; "$M" tokenize "$S" --ids -; } < lines)");
  EXPECT_EQ(rest.status, 0) << rest.err;
  EXPECT_EQ(rest.out, RunMla({"tokenize", kModel, "--ids", "a time"}).out);
  ExpectError(RunScript(dir, R"("$M" tokenize "$S" - <&-)"), "standard input");
  // A pipe that the user names is a text as well.
  const ProcessResult pipe =
      RunScript(dir, R"(printf 'a time' | "$M" logits "$S" --tokens @/dev/stdin -o x)");
  ExpectError(pipe, "\"a\"");
  const ProcessResult config =
      RunScript(dir, R"(cat "$S/config.json" | "$M" plan /dev/stdin --json)");
  EXPECT_EQ(config.status, 0) << config.err;
}

TEST(Surroundings, NoOutputTakesThePlaceOfAFileOfTheModel) {
  const TempDir dir;
  CopyModel(dir);
  const std::string weights = ReadAll(dir / "model.safetensors");
  const std::string gguf = dir / "m.gguf";
  ASSERT_EQ(RunMla({"quantize", dir.path(), "-o", gguf, "--type", "f16"}).status, 0);
  const std::string gguf_bytes = ReadAll(gguf);
  std::filesystem::create_symlink(dir / "model.safetensors", dir / "soft");
  std::filesystem::create_hard_link(dir / "model.safetensors", dir / "hard");
  std::vector<std::string> outputs = {"soft", "hard", "tokenizer.json", "model.safetensors",
                                      "config.json"};
  for (const std::string& name : outputs) {
    SCOPED_TRACE(name);
    ExpectError(RunMla({"quantize", dir.path(), "-o", dir / name, "--type", "q8_0"}),
                "a file of the model, want another file");
    ExpectError(RunMla({"logits", dir.path(), "--tokens", "1,2", "-o", dir / name}),
                "a file of the model, want another file");
    ExpectError(RunMla({"plan", dir.path(), "--svg", dir / name}), "--svg is ");
    ExpectError(RunMla({"compare", dir.path(), "--html", dir / name}), "--html is ");
  }
  ExpectError(RunMla({"plan", dir / "config.json", "--html", dir / "config.json"}),
              "the model itself");
  ExpectError(RunMla({"logits", gguf, "--tokens", "1,2", "-o", gguf}), "the model itself");
  EXPECT_TRUE(ReadAll(dir / "model.safetensors") == weights);
  EXPECT_TRUE(ReadAll(gguf) == gguf_bytes);
  // Another file beside them is not refused, and neither is writing it again.
  for (int i = 0; i < 2; ++i) {
    EXPECT_EQ(RunMla({"logits", dir.path(), "--tokens", "1,2", "-o", dir / "new"}).status, 0);
  }
}

TEST(Surroundings, NoOutputTakesThePlaceOfAShard) {
  const TempDir dir;
  CopyModel(dir);
  std::filesystem::rename(dir / "model.safetensors", dir / "shard");
  const auto file = SafetensorsFile::Open(dir / "shard");
  ASSERT_TRUE(file.ok());
  Json index;
  for (const StoredTensor& tensor : file->tensors()) index["weight_map"][tensor.name] = "shard";
  dir.Write("model.safetensors.index.json", index.dump());
  for (const char* name : {"shard", "model.safetensors.index.json"}) {
    ExpectError(RunMla({"quantize", dir.path(), "-o", dir / name, "--type", "q8_0"}),
                "a file of the model");
  }
  EXPECT_EQ(RunMla({"quantize", dir.path(), "-o", dir / "m.gguf", "--type", "q8_0"}).status, 0);
}

bool HasTemporary(const TempDir& dir) {
  const std::vector<std::string> names = dir.Names();
  return std::any_of(names.begin(), names.end(),
                     [](const std::string& name) { return Contains(name, ".tmp."); });
}

// Sends the signal once the temporary file is there. Returns the status as of waitpid.
int EndWhileWriting(const std::vector<std::string>& args, int signal, const TempDir& dir) {
  const TempDir outside;
  const pid_t pid = ::fork();
  MLA_CHECK(pid >= 0);
  if (pid == 0) {
    for (const int s : {SIGTERM, SIGHUP}) ::signal(s, SIG_DFL);
    ExecMla(args, {}, "/dev/null", outside / "err", ::open("/dev/null", O_WRONLY));
  }
  int status = 0;
  while (::waitpid(pid, &status, WNOHANG) == 0) {
    if (!HasTemporary(dir)) continue;
    ::kill(pid, signal);
    MLA_CHECK(::waitpid(pid, &status, 0) == pid);
    break;
  }
  return status;
}

TEST(Surroundings, ASignalLeavesNoHalfWrittenFile) {
  const std::string ids = JoinIds(std::vector<int32_t>(1024, 5));
  for (const int signal : {SIGINT, SIGTERM, SIGHUP}) {
    for (const bool logits : {false, true}) {
      SCOPED_TRACE(Concat(logits ? "logits" : "quantize", ", signal ", signal));
      const TempDir dir;
      const std::string out = dir / "out";
      std::vector<std::string> args = {"quantize", kModel, "-o", out, "--type", "q4_k"};
      if (logits) args = {"logits", kModel, "--tokens", ids, "-o", out, "--compute", "f32"};
      args.insert(args.end(), {"--threads", "1"});
      int status = 0;
      // On a busy machine all may be written before we look: then once more.
      for (int i = 0; i < 20; ++i) {
        status = EndWhileWriting(args, signal, dir);
        ASSERT_FALSE(HasTemporary(dir));
        if (WIFSIGNALED(status)) break;
        std::filesystem::remove(out);
      }
      // A shell shows it as 128 and the signal's number.
      EXPECT_TRUE(WIFSIGNALED(status) && WTERMSIG(status) == signal) << status;
      EXPECT_TRUE(dir.Names().empty());
    }
  }
}

TEST(Surroundings, OutputToANonBlockingPipeIsWhole) {
  std::string text;
  for (int i = 0; i < 20000; ++i) text += "word ";
  const TempDir dir;
  const std::string input = dir.Write("in", text);
  int fds[2];
  ASSERT_EQ(::pipe2(fds, O_CLOEXEC | O_NONBLOCK), 0);
  const pid_t pid = ::fork();
  ASSERT_GE(pid, 0);
  if (pid == 0) ExecMla({"tokenize", kModel, "-"}, {}, input, dir / "err", fds[1]);
  ::close(fds[1]);
  ::fcntl(fds[0], F_SETFL, 0);
  // Until the pipe is full, so that a program that does not wait for us has given up.
  std::this_thread::sleep_for(std::chrono::milliseconds(500));
  std::string out;
  char buffer[4096];
  for (ssize_t count; (count = ::read(fds[0], buffer, sizeof(buffer))) > 0;) {
    out.append(buffer, static_cast<size_t>(count));
  }
  ::close(fds[0]);
  int status = 0;
  ASSERT_EQ(::waitpid(pid, &status, 0), pid);
  EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0) << ReadAll(dir / "err");
  ProcessOptions options;
  options.input = text;
  const ProcessResult whole = RunMla({"tokenize", kModel, "-"}, options);
  EXPECT_GT(whole.out.size(), size_t{1} << 17);  // more than a pipe holds
  EXPECT_TRUE(out == whole.out) << out.size() << " of " << whole.out.size() << " bytes";
}

TEST(Surroundings, TooLittleMemoryIsAnError) {
  if (!kMemoryCanBeLimited) GTEST_SKIP() << "the sanitizer needs its memory";
  const TempDir dir;
  ExpectError(RunScript(dir, R"(ulimit -v 100000
head -c 100000000 /dev/zero | tr '\0' a | "$M" tokenize "$S" -)"),
              "not enough memory");
}

TEST(Surroundings, AReportGoesIntoAPipe) {
  const TempDir dir;
  // The machine is measured between the look at the pipe and the writing.
  const ProcessResult plan = RunScript(dir, R"(mkfifo p
cat p > copy &
timeout 20 "$M" plan deepseek-v3 --machine this --svg p > text && wait)");
  EXPECT_EQ(plan.status, 0) << plan.err;
  EXPECT_TRUE(ReadAll(dir / "copy").starts_with("<svg"));
  EXPECT_TRUE(Contains(ReadAll(dir / "text"), "deepseek-v3"));
}

TEST(Surroundings, APipeIsNoFileOfAModel) {
  for (const char* name :
       {"config.json", "tokenizer.json", "tokenizer_config.json", "generation_config.json"}) {
    SCOPED_TRACE(name);
    const TempDir dir;
    CopyModel(dir);
    std::filesystem::remove(dir / name);
    ASSERT_EQ(::mkfifo((dir / name).c_str(), 0600), 0);
    const ProcessResult run = RunScript(dir, R"(timeout 10 "$M" run . -p Once -n 1)");
    ExpectError(run, Concat(name, ": not a regular file"));
  }
}

TEST(Surroundings, ReportsAreTwoFilesOrPipes) {
  const TempDir dir;
  const auto refused = [&](const std::string& other) {
    SCOPED_TRACE(other);
    ExpectError(RunMla({"plan", "deepseek-v3", "--html", dir / "x", "--svg", other}),
                "--html and --svg are one file");
    ExpectError(RunMla({"compare", kModel, "--html", dir / "x", "--svg", other}),
                "--html and --svg are one file");
  };
  refused(dir / "x");
  refused(dir / "./x");
  EXPECT_TRUE(dir.Names().empty());
  std::filesystem::create_symlink(dir.Write("x", "as before"), dir / "link");
  refused(dir / "link");
  EXPECT_EQ(ReadAll(dir / "x"), "as before");
  EXPECT_EQ(RunMla({"plan", "deepseek-v3", "--html", "/dev/null", "--svg", "/dev/null"}).status, 0);
}

// What a command shows on a terminal of so many columns.
std::string OnTerminal(const std::vector<std::string>& args, unsigned short columns) {
  int terminal = -1;
  struct winsize size {};
  size.ws_row = 24;
  size.ws_col = columns;
  const pid_t pid = ::forkpty(&terminal, nullptr, nullptr, &size);
  MLA_CHECK(pid >= 0);
  if (pid == 0) {
    std::vector<char*> argv = {const_cast<char*>(MLA_BINARY)};
    for (const std::string& arg : args) argv.push_back(const_cast<char*>(arg.c_str()));
    argv.push_back(nullptr);
    ::execv(MLA_BINARY, argv.data());
    ::_exit(121);
  }
  std::string output;
  char buffer[4096];
  for (ssize_t count; (count = ::read(terminal, buffer, sizeof(buffer))) > 0;) {
    output.append(buffer, static_cast<size_t>(count));
  }
  int status = 0;
  MLA_CHECK(::waitpid(pid, &status, 0) == pid);
  ::close(terminal);
  return output;
}

TEST(Surroundings, ProgressFitsTheTerminal) {
  const TempDir dir;
  const std::string link = dir / "a-model-with-quite-a-long-name-é";
  std::filesystem::create_directory_symlink(kModel, link);
  const std::string text = ReadAll(MLA_SOURCE_DIR "/tests/data/stories-mla-9m.validation.txt");
  const std::string file = dir.Write("text", text.substr(0, 12000));
  for (const int columns : {100, 40, 20}) {
    SCOPED_TRACE(columns);
    const std::string shown =
        OnTerminal({"compare", link, "--file", file, "--separator", "<|endoftext|>", "--compute",
                    "f32", "--threads", "1", "--depths", "0", "-n", "1", "--repetitions", "1"},
                   static_cast<unsigned short>(columns));
    int drawn = 0;
    for (size_t end, at = 0; (end = shown.find("\x1b[K", at)) != std::string::npos; at = end + 3) {
      const size_t begin = shown.rfind('\r', end) + 1;
      const std::string line = shown.substr(begin, end - begin);
      if (!Contains(line, "%")) continue;
      ++drawn;
      const auto width = std::count_if(line.begin(), line.end(), [](char c) {
        return (static_cast<unsigned char>(c) & 0xc0) != 0x80;
      });
      EXPECT_LT(width, columns) << line;
      // With little room the label is cut, with less there is the number alone.
      EXPECT_EQ(Contains(line, "["), columns > 20) << line;
      EXPECT_EQ(Contains(line, "..."), columns == 40) << line;
    }
    EXPECT_GT(drawn, 0) << shown;
  }
}

TEST(Surroundings, NoRateOfWhatDidNotRun) {
  const ProcessResult one = RunMla({"run", kModel, "-p", "Once", "-n", "1"});
  EXPECT_TRUE(Contains(one.err, "; decode 1 token; stopped: length")) << one.err;
  const Json stats = RunJson({"run", kModel, "-p", "Once", "-n", "1", "--json"})["stats"];
  EXPECT_TRUE(stats["decode_tokens_per_second"].is_null());
  EXPECT_GT(stats["prefill_tokens_per_second"], 0);
  const Json two = RunJson({"run", kModel, "-p", "Once", "-n", "2", "--json"})["stats"];
  EXPECT_GT(two["decode_tokens_per_second"], 0);
}

}  // namespace
}  // namespace mla::test
