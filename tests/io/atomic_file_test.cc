#include "io/atomic_file.h"

#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/stat.h>

#include <csignal>
#include <filesystem>

#include "io/read_file.h"
#include "io/temp_dir.h"

namespace mla {
namespace {

using Names = std::vector<std::string>;

// Limits the size of files this process writes, as a full disk would.
class FileSizeLimit {
 public:
  explicit FileSizeLimit(rlim_t bytes) {
    handler_ = std::signal(SIGXFSZ, SIG_IGN);
    MLA_CHECK(::getrlimit(RLIMIT_FSIZE, &old_) == 0);
    rlimit limit = old_;
    limit.rlim_cur = bytes;
    MLA_CHECK(::setrlimit(RLIMIT_FSIZE, &limit) == 0);
  }
  ~FileSizeLimit() {
    ::setrlimit(RLIMIT_FSIZE, &old_);
    std::signal(SIGXFSZ, handler_);
  }

 private:
  rlimit old_{};
  void (*handler_)(int);
};

TEST(AtomicFile, WritesTheFile) {
  const TempDir dir;
  std::string want;
  Result<AtomicFile> file = AtomicFile::Create(dir / "out");
  ASSERT_TRUE(file.ok()) << file.message();
  for (const size_t size : {1, 100, 65536, 3, 65535, 200000, 0, 7}) {
    const std::string piece(size, static_cast<char>('a' + size % 26));
    ASSERT_TRUE(file->Write(piece).ok());
    want += piece;
  }
  EXPECT_FALSE(std::filesystem::exists(dir / "out"));  // nothing before the commit
  ASSERT_TRUE(file->Commit().ok());
  EXPECT_EQ(*ReadFile(dir / "out"), want);
  EXPECT_EQ(dir.Names(), Names{"out"});
  EXPECT_FALSE(file->Write("more").ok());
  EXPECT_FALSE(file->Commit().ok());
}

TEST(AtomicFile, LeavesNothingWithoutCommit) {
  const TempDir dir;
  dir.Write("old", "old contents");
  {
    Result<AtomicFile> file = AtomicFile::Create(dir / "old");
    ASSERT_TRUE(file.ok());
    ASSERT_TRUE(file->Write("new").ok());
    EXPECT_EQ(dir.Names().size(), 2u);
  }
  EXPECT_EQ(dir.Names(), Names{"old"});
  EXPECT_EQ(*ReadFile(dir / "old"), "old contents");
}

TEST(AtomicFile, KeepsPermissionsAndLinks) {
  const TempDir dir;
  dir.Write("real", "old");
  std::filesystem::permissions(dir / "real", std::filesystem::perms(0640));
  std::filesystem::create_symlink("real", dir / "link");
  ASSERT_TRUE(WriteFileAtomically(dir / "link", "new").ok());
  EXPECT_TRUE(std::filesystem::is_symlink(dir / "link"));
  EXPECT_EQ(*ReadFile(dir / "real"), "new");
  struct stat info {};
  ASSERT_EQ(::stat((dir / "real").c_str(), &info), 0);
  EXPECT_EQ(info.st_mode & 0777, 0640u);
}

TEST(AtomicFile, FullDiskLeavesNeitherTargetNorTemporary) {
  const TempDir dir;
  for (const size_t size : {5000, 200000}) {  // fails in Commit, and in Write
    const FileSizeLimit limit(4096);
    const Status status = WriteFileAtomically(dir / "out", std::string(size, 'x'));
    ASSERT_FALSE(status.ok()) << size;
    EXPECT_EQ(status.error().code, ErrorCode::kIoError);
    EXPECT_EQ(status.message(), "writing " + (dir / "out") + ": File too large");
    EXPECT_EQ(dir.Names(), Names{});
  }
}

TEST(AtomicFile, FullDiskKeepsTheOldFile) {
  const TempDir dir;
  dir.Write("out", "old contents");
  {
    const FileSizeLimit limit(4096);
    Result<AtomicFile> file = AtomicFile::Create(dir / "out");
    ASSERT_TRUE(file.ok());
    EXPECT_FALSE(file->Write(std::string(200000, 'x')).ok());
    EXPECT_FALSE(file->Write("x").ok());  // and stays failed
    EXPECT_FALSE(file->Commit().ok());
  }
  EXPECT_EQ(dir.Names(), Names{"out"});
  EXPECT_EQ(*ReadFile(dir / "out"), "old contents");
}

TEST(AtomicFile, WritesDevicesDirectly) {
  EXPECT_TRUE(WriteFileAtomically("/dev/null", "text").ok());
  const Status full = WriteFileAtomically("/dev/full", "text");
  ASSERT_FALSE(full.ok());
  EXPECT_EQ(full.message(), "writing /dev/full: No space left on device");
  EXPECT_TRUE(std::filesystem::is_character_file("/dev/full"));
}

TEST(AtomicFile, RefusesBadTargets) {
  const TempDir dir;
  const Status folder = WriteFileAtomically(dir.path(), "text");
  ASSERT_FALSE(folder.ok());
  EXPECT_EQ(folder.message(), "cannot write " + dir.path() + ": Is a directory");
  const Status no_folder = WriteFileAtomically(dir / "none/out", "text");
  ASSERT_FALSE(no_folder.ok());
  EXPECT_EQ(no_folder.error().code, ErrorCode::kNotFound);
  EXPECT_EQ(no_folder.message(),
            "cannot write " + (dir / "none/out") + ": No such file or directory");
}

}  // namespace
}  // namespace mla
