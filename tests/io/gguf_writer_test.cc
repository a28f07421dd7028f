// The GGUF writer: what it writes is what the reader reads, and what it refuses.
#include "io/gguf_writer.h"

#include <gtest/gtest.h>

#include <cstring>

#include "io/temp_dir.h"
#include "support/gguf_bytes.h"

namespace mla::test {
namespace {

std::span<const std::byte> AsBytes(const std::string& text) {
  return std::as_bytes(std::span(text));
}

TensorSource Source(std::string name, StoredDType dtype, std::vector<int64_t> shape,
                    const std::string& data) {
  return {{std::move(name), dtype, std::move(shape), AsBytes(data)}, nullptr};
}

TEST(GgufWriter, WritesWhatIsRead) {
  GgufMetadata metadata;
  metadata.Str("general.architecture", "llama");
  metadata.U32("n", 7);
  metadata.F32("eps", 0.5F);
  metadata.Bool("yes", true);
  const std::vector<std::string> words = {"a", "", "bcd"};
  metadata.Strs("words", words);
  metadata.I32s("ints", std::vector<int32_t>{1, -2});
  metadata.F32s("floats", std::vector<float>{0.25F});
  metadata.U32("n", 8);  // what is said first holds
  const std::string floats = Le(1.F) + Le(2.F) + Le(3.F), codes(68, '\1');
  const TensorSource tensors[] = {Source("f", StoredDType::kF32, {1, 3}, floats),
                                  Source("q", StoredDType::kQ8_0, {2, 32}, codes)};
  const TempDir dir;
  ASSERT_TRUE(WriteGguf(dir / "x.gguf", metadata, tensors).ok());
  const auto file = GgufFile::Open(dir / "x.gguf");
  ASSERT_TRUE(file.ok()) << file.message();
  EXPECT_EQ(file->version(), 3u);
  EXPECT_EQ(file->metadata().size(), 7u);
  EXPECT_EQ(*file->GetInt("n", 0, 10), 7);
  EXPECT_EQ(*file->GetFloat("eps", 0, 1), 0.5);
  EXPECT_TRUE(*file->GetBoolOr("yes", false));
  EXPECT_EQ(*file->GetStrings("words"), (std::vector<std::string_view>{"a", "", "bcd"}));
  EXPECT_EQ(*file->GetInts("ints"), (std::vector<int32_t>{1, -2}));
  EXPECT_EQ(*file->GetFloats("floats"), std::vector<float>{0.25F});
  ASSERT_EQ(file->tensors().size(), 2u);
  EXPECT_EQ(file->tensors()[0].shape, (std::vector<int64_t>{1, 3}));
  EXPECT_EQ(file->tensors()[1].type->name, "Q8_0");
  EXPECT_EQ(std::memcmp(file->tensors()[0].data.data(), floats.data(), 12), 0);
  EXPECT_EQ(std::memcmp(file->tensors()[1].data.data(), codes.data(), 68), 0);
  // Data begin on the alignment, and the file ends on it.
  EXPECT_EQ(std::filesystem::file_size(dir / "x.gguf") % 32, 0u);
}

// Every kind of entry survives being copied from another file.
TEST(GgufWriter, CopiesEntriesAsTheyAre) {
  GgufBytes source;
  source.Str("s", "text").U32("u", 7).Bool("b", true).Strs("ss", {"x", "yz"}).F32s("fs", {1.5F});
  source.Raw("i8", 1, Le<int8_t>(-3)).Raw("f64", 12, Le(2.5)).Raw("u64", 10, Le(~uint64_t{0}));
  const std::string bytes = source.Build();
  const auto from = GgufFile::Parse(AsBytes(bytes), "a");
  ASSERT_TRUE(from.ok()) << from.message();
  GgufMetadata metadata;
  for (const GgufEntry& entry : from->metadata()) metadata.Copy(entry);
  const auto header = GgufHeader(metadata, {});
  ASSERT_TRUE(header.ok());
  EXPECT_EQ(header->substr(0, bytes.size()), bytes);
}

TEST(GgufWriter, HeadersAreReadWithoutTheirData) {
  const std::string floats = Le(1.F) + Le(2.F);
  const TensorSource tensors[] = {Source("first", StoredDType::kF32, {2}, floats),
                                  Source("second", StoredDType::kF32, {2}, floats)};
  const auto header = GgufHeader(GgufMetadata(), tensors);
  ASSERT_TRUE(header.ok()) << header.message();
  const std::string partly = *header + floats;
  EXPECT_FALSE(GgufFile::Parse(AsBytes(partly), "x").ok());
  const auto file = GgufFile::ParseHeader(AsBytes(partly), "x");
  ASSERT_TRUE(file.ok()) << file.message();
  EXPECT_EQ(file->FindTensor("first")->data.size(), 8u);
  EXPECT_TRUE(file->FindTensor("second")->data.empty());
  EXPECT_EQ(file->FindTensor("second")->shape, std::vector<int64_t>{2});
}

TEST(GgufWriter, RefusesWrongTensors) {
  const std::string data(64, '\0');
  const std::tuple<TensorSource, const char*> cases[] = {
      {Source("", StoredDType::kF32, {16}, data), "\"\" has 0 bytes"},
      {Source(std::string(64, 'n'), StoredDType::kF32, {16}, data), "has 64 bytes, want UTF-8 of"},
      {Source("\xff", StoredDType::kF32, {16}, data), "want UTF-8"},
      {Source("t", StoredDType::kF32, {}, data), "has shape [], want 1 to 4"},
      {Source("t", StoredDType::kF32, {1, 1, 1, 1, 16}, data), "[1, 1, 1, 1, 16], want 1 to 4"},
      {Source("t", StoredDType::kF32, {0}, data), "has shape [0]"},
      {Source("t", StoredDType::kQ8_0, {2, 16}, data), "whole blocks of Q8_0"},
      {Source("t", StoredDType::kF32, {15}, data), "has 64 bytes, want 60 for F32 [15]"},
  };
  for (const auto& [source, want] : cases) {
    const TempDir dir;
    const Status status = WriteGguf(dir / "x.gguf", GgufMetadata(), {&source, 1});
    ASSERT_FALSE(status.ok()) << want;
    EXPECT_NE(status.message().find(want), std::string::npos) << status.message();
    EXPECT_TRUE(dir.Names().empty());
  }
  const TensorSource twice[] = {Source("t", StoredDType::kF32, {16}, data),
                                Source("t", StoredDType::kF32, {16}, data)};
  EXPECT_NE(GgufHeader(GgufMetadata(), twice).message().find("two tensors are \"t\""),
            std::string::npos);
}

TEST(GgufWriter, AProducerThatFailsLeavesNothing) {
  const TempDir dir;
  dir.Write("old.gguf", "as before");
  TensorSource source{{"t", StoredDType::kF32, {4}, {}}, nullptr};
  source.produce = [](const TensorSource::Write& write) -> Status {
    MLA_RETURN_IF_ERROR(write(AsBytes("1234")));
    return IoError("the source is gone");
  };
  EXPECT_FALSE(WriteGguf(dir / "old.gguf", GgufMetadata(), {&source, 1}).ok());
  source.produce = [](const TensorSource::Write& write) { return write(AsBytes("1234")); };
  const Status few = WriteGguf(dir / "old.gguf", GgufMetadata(), {&source, 1});
  EXPECT_EQ(few.message(), "tensor \"t\" was given 4 bytes, want 16");
  EXPECT_EQ(dir.Names(), std::vector<std::string>{"old.gguf"});
  std::ifstream in(dir / "old.gguf");
  std::string text((std::istreambuf_iterator<char>(in)), {});
  EXPECT_EQ(text, "as before");
}

}  // namespace
}  // namespace mla::test
