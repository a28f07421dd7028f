// Small files, read whole.
#ifndef MLA_IO_READ_FILE_H_
#define MLA_IO_READ_FILE_H_

#include <cstddef>
#include <string>

#include "mla/result.h"

namespace mla {

// The contents of a file (or of a pipe or device). Errors carry the path: kNotFound if it does not
// exist, kIoError if it cannot be read or is a directory, kInvalidArgument if it holds more than
// max_bytes; then at most max_bytes + 1 bytes have been read. Thread-safe.
Result<std::string> ReadFile(const std::string& path, size_t max_bytes = size_t{1} << 30);

// "PATH: No such file or directory" from errno, as kNotFound or kIoError.
Error FileError(const std::string& path, int error_number);

// "dir/name", whether or not `dir` ends in a slash.
std::string JoinPath(const std::string& dir, const std::string& name);

}  // namespace mla

#endif  // MLA_IO_READ_FILE_H_
