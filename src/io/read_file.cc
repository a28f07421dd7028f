#include "io/read_file.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <system_error>

#include "io/unique_fd.h"

namespace mla {

Error FileError(const std::string& path, int error_number) {
  const std::string reason = std::generic_category().message(error_number);
  if (error_number == ENOENT || error_number == ENOTDIR) return NotFound(path, ": ", reason);
  return IoError(path, ": ", reason);
}

namespace {

// From where the descriptor stands to the end.
Result<std::string> ReadRest(int fd, const struct stat& info, const std::string& name,
                             size_t max_bytes) {
  // Read in growing steps: the size in `info` is a hint that a pipe or /proc file does not give.
  std::string text;
  constexpr size_t kFirstStep = 64 << 10;
  size_t step = kFirstStep;
  if (S_ISREG(info.st_mode)) step = std::max(step, static_cast<size_t>(info.st_size) + 1);
  for (;;) {
    const size_t used = text.size();
    if (used > max_bytes) {
      return InvalidArgument(name, " is longer than the ", max_bytes, " bytes allowed here");
    }
    text.resize(used + std::min(step, max_bytes + 1 - used));
    const ssize_t got = ::read(fd, text.data() + used, text.size() - used);
    const int read_error = errno;
    text.resize(used + static_cast<size_t>(std::max<ssize_t>(got, 0)));
    if (got == 0) return text;
    if (got < 0 && read_error == EAGAIN) {  // of another program's making: not to be given up
      struct pollfd wait {
        fd, POLLIN, 0
      };
      ::poll(&wait, 1, -1);
    } else if (got < 0 && read_error != EINTR) {
      return FileError(name, read_error);
    }
    step = std::max(kFirstStep, text.size());
  }
}

Result<std::string> ReadPath(const std::string& path, bool regular, size_t max_bytes) {
  // O_NONBLOCK: a named pipe is refused rather than waited for.
  const UniqueFd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC | (regular ? O_NONBLOCK : 0)));
  struct stat info {};
  if (!fd.valid() || ::fstat(fd.get(), &info) != 0) return FileError(path, errno);
  if (S_ISDIR(info.st_mode)) return FileError(path, EISDIR);
  if (regular && !S_ISREG(info.st_mode)) return IoError(path, ": not a regular file");
  return ReadRest(fd.get(), info, path, max_bytes);
}

}  // namespace

Result<std::string> ReadFile(const std::string& path, size_t max_bytes) {
  return ReadPath(path, /*regular=*/true, max_bytes);
}

Result<std::string> ReadFileOrPipe(const std::string& path, size_t max_bytes) {
  return ReadPath(path, /*regular=*/false, max_bytes);
}

Result<std::string> ReadStandardInput(size_t max_bytes) {
  const std::string name = "standard input";
  struct stat info {};
  if (::fstat(STDIN_FILENO, &info) != 0) return FileError(name, errno);
  return ReadRest(STDIN_FILENO, info, name, max_bytes);
}

std::string JoinPath(const std::string& dir, const std::string& name) {
  return dir.ends_with('/') ? dir + name : dir + "/" + name;
}

}  // namespace mla
