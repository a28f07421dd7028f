#include "io/mapped_file.h"

#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>
#include <utility>

#include "io/temp_dir.h"

namespace mla {
namespace {

std::string Text(const MappedFile& file) {
  return std::string(reinterpret_cast<const char*>(file.bytes().data()), file.bytes().size());
}

TEST(MappedFile, MapsAFileAndMoves) {
  const TempDir dir;
  const std::string path = dir.Write("file", "contents");
  Result<MappedFile> opened = MappedFile::Open(path);
  ASSERT_TRUE(opened.ok()) << opened.message();
  EXPECT_EQ(opened->path(), path);
  const std::byte* where = opened->bytes().data();
  MappedFile moved = *std::move(opened);
  EXPECT_EQ(moved.bytes().data(), where);
  MappedFile other = *MappedFile::Open(dir.Write("other", "x"));
  other = std::move(moved);
  std::filesystem::remove(path);  // the mapping stays
  other.Prefetch();
  EXPECT_EQ(Text(other), "contents");
}

TEST(MappedFile, RefusesWhatCannotBeMapped) {
  const TempDir dir;
  const Result<MappedFile> missing = MappedFile::Open(dir / "none");
  ASSERT_FALSE(missing.ok());
  EXPECT_EQ(missing.error().code, ErrorCode::kNotFound);
  EXPECT_EQ(missing.message(), (dir / "none") + ": No such file or directory");
  EXPECT_EQ(MappedFile::Open(dir.path()).message(), dir.path() + ": Is a directory");
  EXPECT_EQ(MappedFile::Open("/dev/null").message(), "/dev/null: not a regular file");
  const std::string empty = dir.Write("empty", "");
  EXPECT_EQ(MappedFile::Open(empty).message(), empty + " is empty (0 bytes)");
  ASSERT_EQ(::mkfifo((dir / "pipe").c_str(), 0600), 0);
  EXPECT_EQ(MappedFile::Open(dir / "pipe").message(), (dir / "pipe") + ": not a regular file");
}

TEST(MappedFile, RefusesAnUnreadableFile) {
  const TempDir dir;
  const std::string path = dir.Write("secret", "x");
  std::filesystem::permissions(path, std::filesystem::perms::none);
  std::filesystem::permissions(dir.path(), std::filesystem::perms(0755));
  // Root may read every file, so it looks with another user's rights.
  constexpr uid_t kNobody = 65534;
  const bool root = ::geteuid() == 0;
  ASSERT_EQ(root ? ::seteuid(kNobody) : 0, 0);
  const Result<MappedFile> file = MappedFile::Open(path);
  ASSERT_EQ(root ? ::seteuid(0) : 0, 0);
  ASSERT_FALSE(file.ok());
  EXPECT_EQ(file.error().code, ErrorCode::kIoError);
  EXPECT_EQ(file.message(), path + ": Permission denied");
}

}  // namespace
}  // namespace mla
