// Tokenizers against what Hugging Face's and Google's own libraries make of the same texts.
#include "io/tokenizer/tokenizer.h"

#include <gtest/gtest.h>
#include <sys/mman.h>

#include <algorithm>
#include <string>
#include <thread>
#include <vector>

#include "io/tokenizer_fixtures.h"

namespace mla {
namespace {

using nlohmann::json;

std::unique_ptr<Tokenizer> LoadOrDie(const std::string& dir) {
  Result<std::unique_ptr<Tokenizer>> tokenizer = Tokenizer::Load(dir);
  EXPECT_TRUE(tokenizer.ok()) << tokenizer.message();
  return tokenizer.ok() ? *std::move(tokenizer) : nullptr;
}

std::unique_ptr<Tokenizer> Stories() {
  return LoadOrDie(std::string(MLA_SOURCE_DIR) + "/models/stories-mla-9m");
}

TEST(TokenizerTest, BundledModelEqualsHuggingFace) {
  const auto tokenizer = Stories();
  ASSERT_NE(tokenizer, nullptr);
  ExpectFixture(*tokenizer, Fixture("stories-mla-9m"));
}

TEST(TokenizerTest, BundledModelSpecialTokens) {
  const auto tokenizer = Stories();
  ASSERT_NE(tokenizer, nullptr);
  EXPECT_EQ(tokenizer->vocab_size(), 4096);
  EXPECT_EQ(tokenizer->bos_id(), 0);
  EXPECT_EQ(tokenizer->eos_ids(), std::vector<int32_t>{1});
  // BOS is in the template and in add_bos_token: it is added once.
  const auto ids = tokenizer->Encode("the");
  ASSERT_TRUE(ids.ok());
  ASSERT_GE(ids->size(), 2u);
  EXPECT_EQ((*ids)[0], 0);
  EXPECT_NE((*ids)[1], 0);
  EXPECT_EQ(*tokenizer->Decode(*ids), "the");
  EXPECT_EQ(*tokenizer->Decode(*ids, false), "<｜begin▁of▁sentence｜>the");
  EXPECT_EQ(*tokenizer->IdToPiece(1), "<｜end▁of▁sentence｜>");
  EXPECT_EQ(tokenizer->PieceToId("Ġthe"),
            tokenizer->PieceToId(*tokenizer->IdToPiece(*tokenizer->PieceToId("Ġthe"))));
  EXPECT_FALSE(tokenizer->PieceToId("no such piece").has_value());
  EXPECT_TRUE(tokenizer->IsSpecial(2));
  EXPECT_FALSE(tokenizer->IsSpecial(3));
}

TEST(TokenizerTest, RefusesIdsOutOfRange) {
  const auto tokenizer = Stories();
  ASSERT_NE(tokenizer, nullptr);
  for (const int32_t id : {-1, 4096, INT32_MAX}) {
    const auto text = tokenizer->Decode(std::vector<int32_t>{5, id});
    ASSERT_FALSE(text.ok());
    EXPECT_EQ(text.error().code, ErrorCode::kInvalidArgument);
    EXPECT_NE(text.message().find(std::to_string(id)), std::string::npos) << text.message();
    EXPECT_FALSE(tokenizer->IdToPiece(id).ok());
  }
  StreamDecoder stream(*tokenizer);
  EXPECT_FALSE(stream.Push(4096).ok());
  EXPECT_TRUE(stream.Push(300).ok());
}

TEST(TokenizerTest, RefusesInvalidUtf8WithItsOffset) {
  const auto tokenizer = Stories();
  ASSERT_NE(tokenizer, nullptr);
  const struct {
    std::string text;
    const char* offset;
  } kCases[] = {{"ab\xff", "offset 2"},           {"\xc0\x80", "offset 0"},
                {"x\xed\xa0\x80", "offset 1"},    {"12345678901\xe4\xbd", "offset 11"},
                {"\xf4\x90\x80\x80", "offset 0"}, {"a\xe4\xbd\xa0\x80", "offset 4"}};
  for (const auto& item : kCases) {
    const auto ids = tokenizer->Encode(item.text);
    ASSERT_FALSE(ids.ok());
    EXPECT_EQ(ids.error().code, ErrorCode::kInvalidArgument);
    EXPECT_TRUE(ids.message().ends_with(item.offset)) << ids.message();
  }
  EXPECT_TRUE(ValidateUtf8("\xf0\x9f\x98\x80 \xed\x9f\xbf").ok());
}

TEST(TokenizerTest, StreamHoldsBackIncompleteCharacters) {
  const auto tokenizer = Stories();
  ASSERT_NE(tokenizer, nullptr);
  const auto ids = tokenizer->Encode("\xf0\x9f\x98\x80", {false, false});
  ASSERT_TRUE(ids.ok());
  ASSERT_GT(ids->size(), 1u);
  StreamDecoder stream(*tokenizer);
  for (size_t i = 0; i + 1 < ids->size(); ++i) EXPECT_EQ(*stream.Push((*ids)[i]), "");
  EXPECT_EQ(*stream.Push(ids->back()), "\xf0\x9f\x98\x80");
  EXPECT_EQ(*stream.Push(ids->front()), "");
  EXPECT_EQ(stream.Flush(), "\xef\xbf\xbd");
  EXPECT_EQ(stream.Flush(), "");
}

TEST(TokenizerTest, SameResultsFromManyThreads) {
  const auto tokenizer = Stories();
  ASSERT_NE(tokenizer, nullptr);
  const json fixture = Fixture("stories-mla-9m");
  std::vector<int> wrong(4, 0);
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&, t] {
      for (int round = 0; round < 3; ++round) {
        for (const auto& item : fixture["cases"]) {
          const auto ids = tokenizer->Encode(item["text"].get<std::string>(), {false, false});
          if (!ids.ok() || *ids != Ids(item["ids"])) ++wrong[t];
        }
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(wrong, std::vector<int>(4, 0));
}

// Beyond 32 bits: refused by its length, none of it being read (it is never there).
TEST(TokenizerTest, RefusesTextsOfGigabytes) {
  const auto tokenizer = Stories();
  ASSERT_NE(tokenizer, nullptr);
  constexpr size_t kBytes = (size_t{1} << 31) + 1;
  void* memory = ::mmap(nullptr, kBytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  ASSERT_NE(memory, MAP_FAILED);
  const auto ids = tokenizer->Encode({static_cast<const char*>(memory), kBytes});
  ::munmap(memory, kBytes);
  ASSERT_FALSE(ids.ok());
  EXPECT_EQ(ids.message(), "text of 2147483649 bytes, the limit is 1073741824");
}

// A merge loop that is quadratic in the length of a word takes minutes here.
TEST(TokenizerTest, LongWordsAreNotQuadratic) {
  const auto tokenizer = Stories();
  ASSERT_NE(tokenizer, nullptr);
  std::string text;
  for (uint32_t i = 0; i < 1'000'000; ++i) text += static_cast<char>('a' + (i * i % 7));
  for (const std::string& word : {text, std::string(1'000'000, ' '), std::string(1'000'000, 'a')}) {
    const auto ids = tokenizer->Encode(word, {false, false});
    ASSERT_TRUE(ids.ok()) << ids.message();
    EXPECT_EQ(*tokenizer->Decode(*ids), word);
  }
}

class ReleasedTokenizerTest : public testing::TestWithParam<const char*> {};

TEST_P(ReleasedTokenizerTest, EqualsHuggingFace) {
  const std::string dir = SharedDir() + "/tokenizers/" + GetParam();
  if (!Exists(dir + "/tokenizer.json")) GTEST_SKIP() << dir << " is absent";
  const auto tokenizer = LoadOrDie(dir);
  ASSERT_NE(tokenizer, nullptr);
  ExpectFixture(*tokenizer, Fixture(GetParam()));
}

TEST_P(ReleasedTokenizerTest, EqualsHuggingFaceOnWholeFiles) {
  const std::string dir = SharedDir() + "/tokenizers/" + GetParam();
  if (!Exists(dir + "/tokenizer.json")) GTEST_SKIP() << dir << " is absent";
  const auto tokenizer = LoadOrDie(dir);
  ASSERT_NE(tokenizer, nullptr);
  const json fixture = Fixture(GetParam());
  ASSERT_EQ(fixture["files"].size(), 4u);
  for (const auto& [name, expected] : fixture["files"].items()) {
    const std::string path = SharedDir() + "/text/" + name;
    if (!Exists(path)) GTEST_SKIP() << path << " is absent";
    const std::string text = ReadAll(path);
    const auto ids = tokenizer->Encode(text, {false, false});
    ASSERT_TRUE(ids.ok()) << ids.message();
    EXPECT_EQ(ids->size(), expected["tokens"].get<size_t>()) << name;
    EXPECT_EQ(Fnv1a64(*ids), std::stoull(expected["fnv1a64"].get<std::string>(), nullptr, 16))
        << name;
    if (std::string(GetParam()) != "qwen2_5") {  // it applies NFC
      EXPECT_EQ(*tokenizer->Decode(*ids), text);
    }
  }
}

INSTANTIATE_TEST_SUITE_P(All, ReleasedTokenizerTest,
                         testing::Values("deepseek_v3", "qwen2_5", "gpt2"));

TEST(TokenizerTest, AddBosTokenOfTheConfigIsFollowed) {
  const std::string dir = SharedDir() + "/tokenizers/";
  if (!Exists(dir + "deepseek_v3/tokenizer.json")) GTEST_SKIP() << dir << " is absent";
  // Its template adds nothing, its tokenizer_config.json says add_bos_token.
  const auto tokenizer = LoadOrDie(dir + "deepseek_v3");
  ASSERT_NE(tokenizer, nullptr);
  EXPECT_EQ(*tokenizer->Encode(""), std::vector<int32_t>{0});
  EXPECT_EQ(tokenizer->bos_id(), 0);
  EXPECT_EQ(tokenizer->eos_ids(), std::vector<int32_t>{1});
}

TEST(SentencePieceTest, EqualsTheLibrary) {
  const std::string dir = SharedDir() + "/models/stories15m";
  if (!Exists(dir + "/tokenizer.model")) GTEST_SKIP() << dir << " is absent";
  const auto tokenizer = LoadOrDie(dir);
  ASSERT_NE(tokenizer, nullptr);
  EXPECT_EQ(tokenizer->vocab_size(), 32000);
  EXPECT_EQ(tokenizer->bos_id(), 1);
  EXPECT_EQ(tokenizer->eos_ids(), std::vector<int32_t>{2});
  EXPECT_EQ(tokenizer->Encode("")->front(), 1);
  const json fixture = Fixture("stories15m");
  for (const auto& item : fixture["cases"]) {
    const auto text = item["text"].get<std::string>();
    SCOPED_TRACE("text: " + text.substr(0, 60));
    const auto ids = tokenizer->Encode(text, {false, false});
    ASSERT_TRUE(ids.ok()) << ids.message();
    EXPECT_EQ(*ids, Ids(item["ids"]));
    EXPECT_EQ(DecodeBothWays(*tokenizer, *ids, true), item["decoded"].get<std::string>());
  }
  for (const auto& item : fixture["random_ids"]) {
    SCOPED_TRACE("ids: " + item["ids"].dump());
    EXPECT_EQ(DecodeBothWays(*tokenizer, Ids(item["ids"]), true),
              item["decoded"].get<std::string>());
  }
  for (const auto& [name, expected] : fixture["files"].items()) {
    const std::string path = SharedDir() + "/text/" + name;
    if (!Exists(path)) GTEST_SKIP() << path << " is absent";
    std::istringstream text(ReadAll(path));
    std::vector<int32_t> all;
    std::string line;
    for (int i = 0; i < expected["lines"].get<int>() && std::getline(text, line); ++i) {
      const auto ids = tokenizer->Encode(line, {false, false});
      ASSERT_TRUE(ids.ok()) << ids.message();
      all.insert(all.end(), ids->begin(), ids->end());
    }
    EXPECT_EQ(all.size(), expected["tokens"].get<size_t>()) << name;
    EXPECT_EQ(Fnv1a64(all), std::stoull(expected["fnv1a64"].get<std::string>(), nullptr, 16))
        << name;
  }
}

TEST(SentencePieceTest, ControlPiecesTypedAsText) {
  const std::string dir = SharedDir() + "/models/stories15m";
  if (!Exists(dir + "/tokenizer.model")) GTEST_SKIP() << dir << " is absent";
  const auto tokenizer = LoadOrDie(dir);
  ASSERT_NE(tokenizer, nullptr);
  const auto typed = tokenizer->Encode("</s>", {false, false});
  ASSERT_TRUE(typed.ok());
  EXPECT_EQ(std::count(typed->begin(), typed->end(), 2), 0);
  EXPECT_EQ(*tokenizer->Encode("</s>", {false, true}), std::vector<int32_t>{2});
  EXPECT_EQ(*tokenizer->Decode(std::vector<int32_t>{1, 2}), "");
  EXPECT_EQ(*tokenizer->Decode(std::vector<int32_t>{1, 2}, false), "<s></s>");
}

TEST(SentencePieceTest, RefusesDamagedModels) {
  for (const std::string& model :
       {std::string(), std::string("not a model"), std::string(1000, '\xff'), std::string(64, '\0'),
        std::string("\x0a\x05\x0a\x01\x61\x18\x01", 7)}) {
    const auto tokenizer = Tokenizer::FromSentencePiece(model);
    ASSERT_FALSE(tokenizer.ok());
    EXPECT_EQ(tokenizer.error().code, ErrorCode::kCorruptFile);
  }
  const std::string path = SharedDir() + "/models/stories15m/tokenizer.model";
  if (!Exists(path)) GTEST_SKIP() << path << " is absent";
  const std::string whole = ReadAll(path);
  EXPECT_FALSE(Tokenizer::FromSentencePiece(whole.substr(0, whole.size() / 2 + 1)).ok());
}

}  // namespace
}  // namespace mla
