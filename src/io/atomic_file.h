// Writing files so that a reader sees the old contents or the new, never a part.
#ifndef MLA_IO_ATOMIC_FILE_H_
#define MLA_IO_ATOMIC_FILE_H_

#include <cstddef>
#include <span>
#include <string>
#include <string_view>

#include "io/unique_fd.h"
#include "mla/result.h"

namespace mla {

// Writes go to a temporary file beside the target; Commit syncs it and renames it over the target.
// After an error, or without Commit, the temporary is removed and the target is as it was. A target
// that is a symbolic link keeps being one; an existing file keeps its permissions. A target that
// exists and is no regular file (a pipe, /dev/stdout) is written to directly. Not thread-safe.
class AtomicFile {
 public:
  // kNotFound: the folder does not exist. kIoError: no permission, the target is a directory.
  static Result<AtomicFile> Create(const std::string& path);

  AtomicFile(AtomicFile&&) noexcept = default;
  AtomicFile& operator=(AtomicFile&&) = delete;
  ~AtomicFile();

  // kIoError with the path and the system's reason ("No space left on device"). After an error
  // every further call fails.
  Status Write(std::span<const std::byte> bytes);
  Status Write(std::string_view text);
  Status Commit();  // at most once; no writes after it

 private:
  AtomicFile(std::string target, std::string temporary, UniqueFd fd);
  Status Fail(int error_number);
  Status Flush(std::span<const std::byte> bytes);

  std::string target_;     // what is renamed over, symbolic links resolved
  std::string temporary_;  // empty: written directly, or committed, or given up
  UniqueFd fd_;            // not valid after Commit or an error
  std::string buffer_;     // small writes, gathered
};

// The whole of a file at once.
Status WriteFileAtomically(const std::string& path, std::string_view contents);

}  // namespace mla

#endif  // MLA_IO_ATOMIC_FILE_H_
