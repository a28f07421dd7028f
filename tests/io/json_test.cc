#include "io/json.h"

#include <gtest/gtest.h>

#include <chrono>
#include <nlohmann/json.hpp>

#include "io/temp_dir.h"

namespace mla {
namespace {

using nlohmann::json;

TEST(ParseJson, GivesTheDocument) {
  const std::string text =
      R"({"a": [1, -2, 3.5, "x", true, null, {}, []], "b": {"c": 18446744073709551615}, "d": ""})";
  const Result<json> parsed = ParseJson(text, "doc");
  ASSERT_TRUE(parsed.ok()) << parsed.message();
  EXPECT_EQ(*parsed, json::parse(text));
}

TEST(ParseJson, GivesScalarDocuments) {
  EXPECT_EQ(*ParseJson("17", "doc"), json(17));
  EXPECT_EQ(*ParseJson(" \"\\u00e9\" ", "doc"), json("é"));
}

struct BadJson {
  std::string text;
  std::string message;  // whole
};

TEST(ParseJson, RefusesWithThePlace) {
  const BadJson kBad[] = {
      {"{\"a\": 1, \"b\": 2, \"a\": 3}", "doc: line 1, column 20 (byte 20): duplicate key \"a\""},
      {"{\"x\": {\"k\": 1},\n \"y\": {\"k\": 1, \"k\": 1}}",
       "doc: line 2, column 18 (byte 34): duplicate key \"k\""},
      {"{\"a\": 1e999}", "doc: line 1, column 12 (byte 12): number overflow parsing '1e999'"},
  };
  for (const BadJson& bad : kBad) {
    const Result<json> parsed = ParseJson(bad.text, "doc");
    ASSERT_FALSE(parsed.ok()) << bad.text;
    EXPECT_EQ(parsed.error().code, ErrorCode::kCorruptFile);
    EXPECT_EQ(parsed.message(), bad.message);
  }
}

TEST(ParseJson, RefusesWhatIsNotJson) {
  for (const char* text : {"", " ", "{", "[1,", "[1,]", "{\"a\"}", "{'a': 1}", "nul", "01", "NaN",
                           "Infinity", "[1] 2", "\"\x01\"", "\"\xff\"", "\"\\ud800\"", "{,}"}) {
    const Result<json> parsed = ParseJson(text, "doc");
    ASSERT_FALSE(parsed.ok()) << text;
    EXPECT_TRUE(parsed.message().starts_with("doc: line 1, column ")) << parsed.message();
    EXPECT_EQ(parsed.message().find('\n'), std::string_view::npos);
  }
}

TEST(ParseJson, KeepsHostileTextOutOfTheMessage) {
  const std::string text = Concat('"', std::string(1 << 20, 'x'));  // an unterminated string
  const Result<json> parsed = ParseJson(text, "doc");
  ASSERT_FALSE(parsed.ok());
  EXPECT_LT(parsed.message().size(), 300u);
}

TEST(ParseJson, LimitsDepth) {
  auto nested = [](int depth) { return std::string(depth, '[') + std::string(depth, ']'); };
  EXPECT_TRUE(ParseJson(nested(64), "doc").ok());
  const Result<json> parsed = ParseJson(nested(65), "doc");
  ASSERT_FALSE(parsed.ok());
  EXPECT_EQ(parsed.message(),
            "doc: line 1, column 65 (byte 65): lists and objects nested deeper than 64");
  EXPECT_FALSE(ParseJson(std::string(1 << 20, '['), "doc").ok());
  EXPECT_FALSE(ParseJson("{\"a\":{}}", "doc", JsonLimits{.max_depth = 1}).ok());
}

TEST(ParseJson, LimitsValuesAndBytes) {
  EXPECT_TRUE(ParseJson("[1,2,3]", "doc", JsonLimits{.max_values = 4}).ok());
  const Result<json> values = ParseJson("[1,2,3,4]", "doc", JsonLimits{.max_values = 4});
  ASSERT_FALSE(values.ok());
  EXPECT_EQ(values.message(), "doc: line 1, column 9 (byte 9): more than 4 values");
  const Result<json> bytes = ParseJson("[1,2,3]", "doc", JsonLimits{.max_bytes = 6});
  ASSERT_FALSE(bytes.ok());
  EXPECT_EQ(bytes.message(), "doc: 7 bytes of JSON, the limit is 6");
}

TEST(ReadJsonFile, NamesTheFile) {
  const TempDir dir;
  const Result<json> missing = ReadJsonFile(dir / "none.json");
  ASSERT_FALSE(missing.ok());
  EXPECT_EQ(missing.error().code, ErrorCode::kNotFound);
  EXPECT_EQ(missing.message(), dir / "none.json" + ": No such file or directory");

  const Result<json> folder = ReadJsonFile(dir.path());
  ASSERT_FALSE(folder.ok());
  EXPECT_EQ(folder.message(), dir.path() + ": Is a directory");

  const std::string path = dir.Write("bad.json", "{");
  const Result<json> bad = ReadJsonFile(path);
  ASSERT_FALSE(bad.ok());
  EXPECT_TRUE(bad.message().starts_with(path + ": line 1, ")) << bad.message();
}

TEST(ReadJsonFile, ReadsATokenizerSoon) {
  // 150,000 pairs and as many vocabulary entries: the size of the largest tokenizers in use.
  std::string text = "{\"vocab\":{";
  for (int i = 0; i < 150000; ++i) text += Concat(i > 0 ? "," : "", "\"token", i, "\":", i);
  text += "},\"merges\":[";
  for (int i = 0; i < 150000; ++i) text += Concat(i > 0 ? "," : "", "[\"left", i, "\",\"right\"]");
  text += "]}";
  const TempDir dir;
  const std::string path = dir.Write("tokenizer.json", text);
  const auto start = std::chrono::steady_clock::now();
  const Result<json> parsed = ReadJsonFile(path);
  const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
  ASSERT_TRUE(parsed.ok()) << parsed.message();
  EXPECT_EQ((*parsed)["merges"].size(), 150000u);
  // A fraction of a second; the bound leaves room for sanitizers and a busy machine.
  EXPECT_LT(seconds.count(), 10.0);
  RecordProperty("seconds", std::to_string(seconds.count()));
}

TEST(DescribeJson, IsShort) {
  EXPECT_EQ(DescribeJson(-3), "-3");
  EXPECT_EQ(DescribeJson(0.5), "0.5");
  EXPECT_EQ(DescribeJson(nullptr), "null");
  EXPECT_EQ(DescribeJson(true), "true");
  EXPECT_EQ(DescribeJson("a\nb\"c"), "\"a\\x0ab\\\"c\"");
  EXPECT_EQ(DescribeJson(json::array({1, 2})), "a list of 2");
  EXPECT_EQ(DescribeJson(json::object()), "an empty object");
  EXPECT_EQ(DescribeJson({{"k", 1}}), "an object");
  EXPECT_EQ(DescribeJson(std::string(81, 'x')), Concat('"', std::string(80, 'x'), "...\""));
  // Cut before the two-byte character that would be split.
  EXPECT_EQ(Quote(std::string(79, 'x') + "éy"), Concat('"', std::string(79, 'x'), "...\""));
}

}  // namespace
}  // namespace mla
