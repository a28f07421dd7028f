// Configs to specs: values that follow from them, and everything that must be refused.
#include "model/spec.h"

#include <gtest/gtest.h>

#include <cmath>
#include <fstream>
#include <functional>
#include <nlohmann/json.hpp>

#include "model/families/registry.h"
#include "model/golden.h"

namespace mla::test {
namespace {

using nlohmann::json;

json GoldenConfig(const std::string& name) {
  std::ifstream in(GoldenDir(name) + "/config.json");
  return json::parse(in);
}

TEST(Spec, DeepseekV3OfTheConfigStyleItIsReleasedIn) {
  const Result<ModelSpec> spec = ReadModelSpec(GoldenConfig("deepseek_v3"));
  ASSERT_TRUE(spec.ok()) << spec.message();
  ASSERT_EQ(spec->layers.size(), 4U);
  EXPECT_TRUE(std::holds_alternative<DenseMlpSpec>(spec->layers[1].mlp));
  const auto& moe = std::get<MoeSpec>(spec->layers[2].mlp);
  EXPECT_EQ(moe.num_groups, 4);
  EXPECT_EQ(moe.topk_groups, 2);
  EXPECT_TRUE(moe.correction_bias);
  EXPECT_EQ(moe.scoring, RouterScoring::kSigmoid);
  const auto& mla = std::get<MlaSpec>(spec->layers[0].attention);
  const double m = 0.1 * std::log(40.0) + 1;
  EXPECT_NEAR(mla.scale, m * m / std::sqrt(32.0), 1e-6);
  EXPECT_NEAR(mla.rope->magnitude, 1.0, 1e-6);
  // The layers share one rope.
  EXPECT_EQ(mla.rope, std::get<MlaSpec>(spec->layers[3].attention).rope);
}

TEST(Spec, YarnMagnitudeIsTheRatioOfTheTwoMscales) {
  const Result<ModelSpec> spec = ReadModelSpec(GoldenConfig("deepseek_v2"));
  ASSERT_TRUE(spec.ok()) << spec.message();
  const double ln = 0.1 * std::log(40.0);
  EXPECT_NEAR(std::get<MlaSpec>(spec->layers[0].attention).rope->magnitude,
              (0.6 * ln + 1) / (1.0 * ln + 1), 1e-6);
}

TEST(Spec, CacheRowsAreTheLatentAndNothingElse) {
  const Result<ModelSpec> spec = ReadModelSpec(GoldenConfig("deepseek_v3"));
  ASSERT_TRUE(spec.ok());
  const std::vector<LayerCacheSpec> caches = CacheSpecs(*spec);
  ASSERT_EQ(caches.size(), 4U);
  for (const LayerCacheSpec& layer : caches) {
    ASSERT_EQ(layer.size(), 1U);
    EXPECT_EQ(layer[0].row, 32 + 16);
  }
  const CacheComparison comparison = CompareCaches(*spec);
  EXPECT_EQ(comparison.model, 4 * 48);
  EXPECT_EQ(comparison.mha, 4 * 6 * (16 + 16 + 16));
  EXPECT_EQ(comparison.mqa, 4 * 48);
}

// Config edits that must be refused, and words that the error must hold.
struct BadConfig {
  const char* model;
  const char* name;
  std::function<void(json&)> edit;
  std::vector<const char*> words;
};

TEST(Spec, BadConfigsAreRefusedWithTheValue) {
  const BadConfig cases[] = {
      {"deepseek_v3",
       "unknown type",
       [](json& c) { c["model_type"] = "gpt2"; },
       {"gpt2", "deepseek_v2", "deepseek_v3", "llama"}},
      {"deepseek_v3", "no type", [](json& c) { c.erase("model_type"); }, {"model_type"}},
      {"deepseek_v3", "missing dim", [](json& c) { c.erase("kv_lora_rank"); }, {"kv_lora_rank"}},
      {"deepseek_v3",
       "zero",
       [](json& c) { c["num_attention_heads"] = 0; },
       {"num_attention_heads", "0"}},
      {"deepseek_v3", "negative", [](json& c) { c["hidden_size"] = -96; }, {"hidden_size", "-96"}},
      {"deepseek_v3",
       "huge",
       [](json& c) { c["v_head_dim"] = 1000000000000LL; },
       {"v_head_dim", "1000000000000"}},
      {"deepseek_v3",
       "odd rope",
       [](json& c) { c["qk_rope_head_dim"] = 15; },
       {"qk_rope_head_dim", "15", "even"}},
      {"deepseek_v3", "groups", [](json& c) { c["n_group"] = 5; }, {"n_group", "5", "16"}},
      {"deepseek_v3", "topk_group", [](json& c) { c["topk_group"] = 5; }, {"topk_group", "5"}},
      {"deepseek_v3",
       "too many experts",
       [](json& c) { c["num_experts_per_tok"] = 9; },
       {"num_experts_per_tok", "9", "8"}},
      {"deepseek_v3",
       "rope type",
       [](json& c) { c["rope_scaling"]["type"] = "spiral"; },
       {"spiral", "yarn", "llama3"}},
      {"deepseek_v3",
       "factor",
       [](json& c) { c["rope_scaling"]["factor"] = "big"; },
       {"factor", "big"}},
      {"deepseek_v3",
       "factor missing",
       [](json& c) { c["rope_scaling"].erase("factor"); },
       {"factor"}},
      {"deepseek_v3",
       "activation",
       [](json& c) { c["hidden_act"] = "gelu"; },
       {"hidden_act", "gelu", "silu"}},
      {"deepseek_v3",
       "quantised",
       [](json& c) {
         c["quantization_config"] = {{"bits", 4}};
       },
       {"quantization_config"}},
      {"deepseek_v3", "bos", [](json& c) { c["bos_token_id"] = 384; }, {"bos_token_id", "384"}},
      {"deepseek_v3",
       "topk method",
       [](json& c) { c["topk_method"] = "best"; },
       {"topk_method", "best", "noaux_tc"}},
      {"llama_gqa",
       "kv heads",
       [](json& c) { c["num_key_value_heads"] = 4; },
       {"num_key_value_heads", "4", "6"}},
      {"llama_gqa", "hidden", [](json& c) { c["hidden_size"] = 97; }, {"hidden_size", "97"}},
      {"llama_gqa",
       "frequencies",
       [](json& c) { c["rope_scaling"]["high_freq_factor"] = 0.5; },
       {"high_freq_factor", "0.5"}},
      {"llama_mha",
       "layers",
       [](json& c) { c["num_hidden_layers"] = 0; },
       {"num_hidden_layers", "0"}},
  };
  for (const BadConfig& bad : cases) {
    json config = GoldenConfig(bad.model);
    bad.edit(config);
    const Result<ModelSpec> spec = ReadModelSpec(config);
    ASSERT_FALSE(spec.ok()) << bad.name;
    for (const char* word : bad.words) {
      EXPECT_NE(spec.message().find(word), std::string::npos) << bad.name << ": " << spec.message();
    }
  }
}

}  // namespace
}  // namespace mla::test
