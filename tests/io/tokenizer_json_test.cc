// The parts of tokenizer.json one by one, and what is refused.
#include <gtest/gtest.h>

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "io/tokenizer/regex.h"
#include "io/tokenizer/tokenizer.h"
#include "io/tokenizer_fixtures.h"

namespace mla {
namespace {

using nlohmann::json;

TEST(TokenizerJsonTest, SyntheticTokenizersEqualHuggingFace) {
  const json fixture = Fixture("synthetic");
  ASSERT_GT(fixture["tokenizers"].size(), 20u);
  for (const auto& [name, item] : fixture["tokenizers"].items()) {
    SCOPED_TRACE("tokenizer: " + name);
    const auto tokenizer = Tokenizer::FromJson(item["tokenizer"].dump());
    ASSERT_TRUE(tokenizer.ok()) << tokenizer.message();
    ExpectFixture(**tokenizer, item);
  }
}

json Small() {
  return json::parse(R"({
    "added_tokens": [{"id": 5, "content": "<s>", "special": true}],
    "model": {"type": "BPE", "vocab": {"a": 0, "b": 1, "ab": 2, "<unk>": 3, "c": 8},
              "merges": [["a", "b"]]},
    "decoder": {"type": "Fuse"}})");
}

TEST(TokenizerJsonTest, SmallFileLoads) {
  const auto tokenizer = Tokenizer::FromJson(Small().dump());
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.message();
  EXPECT_EQ((*tokenizer)->vocab_size(), 9);
  EXPECT_EQ(*(*tokenizer)->Encode("ab<s>c", {true, true}), (std::vector<int32_t>{2, 5, 8}));
  EXPECT_EQ(*(*tokenizer)->Decode(std::vector<int32_t>{2, 5, 8}), "abc");
  // Ids 4, 6 and 7 are gaps.
  const auto gap = (*tokenizer)->Decode(std::vector<int32_t>{6});
  ASSERT_FALSE(gap.ok());
  EXPECT_NE(gap.message().find("token id 6"), std::string::npos) << gap.message();
}

struct Refusal {
  const char* pointer;  // what of Small() is replaced
  const char* value;
  ErrorCode code;
  const char* message;  // a part of it
};

class RefusalTest : public testing::TestWithParam<Refusal> {};

TEST_P(RefusalTest, NamesTheValue) {
  json file = Small();
  file[json::json_pointer(GetParam().pointer)] = json::parse(GetParam().value);
  const auto tokenizer = Tokenizer::FromJson(file.dump());
  ASSERT_FALSE(tokenizer.ok());
  EXPECT_EQ(tokenizer.error().code, GetParam().code) << tokenizer.message();
  EXPECT_NE(tokenizer.message().find(GetParam().message), std::string::npos) << tokenizer.message();
}

constexpr ErrorCode kCorrupt = ErrorCode::kCorruptFile;
constexpr ErrorCode kUnsupported = ErrorCode::kUnsupported;

INSTANTIATE_TEST_SUITE_P(
    All, RefusalTest,
    testing::Values(
        Refusal{"/model", "[]", kCorrupt, "model is a list"},
        Refusal{"/model", "null", kCorrupt, "model is missing"},
        Refusal{"/model/type", R"("Unigram")", kUnsupported, "Unigram"},
        Refusal{"/model/dropout", "0.1", kUnsupported, "dropout is 0.1"},
        Refusal{"/model/end_of_word_suffix", R"("</w>")", kUnsupported, "</w>"},
        Refusal{"/model/unk_token", R"("<no>")", kCorrupt, "<no>"},
        Refusal{"/model/byte_fallback", "1", kCorrupt, "byte_fallback is 1"},
        Refusal{"/model/vocab", "3", kCorrupt, "vocab is 3"},
        Refusal{"/model/vocab/x", R"("7")", kCorrupt, "\"7\""},
        Refusal{"/model/vocab/x", "7.5", kCorrupt, "7.5"},
        Refusal{"/model/vocab/x", "-1", kCorrupt, "id -1"},
        Refusal{"/model/vocab/x", "2097152", kCorrupt, "id 2097152"},
        Refusal{"/model/vocab/x", "9223372036854775807", kCorrupt, "9223372036854775807"},
        Refusal{"/model/vocab/x", "2", kCorrupt, "both have id 2"},
        Refusal{"/model/merges", "null", kCorrupt, "merges"},
        Refusal{"/model/merges/0", R"(["a", "z"])", kCorrupt, "\"z\" is not in vocab"},
        Refusal{"/model/merges/0", R"(["b", "a"])", kCorrupt, "\"ba\" is not in vocab"},
        Refusal{"/model/merges/0", R"(["a"])", kCorrupt, "merge 0"},
        Refusal{"/model/merges/0", R"("ab")", kCorrupt, "merge 0 is \"ab\""},
        Refusal{"/model/merges/0", R"("a b c")", kCorrupt, "a b c"},
        Refusal{"/model/merges/0", "5", kCorrupt, "merge 0 is 5"},
        Refusal{"/added_tokens", "{}", kCorrupt, "added_tokens"},
        Refusal{"/added_tokens/0/id", "-4", kCorrupt, "id -4"},
        Refusal{"/added_tokens/0/id", "2", kCorrupt, "which is \"ab\""},
        Refusal{"/added_tokens/0/content", R"("ab")", kCorrupt, "but 2"},
        Refusal{"/added_tokens/0/content", "[]", kCorrupt, "content"},
        Refusal{"/added_tokens/0/content", R"("")", kCorrupt, "content is empty"},
        Refusal{"/added_tokens/1", R"({"id": 5, "content": "<t>"})", kCorrupt, "both have id 5"},
        Refusal{"/added_tokens/0/special", "1", kCorrupt, "special is 1"},
        Refusal{"/normalizer", R"({"type": "Nmt"})", kUnsupported, "Nmt"},
        Refusal{"/normalizer", R"("NFC")", kCorrupt, "NFC"},
        Refusal{"/normalizer", R"({"type": "Sequence", "normalizers": [3]})", kCorrupt, "3"},
        Refusal{"/pre_tokenizer", R"({"type": "UnicodeScripts"})", kUnsupported, "UnicodeScripts"},
        Refusal{"/pre_tokenizer",
                R"({"type": "Split", "pattern": {"Regex": "("}, "behavior": "Isolated"})",
                kUnsupported, "regular expression \"(\""},
        Refusal{"/pre_tokenizer",
                R"({"type": "Split", "pattern": {"Regex": "[a-z&&[^b]]"}, "behavior": "Isolated"})",
                kUnsupported, "'&&' in a class"},
        Refusal{"/pre_tokenizer",
                R"({"type": "Split", "pattern": {"String": " "}, "behavior": "Sideways"})",
                kUnsupported, "Sideways"},
        Refusal{"/pre_tokenizer", R"({"type": "Split", "pattern": 4, "behavior": "Removed"})",
                kCorrupt, "pattern is 4"},
        Refusal{"/pre_tokenizer", R"({"type": "Metaspace", "replacement": "ab"})", kCorrupt, "ab"},
        Refusal{"/post_processor", R"({"type": "BertProcessing"})", kUnsupported, "BertProcessing"},
        Refusal{"/post_processor", R"({"type": "TemplateProcessing", "single": []})", kCorrupt,
                "no Sequence"},
        Refusal{"/post_processor",
                R"({"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "<s>"}},
                    {"Sequence": {"id": "A"}}], "special_tokens": {"<s>": {"ids": [77]}}})",
                kCorrupt, "77"},
        Refusal{"/decoder", R"({"type": "CTC"})", kUnsupported, "CTC"},
        Refusal{"/decoder", R"({"type": "Strip", "content": " ", "start": -1, "stop": 0})",
                kCorrupt, "-1"},
        Refusal{"/decoder",
                R"({"type": "Sequence", "decoders": [{"type": "Fuse"}, {"type": "ByteLevel"}]})",
                kUnsupported, "after Fuse"}));

TEST(TokenizerJsonTest, RefusesWhatIsNotJson) {
  for (const char* text : {"", "{", "[]", "{\"model\": {\"vocab\": {\"a\": 0, \"a\": 1}}}"}) {
    const auto tokenizer = Tokenizer::FromJson(text);
    ASSERT_FALSE(tokenizer.ok()) << text;
    EXPECT_EQ(tokenizer.error().code, ErrorCode::kCorruptFile);
  }
}

TEST(TokenizerJsonTest, RefusesGrowthWithoutEnd) {
  json steps = json::array();
  for (int i = 0; i < 30; ++i) {
    steps.push_back({{"type", "Replace"}, {"pattern", {{"String", "a"}}}, {"content", "aaaa"}});
  }
  json file = Small();
  file["normalizer"] = {{"type", "Sequence"}, {"normalizers", steps}};
  const auto tokenizer = Tokenizer::FromJson(file.dump());
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.message();
  const auto ids = (*tokenizer)->Encode("aaaa");
  ASSERT_FALSE(ids.ok());
  EXPECT_EQ(ids.error().code, ErrorCode::kUnsupported);
}

TEST(TokenizerJsonTest, RefusesNestingWithoutEnd) {
  json step = {{"type", "NFC"}};
  for (int i = 0; i < 20; ++i) step = {{"type", "Sequence"}, {"normalizers", json::array({step})}};
  json file = Small();
  file["normalizer"] = step;
  EXPECT_FALSE(Tokenizer::FromJson(file.dump()).ok());
}

// "<0x-1>" and its like are pieces as any other: no byte is read out of them.
TEST(TokenizerJsonTest, ByteTokensAreSpelledExactly) {
  json file = Small();
  file["model"]["byte_fallback"] = true;
  const std::vector<std::string> odd = {"<0x-1>", "<0x+1>", "<0xGG>", "<0x1>", "<0x100>"};
  for (size_t i = 0; i < odd.size(); ++i) file["model"]["vocab"][odd[i]] = 20 + i;
  file["decoder"] = {{"type", "ByteFallback"}};
  file["pre_tokenizer"] = nullptr;
  const auto tokenizer = Tokenizer::FromJson(file.dump());
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.message();
  for (size_t i = 0; i < odd.size(); ++i) {
    EXPECT_EQ(*(*tokenizer)->Decode(std::vector<int32_t>{static_cast<int32_t>(20 + i)}), odd[i]);
  }
}

// Ids may have gaps; what is in one is refused, not made up.
TEST(TokenizerJsonTest, GapsBetweenIdsAreNoTokens) {
  json file = Small();
  file["model"]["vocab"]["far"] = 1000;
  const auto tokenizer = Tokenizer::FromJson(file.dump());
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.message();
  EXPECT_EQ((*tokenizer)->vocab_size(), 1001);
  EXPECT_FALSE((*tokenizer)->HasId(999));
  EXPECT_EQ((*tokenizer)->Decode(std::vector<int32_t>{999}).message(),
            "token id 999 is not in use");
}

TEST(TokenizerJsonTest, ConfigSaysWhatIsPutAroundAText) {
  const auto encode = [](const char* config) {
    const auto tokenizer = Tokenizer::FromJson(Small().dump(), config);
    EXPECT_TRUE(tokenizer.ok()) << tokenizer.message();
    return tokenizer.ok() ? *(*tokenizer)->Encode("ab") : std::vector<int32_t>();
  };
  EXPECT_EQ(encode(""), (std::vector<int32_t>{2}));
  EXPECT_EQ(encode(R"({"bos_token": "<s>"})"), (std::vector<int32_t>{2}));
  EXPECT_EQ(encode(R"({"bos_token": "<s>", "add_bos_token": true})"), (std::vector<int32_t>{5, 2}));
  EXPECT_EQ(encode(R"({"eos_token": {"content": "c"}, "add_eos_token": true})"),
            (std::vector<int32_t>{2, 8}));
  const auto unknown = Tokenizer::FromJson(Small().dump(), R"({"bos_token": "<q>"})");
  ASSERT_FALSE(unknown.ok());
  EXPECT_NE(unknown.message().find("<q>"), std::string::npos) << unknown.message();
  EXPECT_FALSE(Tokenizer::FromJson(Small().dump(), R"({"add_bos_token": true})").ok());
  EXPECT_FALSE(Tokenizer::FromJson(Small().dump(), R"({"bos_token": 3})").ok());
}

TEST(TokenizerJsonTest, LoadNamesWhatItLookedFor) {
  const auto tokenizer = Tokenizer::Load("/nonexistent-model");
  ASSERT_FALSE(tokenizer.ok());
  EXPECT_EQ(tokenizer.error().code, ErrorCode::kNotFound);
  for (const char* name : {"/nonexistent-model", "tokenizer.json", "tokenizer.model"}) {
    EXPECT_NE(tokenizer.message().find(name), std::string::npos) << tokenizer.message();
  }
}

std::vector<std::pair<size_t, size_t>> FindAll(std::string_view pattern, std::string_view text) {
  const auto regex = Regex::Compile(pattern);
  EXPECT_TRUE(regex.ok()) << regex.message();
  if (!regex.ok()) return {};
  RegexScratch scratch;
  std::vector<RegexMatch> matches;
  EXPECT_TRUE(regex->FindAll(text, &scratch, &matches).ok());
  std::vector<std::pair<size_t, size_t>> out;
  for (const RegexMatch& match : matches) out.emplace_back(match.begin, match.end);
  return out;
}

using Ranges = std::vector<std::pair<size_t, size_t>>;

TEST(RegexTest, ReadsRubysSyntax) {
  EXPECT_EQ(FindAll("\\s", "a\u180e\u00a0b"), (Ranges{{4, 6}}));  // not U+180E
  EXPECT_EQ(FindAll("\\h+", "xyz0fF g"), (Ranges{{3, 6}}));       // hex digits
  EXPECT_EQ(FindAll("^b$", "a\nb\nc"), (Ranges{{2, 3}}));         // lines
  EXPECT_EQ(FindAll("(?m:a.b)", "a\nb"), (Ranges{{0, 3}}));       // dot matches all
  EXPECT_EQ(FindAll("(?i)ab|c", "ABC"), (Ranges{{0, 2}, {2, 3}}));
  EXPECT_EQ(FindAll("\\w+", "_a\u00b2\u0301-"), (Ranges{{0, 6}}));
  EXPECT_EQ(FindAll("\\p{Letter}", "1\u00e9"), (Ranges{{1, 3}}));
  EXPECT_EQ(FindAll("\\u0041|\\x{1F600}", "A\U0001f600"), (Ranges{{0, 1}, {1, 5}}));
  EXPECT_EQ(FindAll("x*", "axxb"), (Ranges{{0, 0}, {1, 3}, {4, 4}}));  // no empty match at 3
}

// Unicode 15's pink heart and a letter of CJK extension I, to a PCRE2 that knows neither.
TEST(RegexTest, KnowsCharactersYoungerThanItsLibrary) {
  EXPECT_EQ(FindAll("\\p{S}", "a\U0001fa77b"), (Ranges{{1, 5}}));
  EXPECT_EQ(FindAll("\\p{Han}+", "\u4e00\U0002ebf0x"), (Ranges{{0, 7}}));
  EXPECT_EQ(FindAll("[^\\p{L}]", "\u1c89\U0002ebf0-"), (Ranges{{7, 8}}));
}

TEST(RegexTest, RefusesWhatMeansSomethingElse) {
  for (const char* pattern :
       {"(*UTF)a", "[a[b]]", "[[:alpha:]]", "a{,2}", "a{1,2}+", "\\Qa", "\\C", "a(?i)b", "(?R)",
        "(?<n>a)", "\\xff", "[\\S]", "\\pL", "[", "(?s:a)"}) {
    const auto regex = Regex::Compile(pattern);
    ASSERT_FALSE(regex.ok()) << pattern;
    EXPECT_EQ(regex.error().code, ErrorCode::kUnsupported);
  }
}

TEST(RegexTest, BacktrackingIsBounded) {
  const auto regex = Regex::Compile("(a+)+(b|c)d");
  ASSERT_TRUE(regex.ok()) << regex.message();
  RegexScratch scratch;
  std::vector<RegexMatch> matches;
  const Status status = regex->FindAll(std::string(60, 'a') + "xd", &scratch, &matches);
  ASSERT_FALSE(status.ok());
  EXPECT_EQ(status.error().code, ErrorCode::kUnsupported);
}

}  // namespace
}  // namespace mla
