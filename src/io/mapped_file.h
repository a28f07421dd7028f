// Read-only memory mappings of files.
#ifndef MLA_IO_MAPPED_FILE_H_
#define MLA_IO_MAPPED_FILE_H_

#include <cstddef>
#include <span>
#include <string>

#include "mla/result.h"

namespace mla {

// A whole regular file, mapped. Pages are read when touched and shared with every process that maps
// the file. The file must not be truncated while mapped: touching what is gone stops the program.
// Reading is thread-safe.
class MappedFile {
 public:
  // kNotFound: no such file. kIoError: unreadable, a directory or not a regular file.
  // kCorruptFile: empty.
  static Result<MappedFile> Open(const std::string& path);

  MappedFile(MappedFile&& other) noexcept;
  MappedFile& operator=(MappedFile&& other) noexcept;
  ~MappedFile();

  std::span<const std::byte> bytes() const { return bytes_; }  // valid after a move of this too
  const std::string& path() const { return path_; }

  // Asks the system to read the file ahead, for one that will be used whole. Does not wait for all.
  void Prefetch() const;

 private:
  MappedFile(std::string path, std::span<const std::byte> bytes);

  std::string path_;
  std::span<const std::byte> bytes_;  // starts on a page; empty after a move
};

}  // namespace mla

#endif  // MLA_IO_MAPPED_FILE_H_
