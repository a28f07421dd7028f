#include "io/checkpoint.h"

#include <gtest/gtest.h>

#include "io/safetensors_text.h"
#include "io/temp_dir.h"

namespace mla {
namespace {

std::string FileWithTensor(std::string_view name) {
  return FileWith(
      "{\"" + std::string(name) + R"(":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}})", 4);
}

constexpr char kIndex[] = "model.safetensors.index.json";

class CheckpointTest : public testing::Test {
 protected:
  std::string OpenError(ErrorCode code) const {
    const Result<Checkpoint> checkpoint = Checkpoint::Open(dir_.path());
    EXPECT_FALSE(checkpoint.ok());
    if (checkpoint.ok()) return "ok";
    EXPECT_EQ(checkpoint.error().code, code);
    return checkpoint.error().message;
  }
  TempDir dir_;
};

TEST_F(CheckpointTest, OpensOneFile) {
  const std::string path = dir_.Write("model.safetensors", FileWithTensor("w"));
  for (const std::string& name : {path, dir_.path(), dir_.path() + "/"}) {
    const Result<Checkpoint> checkpoint = Checkpoint::Open(name);
    ASSERT_TRUE(checkpoint.ok()) << checkpoint.message();
    EXPECT_EQ(checkpoint->files().size(), 1u);
    EXPECT_EQ(checkpoint->files()[0].path(), path);
    ASSERT_NE(checkpoint->Find("w"), nullptr);
    EXPECT_EQ(checkpoint->data_bytes(), 4);
  }
}

TEST_F(CheckpointTest, OpensShards) {
  dir_.Write("s1", FileWithTensor("a"));
  dir_.Write("s2", FileWithTensor("b"));
  dir_.Write(kIndex, R"({"metadata":{"total_size":8},"weight_map":{"b":"s2","a":"s1"}})");
  Result<Checkpoint> opened = Checkpoint::Open(dir_.path());
  ASSERT_TRUE(opened.ok()) << opened.message();
  const Checkpoint checkpoint = *std::move(opened);  // what it hands out survives a move
  ASSERT_EQ(checkpoint.tensors().size(), 2u);
  EXPECT_EQ(checkpoint.tensors()[0]->name, "a");
  EXPECT_EQ(checkpoint.tensors()[1], checkpoint.Find("b"));
  EXPECT_EQ(checkpoint.Find("b")->data[3], std::byte{3});
  EXPECT_EQ(checkpoint.Find("c"), nullptr);
  EXPECT_EQ(checkpoint.data_bytes(), 8);
  checkpoint.Prefetch();
}

TEST_F(CheckpointTest, SaysWhatWasLookedFor) {
  EXPECT_EQ(OpenError(ErrorCode::kNotFound),
            "no model.safetensors or model.safetensors.index.json in " + dir_.path());
  const Result<Checkpoint> none = Checkpoint::Open(dir_ / "none");
  ASSERT_FALSE(none.ok());
  EXPECT_EQ(none.error().code, ErrorCode::kNotFound);
  EXPECT_EQ(none.message(), (dir_ / "none") + ": No such file or directory");
}

TEST_F(CheckpointTest, ListsAllMissingShards) {
  dir_.Write("s2", FileWithTensor("b"));
  dir_.Write(kIndex, R"({"weight_map":{"a":"s1","b":"s2","c":"s3","d":"s1"}})");
  EXPECT_EQ(OpenError(ErrorCode::kNotFound),
            "2 of 3 shards are missing in " + dir_.path() + ": \"s1\", \"s3\"");
}

TEST_F(CheckpointTest, RefusesShardsOutsideTheDirectory) {
  for (const char* shard :
       {"../s", "/etc/passwd", "sub/s", "..", ".", "", "..\\\\s", "s\\u0000x"}) {
    dir_.Write(kIndex, std::string(R"({"weight_map":{"w":")") + shard + "\"}}");
    const std::string message = OpenError(ErrorCode::kCorruptFile);
    EXPECT_TRUE(message.starts_with((dir_ / kIndex) + ": tensor \"w\" is in \"")) << message;
    EXPECT_TRUE(message.ends_with(", want the name of a file in the same directory")) << message;
  }
  dir_.Write(kIndex, R"({"weight_map":{"w":5}})");
  EXPECT_EQ(
      OpenError(ErrorCode::kCorruptFile),
      (dir_ / kIndex) + ": tensor \"w\" is in 5, want the name of a file in the same directory");
}

TEST_F(CheckpointTest, RefusesBadIndexes) {
  const std::string want = ", want an object from tensor names to files";
  const struct {
    const char* index;
    std::string message;
  } kBad[] = {
      {"[]", ": weight_map is missing" + want},
      {"{}", ": weight_map is missing" + want},
      {R"({"weight_map":{}})", ": weight_map is an empty object" + want},
      {R"({"weight_map":7})", ": weight_map is 7" + want},
      {R"({"weight_map":{"a":"s","a":"t"}})", ": line 1, column 26 (byte 26): duplicate key \"a\""},
  };
  for (const auto& bad : kBad) {
    dir_.Write(kIndex, bad.index);
    EXPECT_EQ(OpenError(ErrorCode::kCorruptFile), (dir_ / kIndex) + bad.message);
  }
}

TEST_F(CheckpointTest, RefusesTensorsThatAreNotWhereTheIndexSays) {
  dir_.Write("s1", FileWithTensor("a"));
  dir_.Write(kIndex, R"({"weight_map":{"a":"s1","b":"s1"}})");
  EXPECT_EQ(OpenError(ErrorCode::kCorruptFile),
            (dir_ / kIndex) + ": tensor \"b\" should be in \"s1\", but is not");
}

TEST_F(CheckpointTest, RefusesATensorInTwoShards) {
  dir_.Write("s1", FileWithTensor("a"));
  dir_.Write("s2", FileWithTensor("a"));
  dir_.Write("s3", FileWithTensor("b"));
  dir_.Write(kIndex, R"({"weight_map":{"b":"s3","a":"s1"}})");
  ASSERT_TRUE(Checkpoint::Open(dir_.path()).ok());  // s2 is not part of it
  dir_.Write("s3", FileWith(R"({"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},)"
                            R"("b":{"dtype":"U8","shape":[1],"data_offsets":[1,2]}})",
                            2));
  EXPECT_EQ(OpenError(ErrorCode::kCorruptFile),
            "tensor \"a\" is in two shards: " + (dir_ / "s1") + " and " + (dir_ / "s3"));
}

TEST_F(CheckpointTest, NamesTheShardThatIsCorrupt) {
  dir_.Write("s1", "{}");
  dir_.Write(kIndex, R"({"weight_map":{"a":"s1"}})");
  EXPECT_EQ(OpenError(ErrorCode::kCorruptFile),
            (dir_ / "s1") + " has 2 bytes, want at least 8: the header's length");
}

TEST(Checkpoint, OpensTheBundledModel) {
  const Result<Checkpoint> checkpoint = Checkpoint::Open(MLA_SOURCE_DIR "/models/stories-mla-9m");
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.message();
  EXPECT_NE(checkpoint->Find("model.norm.weight"), nullptr);
}

}  // namespace
}  // namespace mla
