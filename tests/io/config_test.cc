#include "io/config.h"

#include <gtest/gtest.h>

#include <cmath>
#include <nlohmann/json.hpp>

#include "io/json.h"
#include "io/temp_dir.h"

namespace mla {
namespace {

using nlohmann::json;

class ConfigTest : public testing::Test {
 protected:
  ConfigReader Read(const char* text) {
    document_ = *ParseJson(text, "config.json");
    return *ConfigReader::Create(document_, "config.json");
  }
  json document_;
};

TEST_F(ConfigTest, GivesValues) {
  const ConfigReader config = Read(R"({
    "heads": 8, "whole": 32.0, "eps": 1e-6, "factor": 40, "tie": true, "type": "yarn",
    "q_lora_rank": null, "rope_scaling": {"factor": 40.0}, "eos": [1, 2.0], "bos": 0,
    "architectures": ["A", "B"]})");
  EXPECT_EQ(*config.GetInt("heads", 1, 8), 8);
  EXPECT_EQ(*config.GetInt("whole", 1, 100), 32);
  EXPECT_EQ(*config.GetFloat("eps", 0, 1), 1e-6);
  EXPECT_EQ(*config.GetFloat("factor", 1, 100), 40.0);
  EXPECT_TRUE(*config.GetBool("tie"));
  EXPECT_EQ(*config.GetString("type"), "yarn");
  EXPECT_EQ(*config.GetChoice("type", {"linear", "yarn"}), "yarn");
  EXPECT_EQ(*config.GetObject("rope_scaling")->GetInt("factor", 1, 100), 40);
  EXPECT_EQ(*config.GetInts("eos", 0, 9), (std::vector<int64_t>{1, 2}));
  EXPECT_EQ(*config.GetInts("bos", 0, 9), (std::vector<int64_t>{0}));
  EXPECT_EQ(*config.GetStrings("architectures"), (std::vector<std::string>{"A", "B"}));
  EXPECT_TRUE(config.Has("heads"));
  EXPECT_FALSE(config.IsNull("heads"));
}

TEST_F(ConfigTest, MissingAndNullAreAbsent) {
  const ConfigReader config = Read(R"({"null": null})");
  for (const char* key : {"null", "none"}) {
    EXPECT_FALSE(config.Has(key));
    EXPECT_EQ(config.IsNull(key), key == std::string_view("null"));
    EXPECT_EQ(*config.GetIntOr(key, -7, 1, 9), -7);
    EXPECT_EQ(*config.GetOptionalInt(key, 1, 9), std::nullopt);
    EXPECT_EQ(*config.GetFloatOr(key, 0.5, 1, 9), 0.5);
    EXPECT_EQ(*config.GetOptionalFloat(key, 1, 9), std::nullopt);
    EXPECT_TRUE(*config.GetBoolOr(key, true));
    EXPECT_EQ(*config.GetStringOr(key, "x"), "x");
    EXPECT_EQ(*config.GetChoiceOr(key, "x", {"y"}), "x");
    EXPECT_FALSE(config.GetOptionalObject(key)->has_value());
    EXPECT_TRUE(config.GetInts(key, 0, 9)->empty());
    EXPECT_TRUE(config.GetStrings(key)->empty());
  }
}

// The message of a result that must be an error.
template <typename T>
std::string MessageOf(const Result<T>& result) {
  EXPECT_FALSE(result.ok());
  if (result.ok()) return "ok";
  EXPECT_EQ(result.error().code, ErrorCode::kCorruptFile);
  return std::string(result.message());
}

TEST_F(ConfigTest, IntegerErrors) {
  const ConfigReader config = Read(R"({
    "negative": -3, "zero": 0, "half": 0.5, "text": "8", "yes": true, "list": [1],
    "unsigned": 18446744073709551615, "huge": 1e300, "null": null})");
  auto message = [&](const char* key) { return MessageOf(config.GetInt(key, 1, 65536)); };
  const std::string want = ", want an integer from 1 to 65536";
  EXPECT_EQ(message("negative"), "config.json: negative is -3" + want);
  EXPECT_EQ(message("zero"), "config.json: zero is 0" + want);
  EXPECT_EQ(message("half"), "config.json: half is 0.5" + want);
  EXPECT_EQ(message("text"), "config.json: text is \"8\"" + want);
  EXPECT_EQ(message("yes"), "config.json: yes is true" + want);
  EXPECT_EQ(message("list"), "config.json: list is a list of 1" + want);
  EXPECT_EQ(message("unsigned"), "config.json: unsigned is 18446744073709551615" + want);
  EXPECT_EQ(message("huge"), "config.json: huge is 1e+300" + want);
  EXPECT_EQ(message("null"), "config.json: null is null" + want);
  EXPECT_EQ(message("hidden_size"), "config.json: hidden_size is missing" + want);
  EXPECT_EQ(MessageOf(config.GetIntOr("zero", 1, 1, 65536)), "config.json: zero is 0" + want);
  EXPECT_EQ(MessageOf(config.GetOptionalInt("zero", 1, 65536)), "config.json: zero is 0" + want);
  // The whole range of int64_t does not let a larger number wrap around.
  EXPECT_FALSE(config.GetInt("unsigned", INT64_MIN, INT64_MAX).ok());
}

TEST_F(ConfigTest, FloatErrors) {
  const ConfigReader config = Read(R"({"low": 0.5, "text": "1.0", "yes": true})");
  auto message = [&](const char* key) { return MessageOf(config.GetFloat(key, 1, 1000)); };
  EXPECT_EQ(message("low"), "config.json: low is 0.5, want a number from 1 to 1000");
  EXPECT_EQ(message("text"), "config.json: text is \"1.0\", want a number from 1 to 1000");
  EXPECT_EQ(message("yes"), "config.json: yes is true, want a number from 1 to 1000");
  EXPECT_EQ(message("none"), "config.json: none is missing, want a number from 1 to 1000");
  for (const double value : {std::nan(""), HUGE_VAL, -HUGE_VAL}) {
    const json document = {{"x", value}};
    EXPECT_FALSE(ConfigReader::Create(document, "c")->GetFloat("x", 0, 1e308).ok()) << value;
  }
}

TEST_F(ConfigTest, OtherErrors) {
  const ConfigReader config = Read(R"({
    "n": 1, "type": "ntk", "rope_scaling": {"type": "x", "factor": 0}, "eos": [1, -1],
    "names": ["a", 2]})");
  EXPECT_EQ(MessageOf(config.GetBool("n")), "config.json: n is 1, want true or false");
  EXPECT_EQ(MessageOf(config.GetString("n")), "config.json: n is 1, want a string");
  EXPECT_EQ(MessageOf(config.GetStringOr("n", "x")), "config.json: n is 1, want a string");
  EXPECT_EQ(MessageOf(config.GetChoice("type", {"linear", "yarn"})),
            "config.json: type is \"ntk\", want one of linear, yarn");
  EXPECT_EQ(MessageOf(config.GetChoice("none", {"linear"})),
            "config.json: none is missing, want linear");
  EXPECT_EQ(MessageOf(config.GetObject("n")), "config.json: n is 1, want an object");
  EXPECT_EQ(MessageOf(config.GetInts("type", 0, 9)),
            "config.json: type is \"ntk\", want an integer from 0 to 9, or a list of such");
  EXPECT_EQ(MessageOf(config.GetInts("eos", 0, 9)),
            "config.json: eos[1] is -1, want an integer from 0 to 9");
  EXPECT_EQ(MessageOf(config.GetStrings("names")), "config.json: names[1] is 2, want a string");
  EXPECT_EQ(MessageOf((*config.GetOptionalObject("rope_scaling"))->GetFloat("factor", 1, 9)),
            "config.json: rope_scaling.factor is 0, want a number from 1 to 9");
  EXPECT_EQ(config.BadValue("n", "a divisor of m (10)").message,
            "config.json: n is 1, want a divisor of m (10)");
  EXPECT_EQ(MessageOf(ConfigReader::Create(document_["eos"], "config.json")),
            "config.json is a list of 2, want an object");
}

TEST(ReadConfigFile, SaysWhatIsMissing) {
  const TempDir dir;
  EXPECT_EQ(ReadConfigFile(dir / "none").message(), "no such directory: " + (dir / "none"));
  EXPECT_EQ(ReadConfigFile(dir.path()).message(), "no config.json in " + dir.path());
  const std::string file = dir.Write("file", "{}");
  EXPECT_EQ(ReadConfigFile(file).message(), file + " is a file, want a directory with config.json");
  dir.Write("config.json", "{\"a\": 1}");
  ASSERT_TRUE(ReadConfigFile(dir.path() + "/").ok());
  EXPECT_EQ((*ReadConfigFile(dir.path()))["a"], 1);
}

TEST(ReadConfigFile, ReadsARealOne) {
  const Result<json> document = ReadConfigFile(MLA_SOURCE_DIR "/models/stories-mla-9m");
  ASSERT_TRUE(document.ok()) << document.message();
  const ConfigReader config = *ConfigReader::Create(*document, "config.json");
  EXPECT_EQ(*config.GetInt("kv_lora_rank", 1, 65536), 64);
  EXPECT_EQ(*config.GetChoice("model_type", {"deepseek_v3"}), "deepseek_v3");
}

}  // namespace
}  // namespace mla
