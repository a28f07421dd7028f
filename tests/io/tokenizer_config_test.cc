// Special and added tokens of directories from before tokenizer.json.
#include "io/tokenizer/tokenizer_config.h"

#include <gtest/gtest.h>

#include <filesystem>

#include "io/chat_template/chat_template.h"
#include "io/temp_dir.h"
#include "io/tokenizer_fixtures.h"

namespace mla::test {
namespace {

TEST(TokenizerConfig, OlderFilesFillIn) {
  const TempDir dir;
  EXPECT_EQ(*ReadTokenizerConfig(dir.path()), "");
  dir.Write("special_tokens_map.json",
            R"({"bos_token": "<b>", "unk_token": {"content": "<u>", "lstrip": false}})");
  auto config = Json::parse(*ReadTokenizerConfig(dir.path()));
  EXPECT_EQ(config["bos_token"], "<b>");
  dir.Write("tokenizer_config.json", R"({"bos_token": "<old>", "eos_token": "<e>"})");
  dir.Write("added_tokens.json", R"({"<x>": 12, "<e>": 11})");
  config = Json::parse(*ReadTokenizerConfig(dir.path()));
  EXPECT_EQ(config["bos_token"], "<b>");
  EXPECT_EQ(config["eos_token"], "<e>");
  const auto tokens = AddedTokensOf(config);
  ASSERT_TRUE(tokens.ok()) << tokens.message();
  ASSERT_EQ(tokens->size(), 2u);
  EXPECT_EQ((*tokens)[0].content, "<e>");
  EXPECT_TRUE((*tokens)[0].special);  // it is named for a purpose
  EXPECT_EQ((*tokens)[1].id, 12);
  EXPECT_FALSE((*tokens)[1].special);
  const auto variables = ChatTemplate::LoadVariables(dir.path());
  ASSERT_TRUE(variables.ok()) << variables.message();
  EXPECT_EQ(variables->bos_token, "<b>");
  EXPECT_EQ(variables->eos_token, "<e>");
  // A newer tokenizer_config.json says it all.
  dir.Write("tokenizer_config.json",
            R"({"bos_token": "<new>", "added_tokens_decoder": {"3": {"content": "<n>"}}})");
  config = Json::parse(*ReadTokenizerConfig(dir.path()));
  EXPECT_EQ(config["bos_token"], "<new>");
  EXPECT_EQ(AddedTokensOf(config)->at(0).content, "<n>");
}

TEST(TokenizerConfig, RefusesWithFileAndValue) {
  const auto error = [](const char* name, const char* text) {
    const TempDir dir;
    dir.Write(name, text);
    const auto config = ReadTokenizerConfig(dir.path());
    return config.ok() ? std::string() : std::string(config.message());
  };
  EXPECT_NE(error("added_tokens.json", R"({"<x>": -1})")
                .find("added_tokens.json: \"<x>\" is -1, want an id from 0 to"),
            std::string::npos);
  EXPECT_NE(error("added_tokens.json", R"({"<x>": "1"})").find("\"<x>\" is \"1\""),
            std::string::npos);
  EXPECT_NE(error("added_tokens.json", R"({"a": 1, "b": 1})").find("two tokens have id 1"),
            std::string::npos);
  EXPECT_NE(error("added_tokens.json", "[]").find("added_tokens.json is a list of 0, want an obj"),
            std::string::npos);
  EXPECT_NE(error("special_tokens_map.json", "{").find("special_tokens_map.json: line 1"),
            std::string::npos);
  for (const char* bad :
       {R"({"added_tokens_decoder": []})", R"({"added_tokens_decoder": {"-1": {"content": "x"}}})",
        R"({"added_tokens_decoder": {"9999999": {"content": "x"}}})",
        R"({"added_tokens_decoder": {"1x": {"content": "x"}}})",
        R"({"added_tokens_decoder": {"1": "x"}})",
        R"({"added_tokens_decoder": {"1": {"special": true}}})"}) {
    const auto tokens = AddedTokensOf(Json::parse(bad));
    ASSERT_FALSE(tokens.ok()) << bad;
    EXPECT_NE(tokens.message().find("added_tokens_decoder"), std::string::npos);
  }
}

TEST(TokenizerConfig, SentencePieceModelsHaveTheirAddedTokens) {
  const std::string shared = SharedDir() + "/models/stories15m";
  if (!Exists(shared + "/tokenizer.model")) GTEST_SKIP() << shared << " is absent";
  const TempDir dir;
  std::filesystem::copy(shared + "/tokenizer.model", dir / "tokenizer.model");
  dir.Write("added_tokens.json", R"({"<|im_end|>": 32000, "<tool>": 32001, "<s>": 1})");
  dir.Write("special_tokens_map.json", R"({"eos_token": "<|im_end|>"})");
  const auto loaded = Tokenizer::Load(dir.path());
  ASSERT_TRUE(loaded.ok()) << loaded.message();
  const Tokenizer& tokenizer = **loaded;
  EXPECT_EQ(tokenizer.vocab_size(), 32002);
  EXPECT_EQ(tokenizer.eos_ids(), std::vector<int32_t>{32000});
  EXPECT_TRUE(tokenizer.IsSpecial(32000));
  EXPECT_FALSE(tokenizer.IsSpecial(32001));
  EXPECT_EQ(tokenizer.PieceToId("<tool>"), 32001);
  // Special ones only where asked for, others in any text.
  EXPECT_EQ(*tokenizer.Encode("<|im_end|>", {false, true}), std::vector<int32_t>{32000});
  const auto typed = *tokenizer.Encode("<|im_end|><tool>", {false, false});
  EXPECT_EQ(std::count(typed.begin(), typed.end(), 32000), 0);
  EXPECT_EQ(typed.back(), 32001);
  const std::vector<int32_t> ids = *tokenizer.Encode("Hello<tool>", {false, true});
  EXPECT_EQ(DecodeBothWays(tokenizer, ids, false), "Hello<tool>");
  EXPECT_EQ(DecodeBothWays(tokenizer, {32000, 32001}, true), "<tool>");
  dir.Write("added_tokens.json", R"({"<|im_end|>": 5})");
  const auto taken = Tokenizer::Load(dir.path());
  ASSERT_FALSE(taken.ok());
  EXPECT_NE(taken.message().find("\"<|im_end|>\" has id 5, which is \"<0x02>\""), std::string::npos)
      << taken.message();
}

}  // namespace
}  // namespace mla::test
