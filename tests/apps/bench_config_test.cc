// mla bench of a configuration without a checkpoint.
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "apps/process.h"

namespace mla::test {
namespace {

using Json = nlohmann::json;

const std::string kLite4 = MLA_SOURCE_DIR "/bench/configs/lite4.json";
const std::string kV3x2 = MLA_SOURCE_DIR "/bench/configs/v3x2.json";

std::vector<std::string> Join(std::vector<std::string> a, const std::vector<std::string>& b) {
  a.insert(a.end(), b.begin(), b.end());
  return a;
}

// Small enough for a test; the shapes of attention stay as they are.
std::vector<std::string> SmallLite4() {
  return {"bench",
          "--config",
          kLite4,
          "--random-weights",
          "--set",
          "num_hidden_layers=2",
          "--set",
          "vocab_size=256",
          "--set",
          "hidden_size=256",
          "--set",
          "intermediate_size=256",
          "--set",
          "moe_intermediate_size=64",
          "--set",
          "num_attention_heads=2",
          "--context",
          "1100",
          "--prompt-lengths",
          "8",
          "--depths",
          "0,1000",
          "-n",
          "2",
          "--repetitions",
          "1"};
}

TEST(BenchConfig, RunsWithoutACheckpoint) {
  for (const std::vector<std::string>& extra : std::vector<std::vector<std::string>>{
           {},
           {"--quantize", "q8"},
           {"--quantize", "q4"},
           {"--weights-dtype", "f8"},
           {"--weights-dtype", "f32", "--compute", "f32", "--kv-dtype", "f16"},
           {"--kv-dtype", "int8"},
           {"--attention", "mha"},
           {"--attention", "expanded", "--threads", "1"}}) {
    SCOPED_TRACE(testing::PrintToString(extra));
    const Json json = RunJson(Join(SmallLite4(), Join(extra, {"--json"})));
    ASSERT_EQ(json["results"].size(), 3U);
    EXPECT_EQ(json["results"][2]["depth"], 1000);
    for (const Json& result : json["results"]) EXPECT_GT(result["tokens_per_second"], 0);
    EXPECT_TRUE(Contains(json["model"].get<std::string>(), "lite4.json, num_hidden_layers=2"));
    EXPECT_TRUE(Contains(json["model"].get<std::string>(), "weights")) << json["model"];
  }
}

TEST(BenchConfig, SetsReachTheModel) {
  // More layers than the file has cost more cache; an absent member of an absent object is made.
  const Json json =
      RunJson(Join(SmallLite4(), {"--set", "max_position_embeddings=1100", "--set",
                                  R"(rope_scaling={"type":"yarn","factor":4})", "--set",
                                  "rope_scaling.original_max_position_embeddings=300", "--json"}));
  EXPECT_EQ(json["results"].size(), 3U);
  const ProcessResult few = RunMla(Join(SmallLite4(), {"--set", "max_position_embeddings=99"}));
  EXPECT_EQ(few.status, 1);
  EXPECT_TRUE(Contains(few.err, "want 1 to 99")) << few.err;
}

TEST(BenchConfig, ExplainsTheForms) {
  const Json json = RunJson(Join(
      SmallLite4(), {"--explain", "--json", "--set", "num_attention_heads=16", "--threads", "1"}));
  ASSERT_EQ(json["results"].size(), 3U);
  const Json& decode = json["results"][2]["explain"];
  ASSERT_EQ(decode.size(), 1U);  // both layers are alike
  EXPECT_EQ(decode[0]["first_layer"], 0);
  EXPECT_EQ(decode[0]["last_layer"], 1);
  EXPECT_EQ(decode[0]["steps"], 2);
  EXPECT_EQ(decode[0]["from_length"], 1001);
  EXPECT_EQ(decode[0]["length"], 1002);
  EXPECT_EQ(decode[0]["form"], "absorbed");
  EXPECT_EQ(decode[0]["reason"], "estimate");
  EXPECT_LT(decode[0]["absorbed_ms"], decode[0]["expanded_ms"]);
  EXPECT_FALSE(decode[0]["kernel"].get<std::string>().empty());
  EXPECT_TRUE(Contains(decode[0]["limit"].get<std::string>(), "%"));

  const ProcessResult forced = RunMla(Join(SmallLite4(), {"--explain", "--attention", "expanded"}));
  EXPECT_EQ(forced.status, 0) << forced.err;
  EXPECT_TRUE(
      Contains(forced.out, "layers 0-1, 2 steps of 1 on 1,001 to 1,002: expanded (asked for)"))
      << forced.out;
  const ProcessResult mha = RunMla(Join(SmallLite4(), {"--explain", "--attention", "mha"}));
  EXPECT_TRUE(Contains(mha.out, "mha (asked for)")) << mha.out;
  const ProcessResult csv = RunMla(Join(SmallLite4(), {"--explain", "--csv"}));
  EXPECT_EQ(csv.status, 2);
}

// A prompt of several chunks: each is decided on its own.
TEST(BenchConfig, ExplainsEveryChunkOfAPrompt) {
  const Json json = RunJson({"bench",
                             "--config",
                             kLite4,
                             "--random-weights",
                             "--set",
                             "num_hidden_layers=1",
                             "--set",
                             "hidden_size=128",
                             "--set",
                             "vocab_size=64",
                             "--set",
                             "intermediate_size=64",
                             "--context",
                             "1100",
                             "--prompt-lengths",
                             "1030",
                             "--depths",
                             "none",
                             "--repetitions",
                             "1",
                             "--prefill-chunk",
                             "512",
                             "--explain",
                             "--json"});
  int steps = 0;
  for (const Json& decision : json["results"][0]["explain"]) {
    steps += decision["steps"].get<int>();
  }
  EXPECT_EQ(steps, 3);
  EXPECT_EQ(json["results"][0]["explain"][0]["form"], "expanded");
  EXPECT_EQ(json["results"][0]["explain"].back()["length"], 1030);
}

TEST(BenchConfig, OnlyPrefillOrOnlyDecode) {
  const Json json = RunJson({"bench",
                             "--config",
                             kV3x2,
                             "--random-weights",
                             "--set",
                             "num_hidden_layers=1",
                             "--set",
                             "hidden_size=128",
                             "--set",
                             "num_attention_heads=4",
                             "--context",
                             "300",
                             "--prompt-lengths",
                             "none",
                             "--depths",
                             "256",
                             "-n",
                             "1",
                             "--repetitions",
                             "1",
                             "--json"});
  ASSERT_EQ(json["results"].size(), 1U);
  EXPECT_EQ(json["results"][0]["test"], "decode");
  const ProcessResult nothing =
      RunMla({"bench", kModel, "--prompt-lengths", "none", "--depths", "none"});
  EXPECT_EQ(nothing.status, 1);
  EXPECT_TRUE(Contains(nothing.err, "nothing to measure")) << nothing.err;
}

struct Mistake {
  std::vector<std::string> args;
  int status;
  std::vector<std::string> parts;
};

TEST(BenchConfig, MistakesAreNamed) {
  const TempDir dir;
  const std::string list = dir.Write("list.json", "[1]");
  const std::string other = dir.Write("other.json", R"({"model_type": "kimi_linear"})");
  const std::vector<std::string> random = {"--config", kLite4, "--random-weights", "--set"};
  const std::vector<Mistake> mistakes = {
      {{"--config", kLite4}, 2, {"--random-weights"}},
      {{kModel, "--config", kLite4, "--random-weights"}, 2, {"MODEL", "--config", "exclude"}},
      {{kModel, "--random-weights"}, 2, {"--config"}},
      {{kModel, "--set", "vocab_size=3"}, 2, {"--set", "--config"}},
      {{"--config", "/no/such.json", "--random-weights"}, 1, {"/no/such.json"}},
      {{"--config", list, "--random-weights"}, 1, {"a list of 1"}},
      {{"--config", other, "--random-weights"}, 1, {"kimi_linear", "KDA"}},
      {{"--config", "deepseek-v3", "--random-weights"}, 1, {"1342", "GB", "num_hidden_layers=N"}},
      {Join(random, {"num_hiden_layers=3"}), 1, {"num_hiden_layers", "mean num_hidden_layers?"}},
      {Join(random, {"rope_scaling.factr=3"}), 1, {"rope_scaling.factr", "no key"}},
      {Join(random, {"frobnicate=3"}), 1, {"\"frobnicate\""}},
      {Join(random, {"num_hidden_layers"}), 1, {"KEY=VALUE"}},
      {Join(random, {"scoring_func=softmax"}), 1, {"\"softmax\"", "want JSON"}},
      {Join(random, {"num_hidden_layers.x=2"}), 1, {"num_hidden_layers is 4", "not an object"}},
      {Join(random, {"num_hidden_layers=0"}), 1, {"num_hidden_layers is 0", "1 to 4096"}},
      {Join(random, {"hidden_size=[1]"}), 1, {"hidden_size is a list of 1"}},
  };
  for (const Mistake& mistake : mistakes) {
    SCOPED_TRACE(testing::PrintToString(mistake.args));
    const ProcessResult result = RunMla(Join({"bench"}, mistake.args));
    EXPECT_EQ(result.status, mistake.status);
    EXPECT_TRUE(IsOneLine(result.err)) << result.err;
    EXPECT_EQ(result.out, "");
    for (const std::string& part : mistake.parts) {
      EXPECT_TRUE(Contains(result.err, part)) << "want " << part << " in: " << result.err;
    }
  }
}

}  // namespace
}  // namespace mla::test
