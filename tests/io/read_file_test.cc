#include "io/read_file.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <chrono>
#include <fstream>
#include <thread>

#include "io/temp_dir.h"

namespace mla {
namespace {

TEST(ReadFile, StopsAtTheLimit) {
  const TempDir dir;
  const std::string path = dir.Write("text", "12345");
  EXPECT_EQ(*ReadFile(path, 5), "12345");
  const Result<std::string> too_long = ReadFile(path, 4);
  ASSERT_FALSE(too_long.ok());
  EXPECT_EQ(too_long.message(), path + " is longer than the 4 bytes allowed here");
  EXPECT_EQ(*ReadFile(dir.Write("empty", "")), "");
  EXPECT_FALSE(ReadFileOrPipe("/dev/zero", 1 << 20).ok());  // endless: ends at the limit
}

TEST(ReadFile, WaitsForNoPipe) {
  const TempDir dir;
  const std::string pipe = dir / "pipe";
  ASSERT_EQ(::mkfifo(pipe.c_str(), 0600), 0);
  EXPECT_EQ(ReadFile(pipe).message(), pipe + ": not a regular file");
  EXPECT_EQ(ReadFile("/dev/null").message(), "/dev/null: not a regular file");
  EXPECT_EQ(*ReadFileOrPipe("/dev/null"), "");
  std::thread writer([&] { std::ofstream(pipe) << "text"; });
  EXPECT_EQ(*ReadFileOrPipe(pipe), "text");
  writer.join();
}

// Runs `read` with `fd` as standard input.
Result<std::string> ReadWithInput(int fd) {
  const int before = ::dup(STDIN_FILENO);
  ::dup2(fd, STDIN_FILENO);
  ::close(fd);
  Result<std::string> text = ReadStandardInput();
  ::dup2(before, STDIN_FILENO);
  ::close(before);
  return text;
}

TEST(ReadStandardInput, ReadsTheRestOfWhateverItIs) {
  const TempDir dir;
  const int file = ::open(dir.Write("text", "first second").c_str(), O_RDONLY);
  ASSERT_EQ(::lseek(file, 6, SEEK_SET), 6);
  EXPECT_EQ(*ReadWithInput(file), "second");
  EXPECT_EQ(ReadWithInput(::open(dir.path().c_str(), O_RDONLY)).message(),
            "standard input: Is a directory");
  // A socket, which has no name to open, and does not wait.
  int ends[2];
  ASSERT_EQ(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, ends), 0);
  std::thread writer([&] {
    std::this_thread::sleep_for(std::chrono::milliseconds(50));
    EXPECT_EQ(::write(ends[1], "late", 4), 4);
    ::close(ends[1]);
  });
  EXPECT_EQ(*ReadWithInput(ends[0]), "late");
  writer.join();
}

}  // namespace
}  // namespace mla
