// The tokenizer inside a GGUF file, of both kinds, and what is refused in it.
#include "io/tokenizer/gguf_tokenizer.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstdio>
#include <functional>
#include <nlohmann/json.hpp>

#include "io/json.h"
#include "support/gguf_bytes.h"

namespace mla::test {
namespace {

using Ids = std::vector<int32_t>;

Result<std::unique_ptr<Tokenizer>> LoadFrom(const GgufBytes& builder) {
  const std::string bytes = builder.Build();
  const auto file = GgufFile::Parse(std::as_bytes(std::span(bytes)), "test.gguf");
  if (!file.ok()) return file.error();
  return LoadGgufTokenizer(*file);  // keeps nothing of the file
}

struct BytePairs {
  std::vector<std::string> tokens = {"a",  "b",        "1",   "2",    "\u0120",
                                     "ab", "\u0120ab", "<s>", "</s>", "<x>"};
  std::vector<int32_t> types = {1, 1, 1, 1, 1, 1, 1, 3, 3, 4};
  std::vector<std::string> merges = {
      "a b",
      "\u0120 ab",
  };
  std::string pre = "smollm";
  std::string model = "gpt2";

  GgufBytes File() const {
    GgufBytes file;
    file.Str("tokenizer.ggml.model", model).Str("tokenizer.ggml.pre", pre);
    file.Strs("tokenizer.ggml.tokens", tokens).I32s("tokenizer.ggml.token_type", types);
    file.Strs("tokenizer.ggml.merges", merges);
    file.U32("tokenizer.ggml.bos_token_id", 7).U32("tokenizer.ggml.eos_token_id", 8);
    return file;
  }
};

TEST(GgufTokenizer, BytePairs) {
  const auto loaded = LoadFrom(BytePairs().File().Bool("tokenizer.ggml.add_bos_token", true));
  ASSERT_TRUE(loaded.ok()) << loaded.message();
  const Tokenizer& tokenizer = **loaded;
  EXPECT_EQ(*tokenizer.Encode("ab ab12"), (Ids{7, 5, 6, 2, 3}));
  EXPECT_EQ(*tokenizer.Encode("ab", {.add_special_tokens = false}), (Ids{5}));
  // User-defined tokens are found in any text, control tokens only where asked for.
  EXPECT_EQ(*tokenizer.Encode("a<x>b", {.add_special_tokens = false}), (Ids{0, 9, 1}));
  EXPECT_EQ(*tokenizer.Encode("a</s>", {.add_special_tokens = false, .parse_special = true}),
            (Ids{0, 8}));
  EXPECT_EQ(*tokenizer.Encode("a</s>", {.add_special_tokens = false}), (Ids{0}));
  EXPECT_EQ(*tokenizer.Decode(Ids{7, 5, 6, 9, 2}), "ab ab<x>1");
  EXPECT_TRUE(tokenizer.IsSpecial(7));
  EXPECT_FALSE(tokenizer.IsSpecial(9));
  EXPECT_EQ(tokenizer.bos_id(), 7);
  EXPECT_EQ(tokenizer.eos_ids(), Ids{8});
}

TEST(GgufTokenizer, BosIsLeftOutUnlessStated) {
  const auto tokenizer = LoadFrom(BytePairs().File());
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.message();
  EXPECT_EQ(*(*tokenizer)->Encode("ab"), Ids{5});
  BytePairs llama3;
  llama3.pre = "llama-bpe";  // adds it
  const auto other = LoadFrom(llama3.File());
  ASSERT_TRUE(other.ok()) << other.message();
  EXPECT_EQ(*(*other)->Encode("ab"), (Ids{7, 5}));
}

TEST(GgufTokenizer, EveryPreTokenizerLoadsAndIsRecognised) {
  const std::string known = KnownGgufPreTokenizers();
  for (const char* pre : {"default", "llama-bpe", "deepseek-llm", "deepseek-v3", "deepseek-coder",
                          "qwen2", "gpt-2", "smollm", "glm4"}) {
    SCOPED_TRACE(pre);
    EXPECT_NE(known.find(pre), std::string::npos);
    BytePairs pairs;
    pairs.pre = pre;
    const auto tokenizer = LoadFrom(pairs.File());
    ASSERT_TRUE(tokenizer.ok()) << tokenizer.message();
    EXPECT_EQ(*(*tokenizer)->Encode(" ab", {.add_special_tokens = false}), Ids{6});
    if (std::string_view(pre) != "default") {  // its second step is spelled out
      EXPECT_EQ(GgufPreOf(PreTokenizerOfGguf(pre), std::string_view(pre) == "llama-bpe"), pre);
    }
  }
}

// The released tokenizers cut as the names say.
TEST(GgufTokenizer, RecognisesTheBundledModels) {
  const auto json = ReadJsonFile(MLA_SOURCE_DIR "/models/stories-mla-9m/tokenizer.json");
  ASSERT_TRUE(json.ok()) << json.message();
  EXPECT_EQ(GgufPreOf((*json)["pre_tokenizer"], false), "deepseek-v3");
  EXPECT_EQ(GgufPreOf(nlohmann::json{{"type", "Whitespace"}}, false), "");
}

GgufBytes Pieces(std::vector<std::string> tokens, std::vector<int32_t> types,
                 std::vector<float> scores) {
  GgufBytes file;
  file.Str("tokenizer.ggml.model", "llama").Strs("tokenizer.ggml.tokens", tokens);
  file.I32s("tokenizer.ggml.token_type", types).F32s("tokenizer.ggml.scores", scores);
  file.U32("tokenizer.ggml.bos_token_id", 1).U32("tokenizer.ggml.eos_token_id", 2);
  return file.U32("tokenizer.ggml.unknown_token_id", 0);
}

TEST(GgufTokenizer, SentencePieces) {
  std::vector<std::string> tokens = {"<unk>", "<s>", "</s>"};
  std::vector<int32_t> types = {2, 3, 3};
  std::vector<float> scores(3);
  for (int i = 0; i < 256; ++i) {
    char text[8];
    std::snprintf(text, sizeof(text), "<0x%02X>", i);
    tokens.push_back(text);
    types.push_back(6);
    scores.push_back(0);
  }
  // The pair of the highest score is joined first: "ab" before "bc".
  for (const char* piece : {"\u2581", "a", "b", "c", "ab", "bc", "\u2581ab", "\u2581a"}) {
    tokens.push_back(piece);
    types.push_back(1);
    scores.push_back(-static_cast<float>(tokens.size()));
  }
  const auto loaded = LoadFrom(Pieces(tokens, types, scores));
  ASSERT_TRUE(loaded.ok()) << loaded.message();
  const Tokenizer& tokenizer = **loaded;
  EXPECT_EQ(*tokenizer.Encode("abc"), (Ids{1, 265, 262}));
  EXPECT_EQ(*tokenizer.Encode("a~", {.add_special_tokens = false}), (Ids{266, 3 + '~'}));
  EXPECT_EQ(*tokenizer.Decode(*tokenizer.Encode("abc a\u00e9")), "abc a\u00e9");
  EXPECT_EQ(tokenizer.eos_ids(), Ids{2});
  const auto bare = LoadFrom(Pieces(tokens, types, scores)
                                 .Bool("tokenizer.ggml.add_bos_token", false)
                                 .Bool("tokenizer.ggml.add_space_prefix", false));
  ASSERT_TRUE(bare.ok()) << bare.message();
  EXPECT_EQ(*(*bare)->Encode("abc"), (Ids{263, 262}));
}

TEST(GgufTokenizer, RefusesWithKeyAndValue) {
  const auto refuses = [](const GgufBytes& file, const std::string& message) {
    const auto tokenizer = LoadFrom(file);
    ASSERT_FALSE(tokenizer.ok()) << message;
    EXPECT_NE(tokenizer.message().find(message), std::string::npos) << tokenizer.message();
    EXPECT_EQ(tokenizer.message().find("test.gguf: "), 0u) << tokenizer.message();
  };
  const auto with = [](const std::function<void(BytePairs&)>& edit) {
    BytePairs pairs;
    edit(pairs);
    return pairs.File();
  };
  refuses(GgufBytes(), "tokenizer.ggml.model is missing");
  refuses(with([](BytePairs& p) { p.model = "bert"; }), "tokenizer.ggml.model is \"bert\"");
  refuses(with([](BytePairs& p) { p.pre = "x"; }), "pre is \"x\", want one of gpt-2");
  refuses(with([](BytePairs& p) { p.tokens[1] = "a"; }), "tokens[1] is \"a\", which is there");
  refuses(with([](BytePairs& p) { p.tokens[1] = "\xff"; }), "tokens[1] is not UTF-8");
  refuses(with([](BytePairs& p) { p.tokens[1] = std::string(70000, 'x'); }), "70000 bytes");
  refuses(with([](BytePairs& p) { p.types.pop_back(); }), "token_type is an array of 9 i32");
  refuses(with([](BytePairs& p) { p.types[3] = 7; }), "token_type[3] is 7, want 1 to 6");
  refuses(with([](BytePairs& p) { p.types[3] = -1; }), "token_type[3] is -1");
  refuses(with([](BytePairs& p) { p.merges[0] = "a z"; }), "\"z\" is not in vocab");
  refuses(with([](BytePairs& p) { p.merges[0] = "ab"; }), "merge 0");
  refuses(with([](BytePairs& p) { p.tokens = {}, p.types = {}; }), "array of 0 str, want 1 to");
  GgufBytes file;
  file.Str("tokenizer.ggml.model", "gpt2").Strs("tokenizer.ggml.tokens", {"a"});
  file.Strs("tokenizer.ggml.merges", {}).U32("tokenizer.ggml.bos_token_id", 1);
  refuses(file, "tokenizer.ggml.bos_token_id is 1, want an integer from 0 to 0");
  refuses(Pieces({"<unk>", "<s>", "</s>"}, {2, 3, 3}, {0}), "scores is an array of 1 f32");
  refuses(Pieces({"<unk>", "<s>", "</s>", "<0x-1>"}, {2, 3, 3, 6}, {0, 0, 0, 0}),
          "byte token \"<0x-1>\", want <0x00> to <0xFF>");
  refuses(Pieces({"<unk>", "<s>", "</s>"}, {2, 3, 3}, {0, 0, std::nanf("")}), "scores[2] is nan");
}

TEST(GgufTokenizer, ByteTokensAreSpelledExactly) {
  EXPECT_EQ(ParseByteToken("<0x00>"), 0);
  EXPECT_EQ(ParseByteToken("<0xFF>"), 255);
  EXPECT_EQ(ParseByteToken("<0x4E>"), 0x4e);
  for (const char* bad : {"", "<0x>", "<0x-1>", "<0x+1>", "<0x 1>", "<0x1>", "<0x001>", "<0xff>",
                          "<0xG0>", "<0x4E", "x0x4E>", "<0X4E>"}) {
    EXPECT_EQ(ParseByteToken(bad), -1) << bad;
  }
}

TEST(GgufTokenizer, GivesTheChatTemplate) {
  const auto read = [](const GgufBytes& builder) {
    const std::string bytes = builder.Build();
    return ReadGgufChatTemplate(*GgufFile::Parse(std::as_bytes(std::span(bytes)), "test.gguf"));
  };
  EXPECT_EQ(**read(GgufBytes().Str("tokenizer.chat_template", "{{ x }}")), "{{ x }}");
  EXPECT_FALSE(read(GgufBytes())->has_value());
  EXPECT_FALSE(read(GgufBytes().U32("tokenizer.chat_template", 1)).ok());
}

}  // namespace
}  // namespace mla::test
