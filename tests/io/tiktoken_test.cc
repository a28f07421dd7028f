// tiktoken.model: equal to tiktoken itself on the fixture's texts, and what is refused.
#include "io/tokenizer/tiktoken.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "io/temp_dir.h"
#include "io/tokenizer/gguf_tokenizer.h"
#include "io/tokenizer/gguf_tokenizer_writer.h"
#include "io/tokenizer_fixtures.h"

namespace mla::test {
namespace {

// A directory as Kimi-K2's is.
void WriteFixture(const Json& fixture, const TempDir& dir) {
  dir.Write("tiktoken.model", fixture["model"].get<std::string>());
  dir.Write("tokenizer_config.json", fixture["config"].dump());
}

void ExpectCases(const Tokenizer& tokenizer, const Json& fixture) {
  for (const auto& item : fixture["cases"]) {
    const auto text = item["text"].get<std::string>();
    SCOPED_TRACE("text: " + text.substr(0, 60));
    for (const bool parse_special : {false, true}) {
      const auto ids = tokenizer.Encode(text, {false, parse_special});
      ASSERT_TRUE(ids.ok()) << ids.message();
      EXPECT_EQ(*ids, Ids(item[parse_special ? "ids_parse_special" : "ids"])) << parse_special;
      EXPECT_EQ(DecodeBothWays(tokenizer, *ids, false), text);
    }
  }
}

TEST(Tiktoken, EqualsTheLibrary) {
  const Json fixture = Fixture("kimi_tiktoken");
  const TempDir dir;
  WriteFixture(fixture, dir);
  const auto loaded = Tokenizer::Load(dir.path());
  ASSERT_TRUE(loaded.ok()) << loaded.message();
  const Tokenizer& tokenizer = **loaded;
  ExpectCases(tokenizer, fixture);
  EXPECT_EQ(tokenizer.vocab_size(), 1756);
  EXPECT_EQ(tokenizer.bos_id(), 1500);
  EXPECT_EQ(tokenizer.eos_ids(), std::vector<int32_t>{1501});
  EXPECT_EQ(*tokenizer.IdToPiece(1507), "<|im_end|>");
  EXPECT_EQ(*tokenizer.IdToPiece(1508), "<|reserved_token_1508|>");
  EXPECT_TRUE(tokenizer.IsSpecial(1755));
}

TEST(Tiktoken, GoesIntoGguf) {
  const Json fixture = Fixture("kimi_tiktoken");
  const TempDir dir;
  WriteFixture(fixture, dir);
  GgufMetadata metadata;
  const auto notes = AddGgufTokenizer(dir.path(), {.vocab_size = 1756, .eos_ids = {}}, metadata);
  ASSERT_TRUE(notes.ok()) << notes.message();
  const std::string bytes = *GgufHeader(metadata, {});
  const auto file = GgufFile::Parse(std::as_bytes(std::span(bytes)), "written");
  ASSERT_TRUE(file.ok()) << file.message();
  EXPECT_EQ(*file->GetString("tokenizer.ggml.pre"), "kimi-k2");
  const auto tokenizer = LoadGgufTokenizer(*file);
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.message();
  ExpectCases(**tokenizer, fixture);
}

TEST(Tiktoken, RefusesWithLineAndValue) {
  const Json fixture = Fixture("kimi_tiktoken");
  const std::string good = fixture["model"];
  const auto error = [&](const std::string& model, const Json& config) {
    const auto json = TiktokenToJson(model, config);
    return json.ok() ? std::string() : std::string(json.message());
  };
  EXPECT_EQ(error(good, fixture["config"]), "");
  const std::pair<std::string, const char*> cases[] = {
      {"!!!! 0\n", "line 1 is \"!!!! 0\", want base64, a space and a rank"},
      {"IQ= 0\n", "line 1 is \"IQ= 0\""},
      {"I=== 0\n", "line 1 is"},
      {"IQ==\n", "line 1 is \"IQ==\""},
      {"IQ== -1\n", "line 1 is \"IQ== -1\""},
      {"IQ== 0x\n", "line 1 is"},
      {"IQ== 99999999999\n", "line 1 is"},
      {"IQ== 2000000\n", "line 1 is \"IQ== 2000000\""},  // more than there can be lines
      {" 0\n", "line 1 is \" 0\""},
      {"IQ== 0\nIg== 0\n", "line 2: rank 0 is there before"},
      {"IQ== 0\nIg== 2\n", "rank 1 has no token"},
      {"IQ== 0\nIQ== 1\n", "ranks 0 and 1 are the same token"},
      {"IQ== 0\n", "the byte 0 has no token"},
  };
  for (const auto& [model, want] : cases) {
    EXPECT_NE(error(model, fixture["config"]).find(want), std::string::npos)
        << want << " in: " << error(model, fixture["config"]);
  }
  std::string lengthy;
  for (int i = 0; i < 100; ++i) lengthy += "YWFh";
  EXPECT_NE(error(lengthy + " 0\n", fixture["config"]).find("a token of 300 bytes, want 1 to 256"),
            std::string::npos);
  Json other = fixture["config"];
  other["tokenizer_class"] = "QWenTokenizer";
  EXPECT_NE(error(good, other).find("tokenizer_class is \"QWenTokenizer\", want \"TikToken"),
            std::string::npos)
      << error(good, other);
  EXPECT_NE(error(good, Json::object()).find("tokenizer_class is missing"), std::string::npos);
  const TempDir dir;
  dir.Write("tiktoken.model", good);
  const auto loaded = Tokenizer::Load(dir.path());
  ASSERT_FALSE(loaded.ok());
  EXPECT_TRUE(loaded.message().starts_with(dir / "tiktoken.model")) << loaded.message();
}

}  // namespace
}  // namespace mla::test
