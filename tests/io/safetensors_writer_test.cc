#include <gtest/gtest.h>

#include <filesystem>

#include "io/read_file.h"
#include "io/safetensors.h"
#include "io/safetensors_text.h"
#include "io/temp_dir.h"

namespace mla {
namespace {

TEST(WriteSafetensors, RewritesRealFilesByteForByte) {
  const TempDir dir;
  for (const std::string name :
       {"models/stories-mla-9m/model.safetensors", "tests/golden/deepseek_v3/model.safetensors",
        "tests/golden/deepseek_v3/expected.safetensors"}) {
    const std::string original = MLA_SOURCE_DIR "/" + name;
    const Result<SafetensorsFile> file = SafetensorsFile::Open(original);
    ASSERT_TRUE(file.ok()) << file.message();
    std::vector<TensorSource> sources;
    for (const StoredTensor& tensor : file->tensors()) sources.push_back({tensor});
    const Status status = WriteSafetensors(dir / "copy", sources, file->metadata());
    ASSERT_TRUE(status.ok()) << status.message();
    EXPECT_TRUE(*ReadFile(dir / "copy") == *ReadFile(original)) << name;
  }
}

TEST(WriteSafetensors, LaysOutAlignedAndPads) {
  const TempDir dir;
  const std::string bytes = "abcdefgh";
  const std::vector<TensorSource> sources = {
      {{"u\"8\n", StoredDType::kU8, {3}, Bytes(bytes).first(3)}},
      {{"half", StoredDType::kF16, {1}, Bytes(bytes).first(2)}},
      {{"none", StoredDType::kF32, {0, 4}, {}}},
      {{"scalar", StoredDType::kI64, {}, Bytes(bytes)}},
  };
  const Status status = WriteSafetensors(dir / "out", sources, {{"k", "v\"é"}, {"a", ""}});
  ASSERT_TRUE(status.ok()) << status.message();
  const Result<SafetensorsFile> file = SafetensorsFile::Open(dir / "out");
  ASSERT_TRUE(file.ok()) << file.message();
  EXPECT_EQ(file->bytes_copied(), 0);
  EXPECT_EQ((std::filesystem::file_size(dir / "out") - 13) % 8, 0u);  // 13 bytes of data
  EXPECT_EQ(file->tensors()[0].name, "scalar");
  EXPECT_EQ(file->metadata(), (std::map<std::string, std::string>{{"a", ""}, {"k", "v\"é"}}));
  for (const TensorSource& source : sources) {
    const StoredTensor* tensor = file->Find(source.tensor.name);
    ASSERT_NE(tensor, nullptr) << source.tensor.name;
    EXPECT_EQ(tensor->shape, source.tensor.shape);
    EXPECT_EQ(tensor->dtype, source.tensor.dtype);
    EXPECT_TRUE(std::equal(tensor->data.begin(), tensor->data.end(), source.tensor.data.begin(),
                           source.tensor.data.end()));
  }
}

TEST(WriteSafetensors, TakesDataInPieces) {
  const TempDir dir;
  const std::string piece(1000, 'p');
  TensorSource source{{"w", StoredDType::kU8, {100, 1000}, {}},
                      [&](const TensorSource::Write& write) -> Status {
                        for (int i = 0; i < 100; ++i) MLA_RETURN_IF_ERROR(write(Bytes(piece)));
                        return {};
                      }};
  ASSERT_TRUE(WriteSafetensors(dir / "out", {&source, 1}).ok());
  const Result<SafetensorsFile> file = SafetensorsFile::Open(dir / "out");
  ASSERT_TRUE(file.ok()) << file.message();
  EXPECT_EQ(file->Find("w")->data.size(), 100000u);
  EXPECT_EQ(file->Find("w")->data[99999], std::byte{'p'});

  source.tensor.shape = {99, 1000};
  EXPECT_EQ(WriteSafetensors(dir / "bad", {&source, 1}).message(),
            "tensor \"w\" was given 100000 bytes, want 99000 for U8 [99, 1000]");
  source.tensor.shape = {101, 1000};
  EXPECT_FALSE(WriteSafetensors(dir / "bad", {&source, 1}).ok());
  source.produce = [](const TensorSource::Write&) -> Status { return IoError("source gone"); };
  EXPECT_EQ(WriteSafetensors(dir / "bad", {&source, 1}).message(), "source gone");
  EXPECT_EQ(dir.Names(), std::vector<std::string>{"out"});
}

TEST(WriteSafetensors, RefusesBadInput) {
  const TempDir dir;
  const std::string bytes = "abcd";
  auto message = [&](std::vector<TensorSource> sources,
                     const std::map<std::string, std::string>& metadata = {}) {
    const Status status = WriteSafetensors(dir / "out", sources, metadata);
    EXPECT_FALSE(status.ok());
    return std::string(status.message());
  };
  const TensorSource good{{"w", StoredDType::kF32, {1}, Bytes(bytes)}};
  EXPECT_EQ(message({good, good}), "tensor name \"w\" is reserved or given twice");
  EXPECT_EQ(message({{{"__metadata__", StoredDType::kF32, {1}, Bytes(bytes)}}}),
            "tensor name \"__metadata__\" is reserved or given twice");
  EXPECT_EQ(message({{{"w", StoredDType::kF32, {2}, Bytes(bytes)}}}),
            "tensor \"w\" has 4 bytes, want 8 for F32 [2]");
  EXPECT_EQ(message({{{"w", StoredDType::kF32, {-1}, Bytes(bytes)}}}),
            "tensor \"w\" has shape [-1], negative or too large");
  EXPECT_EQ(message({{{"\xff", StoredDType::kF32, {1}, Bytes(bytes)}}}),
            "a name or metadata text of 1 bytes is not UTF-8");
  EXPECT_EQ(message({good}, {{"k", "\xc3"}}), "a name or metadata text of 1 bytes is not UTF-8");
  EXPECT_TRUE(dir.Names().empty());
  EXPECT_EQ(WriteSafetensors("/dev/full", {&good, 1}).message(),
            "writing /dev/full: No space left on device");
}

}  // namespace
}  // namespace mla
