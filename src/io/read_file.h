// Small files, read whole.
#ifndef MLA_IO_READ_FILE_H_
#define MLA_IO_READ_FILE_H_

#include <cstddef>
#include <string>

#include "mla/result.h"

namespace mla {

inline constexpr size_t kMostTextBytes = size_t{1} << 30;

// The contents of a regular file. Errors carry the path: kNotFound if it does not exist, kIoError
// if it cannot be read or is a directory, a pipe or a device, kInvalidArgument if it holds more
// than max_bytes; then at most max_bytes + 1 bytes have been read. Thread-safe.
Result<std::string> ReadFile(const std::string& path, size_t max_bytes = kMostTextBytes);

// The same for what a user names as a text: pipes and devices are read too, and waited for.
Result<std::string> ReadFileOrPipe(const std::string& path, size_t max_bytes = kMostTextBytes);

// What is left of standard input, whatever it is and wherever its reading has come to. Errors say
// "standard input".
Result<std::string> ReadStandardInput(size_t max_bytes = kMostTextBytes);

// "PATH: No such file or directory" from errno, as kNotFound or kIoError.
Error FileError(const std::string& path, int error_number);

// "dir/name", whether or not `dir` ends in a slash.
std::string JoinPath(const std::string& dir, const std::string& name);

}  // namespace mla

#endif  // MLA_IO_READ_FILE_H_
