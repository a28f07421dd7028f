// tokenizer.model as a protocol buffer.
#include "io/tokenizer/sentencepiece_model.h"

#include <gtest/gtest.h>

#include "support/gguf_bytes.h"

namespace mla::test {
namespace {

std::string Field(char number, const std::string& bytes) {
  return std::string(1, static_cast<char>(number << 3 | 2)) +
         std::string(1, static_cast<char>(bytes.size())) + bytes;
}

std::string Model() {
  const std::string score = std::string(1, 2 << 3 | 5) + Le(-1.5F);
  const std::string unknown = Field(1, "<unk>") + std::string{3 << 3, 2};
  return Field(1, unknown) + Field(1, Field(1, "\u2581a") + score) + Field(2, {3 << 3, 2}) +
         Field(3, {3 << 3, 0, 4 << 3, 0}) + Field(5, "passed over");
}

TEST(SentencePieceModel, GivesPiecesAndOptions) {
  const auto model = ReadSentencePieceModel(Model());
  ASSERT_TRUE(model.ok()) << model.message();
  ASSERT_EQ(model->pieces.size(), 2u);
  EXPECT_EQ(model->pieces[0].text, "<unk>");
  EXPECT_EQ(model->pieces[0].type, 2);
  EXPECT_EQ(model->pieces[1].text, "\u2581a");
  EXPECT_EQ(model->pieces[1].score, -1.5F);
  EXPECT_EQ(model->pieces[1].type, 1);
  EXPECT_EQ(model->kind, SentencePieceModel::kBytePairs);
  EXPECT_FALSE(model->add_dummy_prefix);
  EXPECT_FALSE(model->remove_extra_whitespaces);
  const auto empty = ReadSentencePieceModel("");
  ASSERT_TRUE(empty.ok());
  EXPECT_EQ(empty->kind, SentencePieceModel::kUnigram);
  EXPECT_TRUE(empty->add_dummy_prefix);
}

TEST(SentencePieceModel, RefusesDamage) {
  const std::pair<std::string, const char*> cases[] = {
      {"\x0a", "a number does not end"},
      {"\x0a\x05zzzz", "takes 5 bytes, but only 4 are left"},
      {"\x0b", "wire type 3, want 0, 1, 2 or 5"},
      {std::string(12, '\xff'), "a number does not end"},
      {Field(1, "\x15\x01"), "takes 4 bytes, but only 1 are left"},
      {"\x09xxxxxxx", "takes 8 bytes, but only 7 are left"},
  };
  for (const auto& [bytes, want] : cases) {
    const auto model = ReadSentencePieceModel(bytes);
    ASSERT_FALSE(model.ok()) << want;
    EXPECT_EQ(model.error().code, ErrorCode::kCorruptFile);
    EXPECT_NE(model.message().find(want), std::string::npos) << model.message();
  }
  const std::string whole = Model();
  for (size_t size = 0; size < whole.size(); ++size) {
    (void)ReadSentencePieceModel(std::string(whole, 0, size));  // never past the end
  }
}

}  // namespace
}  // namespace mla::test
