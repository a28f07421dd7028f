#include "io/atomic_file.h"

#include <fcntl.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstdio>
#include <memory>
#include <utility>

#include "io/read_file.h"

namespace mla {
namespace {

constexpr size_t kBufferBytes = 64 << 10;

std::string ResolveLinks(const std::string& path) {
  struct FreeDeleter {
    void operator()(char* p) const { ::free(p); }
  };
  const std::unique_ptr<char, FreeDeleter> real(::realpath(path.c_str(), nullptr));
  return real == nullptr ? path : std::string(real.get());
}

Error CannotWrite(const std::string& path, int error_number) {
  const Error error = FileError(path, error_number);
  return Error{error.code, Concat("cannot write ", error.message)};
}

std::string FolderOf(const std::string& path) {
  const size_t slash = path.rfind('/');
  if (slash == std::string::npos) return ".";
  return slash == 0 ? "/" : path.substr(0, slash);
}

// Makes the rename survive a power cut. Best effort: not every file system can sync a folder.
void SyncFolder(const std::string& folder) {
  const UniqueFd fd(::open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (fd.valid()) ::fsync(fd.get());
}

// Creates a new file beside `target`, with the permissions a plain open would give. Returns the fd
// or -1 with errno.
int CreateBeside(const std::string& target, std::string& name) {
  static std::atomic<unsigned> counter{0};
  for (int attempt = 0; attempt < 1000; ++attempt) {
    name = Concat(target, ".tmp.", ::getpid(), ".", counter.fetch_add(1));
    const int fd = ::open(name.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    if (fd >= 0 || errno != EEXIST) return fd;
  }
  return -1;
}

}  // namespace

Result<AtomicFile> AtomicFile::Create(const std::string& path) {
  struct stat info {};
  const bool exists = ::stat(path.c_str(), &info) == 0;
  if (exists && S_ISDIR(info.st_mode)) return CannotWrite(path, EISDIR);
  if (exists && !S_ISREG(info.st_mode)) {
    UniqueFd fd(::open(path.c_str(), O_WRONLY | O_CLOEXEC));
    if (!fd.valid()) return CannotWrite(path, errno);
    return AtomicFile(path, "", std::move(fd));
  }
  std::string target = exists ? ResolveLinks(path) : path;
  std::string temporary;
  UniqueFd fd(CreateBeside(target, temporary));
  if (!fd.valid()) return CannotWrite(path, errno);
  if (exists) ::fchmod(fd.get(), info.st_mode & 0777);
  return AtomicFile(std::move(target), std::move(temporary), std::move(fd));
}

AtomicFile::AtomicFile(std::string target, std::string temporary, UniqueFd fd)
    : target_(std::move(target)), temporary_(std::move(temporary)), fd_(std::move(fd)) {}

AtomicFile::~AtomicFile() {
  // A moved-from object has no descriptor, and its strings are not to be relied on.
  if (fd_.valid() && !temporary_.empty()) ::unlink(temporary_.c_str());
}

Status AtomicFile::Fail(int error_number) {
  if (!temporary_.empty()) ::unlink(temporary_.c_str());
  temporary_.clear();
  fd_ = UniqueFd();
  return IoError("writing ", FileError(target_, error_number).message);
}

Status AtomicFile::Flush(std::span<const std::byte> bytes) {
  while (!bytes.empty()) {
    const ssize_t written = ::write(fd_.get(), bytes.data(), bytes.size());
    if (written < 0 && errno == EINTR) continue;
    if (written < 0) return Fail(errno);
    bytes = bytes.subspan(static_cast<size_t>(written));
  }
  return {};
}

Status AtomicFile::Write(std::span<const std::byte> bytes) {
  if (!fd_.valid()) return IoError("writing ", target_, ": closed by an earlier error or commit");
  if (buffer_.size() + bytes.size() > kBufferBytes) {
    MLA_RETURN_IF_ERROR(Flush(std::as_bytes(std::span(buffer_))));
    buffer_.clear();
  }
  if (bytes.size() > kBufferBytes) return Flush(bytes);
  buffer_.append(reinterpret_cast<const char*>(bytes.data()), bytes.size());
  return {};
}

Status AtomicFile::Write(std::string_view text) { return Write(std::as_bytes(std::span(text))); }

Status AtomicFile::Commit() {
  if (!fd_.valid()) return IoError("writing ", target_, ": closed by an earlier error or commit");
  MLA_RETURN_IF_ERROR(Flush(std::as_bytes(std::span(buffer_))));
  buffer_.clear();
  // Only now can delayed allocation (NFS, quotas) report a full disk.
  if (!temporary_.empty() && ::fsync(fd_.get()) != 0) return Fail(errno);
  const int fd = fd_.Release();
  if (::close(fd) != 0 && errno != EINTR) return Fail(errno);
  if (temporary_.empty()) return {};
  if (::rename(temporary_.c_str(), target_.c_str()) != 0) return Fail(errno);
  temporary_.clear();
  SyncFolder(FolderOf(target_));
  return {};
}

Status WriteFileAtomically(const std::string& path, std::string_view contents) {
  MLA_ASSIGN_OR_RETURN(AtomicFile file, AtomicFile::Create(path));
  MLA_RETURN_IF_ERROR(file.Write(contents));
  return file.Commit();
}

}  // namespace mla
