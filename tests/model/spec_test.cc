// Configs to specs: values that follow from them, and everything that must be refused.
#include "model/spec.h"

#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>
#include <fstream>
#include <functional>
#include <nlohmann/json.hpp>

#include "base/check.h"
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

const MlaSpec& MlaOf(const ModelSpec& spec, size_t layer) {
  return std::get<MlaSpec>(spec.layers[layer].attention);
}

// Kimi-K2's released dimensions: the architecture of DeepSeek-V3 under a model_type of its own.
json KimiK2Config() {
  return {{"model_type", "kimi_k2"},
          {"vocab_size", 163840},
          {"hidden_size", 7168},
          {"intermediate_size", 18432},
          {"moe_intermediate_size", 2048},
          {"num_hidden_layers", 61},
          {"num_attention_heads", 64},
          {"num_key_value_heads", 64},
          {"q_lora_rank", 1536},
          {"kv_lora_rank", 512},
          {"qk_nope_head_dim", 128},
          {"qk_rope_head_dim", 64},
          {"v_head_dim", 128},
          {"n_routed_experts", 384},
          {"n_shared_experts", 1},
          {"num_experts_per_tok", 8},
          {"n_group", 1},
          {"topk_group", 1},
          {"topk_method", "noaux_tc"},
          {"scoring_func", "sigmoid"},
          {"norm_topk_prob", true},
          {"routed_scaling_factor", 2.827},
          {"first_k_dense_replace", 1},
          {"max_position_embeddings", 131072},
          {"rope_theta", 50000.0},
          {"rope_scaling",
           {{"type", "yarn"},
            {"factor", 32.0},
            {"original_max_position_embeddings", 4096},
            {"beta_fast", 1.0},
            {"beta_slow", 1.0},
            {"mscale", 1.0},
            {"mscale_all_dim", 1.0}}}};
}

TEST(Spec, KimiK2IsReadAsDeepseekV3) {
  const Result<ModelSpec> spec = ReadModelSpec(KimiK2Config());
  ASSERT_TRUE(spec.ok()) << spec.message();
  ASSERT_EQ(spec->layers.size(), 61U);
  EXPECT_TRUE(std::holds_alternative<DenseMlpSpec>(spec->layers[0].mlp));
  const auto& moe = std::get<MoeSpec>(spec->layers[1].mlp);
  EXPECT_EQ(moe.num_experts, 384);
  EXPECT_EQ(moe.scoring, RouterScoring::kSigmoid);
  EXPECT_TRUE(moe.correction_bias);
  EXPECT_NEAR(moe.scaling, 2.827, 1e-6);
  const double m = 0.1 * std::log(32.0) + 1;
  EXPECT_NEAR(MlaOf(*spec, 0).scale, m * m / std::sqrt(192.0), 1e-6);
  EXPECT_EQ(CompareCaches(*spec).model, 61 * 576);
}

// Moonlight-16B-A3B: the same architecture without a query latent, groups or YaRN.
TEST(Spec, MoonlightIsReadAsDeepseekV3) {
  json config = KimiK2Config();
  config.update({{"model_type", "deepseek_v3"}, {"hidden_size", 2048}, {"num_hidden_layers", 27}});
  config.update({{"num_attention_heads", 16}, {"q_lora_rank", nullptr}, {"rope_scaling", nullptr}});
  config.update({{"n_routed_experts", 64}, {"num_experts_per_tok", 6}, {"n_shared_experts", 2}});
  config.update({{"moe_intermediate_size", 1408}, {"routed_scaling_factor", 2.446}});
  config.update({{"rope_theta", 50000.0}, {"max_position_embeddings", 8192}});
  const Result<ModelSpec> spec = ReadModelSpec(config);
  ASSERT_TRUE(spec.ok()) << spec.message();
  EXPECT_EQ(MlaOf(*spec, 0).q_lora_rank, 0);
  EXPECT_NEAR(MlaOf(*spec, 0).scale, 1 / std::sqrt(192.0), 1e-6);
  EXPECT_EQ(MlaOf(*spec, 0).rope->magnitude, 1);
  const auto& moe = std::get<MoeSpec>(spec->layers[26].mlp);
  EXPECT_EQ(moe.num_experts, 64);
  EXPECT_EQ(moe.shared_intermediate, 2 * 1408);
  EXPECT_EQ(CompareCaches(*spec).model, 27 * 576);
}

TEST(Spec, MultimodalConfigsGiveTheirLanguageModel) {
  const json config = {{"model_type", "kimi_k25"}, {"text_config", KimiK2Config()}};
  const Result<ModelSpec> spec = ReadModelSpec(config);
  ASSERT_TRUE(spec.ok()) << spec.message();
  EXPECT_EQ(spec->tensor_prefix, "language_model.");
  EXPECT_EQ(spec->layers.size(), 61U);
  json unknown = config;
  unknown["text_config"]["model_type"] = "kimi_linear";
  const Result<ModelSpec> refused = ReadModelSpec(unknown);
  ASSERT_FALSE(refused.ok());
  EXPECT_NE(refused.message().find("KDA"), std::string::npos) << refused.message();
  // What is said of the whole checkpoint holds for the language model in it.
  json quantised = config;
  quantised["quantization_config"] = {{"quant_method", "none such"}};
  EXPECT_FALSE(ReadModelSpec(quantised).ok());
}

TEST(Spec, Qwen2HasBiasesOnQkvAloneWhateverItsConfigSays) {
  const Result<ModelSpec> spec = ReadModelSpec(GoldenConfig("qwen2"));
  ASSERT_TRUE(spec.ok()) << spec.message();
  const auto& gqa = std::get<GqaSpec>(spec->layers[0].attention);
  EXPECT_TRUE(gqa.qkv_bias);
  EXPECT_FALSE(gqa.o_bias);
  EXPECT_FALSE(gqa.qk_norm_eps);
  EXPECT_TRUE(spec->tie_embeddings);
}

TEST(Spec, WindowsAsWideAsTheContextDoNotMatter) {
  json config = GoldenConfig("mistral");
  config["sliding_window"] = 4096;
  EXPECT_TRUE(ReadModelSpec(config).ok());
  config = GoldenConfig("qwen2");
  config["sliding_window"] = 64;  // use_sliding_window is false
  EXPECT_TRUE(ReadModelSpec(config).ok());
}

// The released MiniCPM3 config leaves out v_head_dim and tie_word_embeddings.
TEST(Spec, Minicpm3ScalesAndDefaults) {
  json config = GoldenConfig("minicpm3");
  config.erase("v_head_dim");
  config.erase("tie_word_embeddings");
  const Result<ModelSpec> spec = ReadModelSpec(config);
  ASSERT_TRUE(spec.ok()) << spec.message();
  EXPECT_TRUE(spec->tie_embeddings);
  EXPECT_EQ(MlaOf(*spec, 0).shape.v_head_dim, 80 / 5);
  EXPECT_EQ(spec->embedding_scale, 12);
  EXPECT_NEAR(spec->residual_scale, 1.4 / std::sqrt(3.0), 1e-6);
  EXPECT_NEAR(spec->logit_scale, 32.0 / 80, 1e-6);
}

TEST(Spec, LongRopeHasTwoSetsAndAnAttentionFactor) {
  json config = GoldenConfig("minicpm3_longrope");
  Result<ModelSpec> spec = ReadModelSpec(config);
  ASSERT_TRUE(spec.ok()) << spec.message();
  const RopeSpec rope = *MlaOf(*spec, 0).rope;
  EXPECT_EQ(rope.original_context, 128);
  EXPECT_NEAR(rope.magnitude, std::sqrt(1 + std::log(4.0) / std::log(128.0)), 1e-6);
  EXPECT_NEAR(rope.inv_freq[0], 1 / 1.05, 1e-6);
  EXPECT_NEAR(rope.long_inv_freq[3], std::pow(10000.0, -0.75) / 6, 1e-9);
  // Without a factor, it is how far the context has been extended: 512 / 128.
  config["rope_scaling"].erase("factor");
  spec = ReadModelSpec(config);
  ASSERT_TRUE(spec.ok()) << spec.message();
  EXPECT_EQ(MlaOf(*spec, 0).rope->magnitude, rope.magnitude);
}

TEST(Spec, IndexerKeysAreCachedWhereTokensAreChosen) {
  const Result<ModelSpec> spec = ReadModelSpec(GoldenConfig("glm_moe_dsa"));
  ASSERT_TRUE(spec.ok()) << spec.message();
  const std::vector<LayerCacheSpec> caches = CacheSpecs(*spec);
  ASSERT_EQ(caches.size(), 4U);
  ASSERT_EQ(caches[0].size(), 2U);
  EXPECT_EQ(caches[0][1].name, "index_k");
  EXPECT_EQ(caches[0][1].row, 16);
  EXPECT_EQ(caches[1].size(), 1U);  // reuses the choice of layer 0
}

// The three ways in which a config says which layers reuse a choice.
TEST(Spec, ReuseOfChoices) {
  json config = GoldenConfig("glm_moe_dsa");
  config.erase("indexer_types");
  const auto reuse = [&] {
    std::string text;
    const Result<ModelSpec> spec = ReadModelSpec(config);
    if (!spec.ok()) return std::string(spec.message());
    for (const LayerSpec& layer : spec->layers) {
      text += std::get<MlaSpec>(layer.attention).indexer->reuse ? 'S' : 'F';
    }
    return text;
  };
  EXPECT_EQ(reuse(), "FFFF");
  config["index_topk_freq"] = 2;
  EXPECT_EQ(reuse(), "FFSF");
  config["index_topk_pattern"] = "FSSF";
  EXPECT_EQ(reuse(), "FSSF");
}

// The first mixture of experts of a model.
const MoeSpec& MoeOf(const ModelSpec& spec) {
  for (const LayerSpec& layer : spec.layers) {
    if (const auto* moe = std::get_if<MoeSpec>(&layer.mlp)) return *moe;
    if (layer.branch) return layer.branch->moe;
  }
  MLA_CHECK(false, spec.model_type, " has no mixture");
}

// The specification of a golden model whose config says `value` of a key, or, if that is discarded,
// leaves it out.
ModelSpec SpecWith(const std::string& model, const char* key, const json& value) {
  json config = GoldenConfig(model);
  if (value.is_discarded()) {
    config.erase(key);
    if (config.contains("rope_parameters")) config["rope_parameters"].erase(key);
  } else {
    config[key] = value;
  }
  Result<ModelSpec> spec = ReadModelSpec(config);
  MLA_CHECK(spec.ok(), model, ", ", key, ": ", spec.ok() ? "" : spec.message());
  return *std::move(spec);
}

struct Default {
  const char* key;
  std::function<double(const ModelSpec&)> read;
  std::vector<std::pair<const char*, double>> published;  // by golden model
  json null = json::value_t::discarded;                   // the value that null stands for
};

const Default kDefaults[] = {
    {"norm_topk_prob",
     [](const ModelSpec& s) { return MoeOf(s).normalize; },
     {{"deepseek_v2", 0},
      {"deepseek_v3", 1},
      {"deepseek_v32", 1},
      {"glm4_moe_lite", 1},
      {"glm_moe_dsa", 1},
      {"longcat_flash", 0}}},
    {"routed_scaling_factor",
     [](const ModelSpec& s) { return MoeOf(s).scaling; },
     {{"deepseek_v2", 1},
      {"deepseek_v3", 2.5F},
      {"deepseek_v32", 2.5F},
      {"glm4_moe_lite", 1.8F},
      {"glm_moe_dsa", 2.5F},
      {"longcat_flash", 6}}},
    {"n_shared_experts",
     [](const ModelSpec& s) {
       return static_cast<double>(MoeOf(s).shared_intermediate) / MoeOf(s).intermediate;
     },
     {{"deepseek_v2", 2},
      {"deepseek_v3", 1},
      {"deepseek_v32", 1},
      {"glm4_moe_lite", 1},
      {"glm_moe_dsa", 1}},
     0},
    {"n_group",
     [](const ModelSpec& s) { return MoeOf(s).num_groups; },
     {{"deepseek_v3", 8}, {"deepseek_v32", 8}, {"glm4_moe_lite", 1}, {"glm_moe_dsa", 1}}},
    {"topk_group",
     [](const ModelSpec& s) { return MoeOf(s).topk_groups; },
     {{"deepseek_v3", 4}, {"deepseek_v32", 4}, {"glm4_moe_lite", 1}, {"glm_moe_dsa", 1}}},
    {"zero_expert_num",
     [](const ModelSpec& s) { return MoeOf(s).identity_experts; },
     {{"longcat_flash", 256}},
     0},
    {"q_lora_rank",
     [](const ModelSpec& s) { return MlaOf(s, 0).q_lora_rank; },
     {{"deepseek_v2", 1536},
      {"deepseek_v3", 1536},
      {"deepseek_v32", 1536},
      {"glm4_moe_lite", 768},
      {"glm_moe_dsa", 2048},
      {"longcat_flash", 1536},
      {"minicpm3", 768},
      {"youtu", 1536}}},
    {"rms_norm_eps",
     [](const ModelSpec& s) { return s.norm_eps; },
     {{"deepseek_v2", 1e-6F},
      {"deepseek_v3", 1e-6F},
      {"deepseek_v32", 1e-6F},
      {"glm4_moe_lite", 1e-5F},
      {"glm_moe_dsa", 1e-5F},
      {"longcat_flash", 1e-5F},
      {"minicpm3", 1e-5F},
      {"youtu", 1e-6F},
      {"llama_gqa", 1e-6F},
      {"mistral", 1e-6F},
      {"qwen2", 1e-6F},
      {"qwen3", 1e-6F}}},
    {"max_position_embeddings",
     [](const ModelSpec& s) { return s.max_positions; },
     {{"deepseek_v2", 2048},
      {"deepseek_v3", 4096},
      {"deepseek_v32", 163840},
      {"glm4_moe_lite", 202752},
      {"glm_moe_dsa", 202752},
      {"longcat_flash", 131072},
      {"minicpm3", 32768},
      {"youtu", 131072},
      {"llama_gqa", 2048},
      {"qwen2", 32768},
      {"qwen3", 32768}}},
    {"tie_word_embeddings",
     [](const ModelSpec& s) { return s.tie_embeddings; },
     {{"deepseek_v3", 0}, {"minicpm3", 1}, {"youtu", 1}, {"llama_gqa", 0}, {"qwen3", 0}}},
    {"rope_theta",
     [](const ModelSpec& s) { return MlaOf(s, 0).rope->inv_freq[1]; },
     {{"longcat_flash", std::pow(1e7, -2.0 / 8)}, {"glm4_moe_lite", std::pow(1e4, -2.0 / 8)}}},
    {"rope_interleave",
     [](const ModelSpec& s) { return MlaOf(s, 0).rope->pairing == RopePairing::kInterleaved; },
     {{"deepseek_v3", 1}, {"glm4_moe_lite", 1}, {"youtu", 1}}},
    {"num_key_value_heads",
     [](const ModelSpec& s) { return std::get<GqaSpec>(s.layers[0].attention).kv_heads; },
     {{"llama_gqa", 6}}},
    {"scale_emb", [](const ModelSpec& s) { return s.embedding_scale; }, {{"minicpm3", 12}}},
    {"scale_depth",
     [](const ModelSpec& s) { return s.residual_scale; },
     {{"minicpm3", 1.4 / std::sqrt(3.0)}},
     std::sqrt(3.0)},
    {"dim_model_base",
     [](const ModelSpec& s) { return s.logit_scale; },
     {{"minicpm3", 256.0 / 80}},
     80},
};

// Of the published configuration classes (transformers 5.23).
TEST(Spec, KeysThatAreLeftOutHaveThePublishedDefaults) {
  for (const Default& d : kDefaults) {
    for (const auto& [model, want] : d.published) {
      EXPECT_NEAR(d.read(SpecWith(model, d.key, json::value_t::discarded)), want, 1e-6 * want)
          << model << ", " << d.key;
    }
    if (d.null.is_discarded()) continue;
    const char* model = d.published.back().first;
    EXPECT_NEAR(d.read(SpecWith(model, d.key, nullptr)), d.read(SpecWith(model, d.key, d.null)),
                1e-6)
        << model << ", " << d.key << " null";
  }
}

// Those that lead to another count of heads, layers or experts.
TEST(Spec, CountsThatAreLeftOutHaveThePublishedDefaults) {
  json config = GoldenConfig("qwen3");
  config["num_attention_heads"] = 64;
  config.erase("num_key_value_heads");
  config.erase("head_dim");
  Result<ModelSpec> spec = ReadModelSpec(config);
  ASSERT_TRUE(spec.ok()) << spec.message();
  EXPECT_EQ(std::get<GqaSpec>(spec->layers[0].attention).kv_heads, 32);
  EXPECT_EQ(std::get<GqaSpec>(spec->layers[0].attention).head_dim, 128);
  config["num_key_value_heads"] = nullptr;
  EXPECT_EQ(std::get<GqaSpec>(ReadModelSpec(config)->layers[0].attention).kv_heads, 64);

  config = GoldenConfig("deepseek_v3");
  config.erase("first_k_dense_replace");
  config.erase("n_routed_experts");
  spec = ReadModelSpec(config);
  ASSERT_TRUE(spec.ok()) << spec.message();
  EXPECT_TRUE(std::holds_alternative<DenseMlpSpec>(spec->layers[2].mlp));
  ASSERT_TRUE(std::holds_alternative<MoeSpec>(spec->layers[3].mlp));
  EXPECT_EQ(MoeOf(*spec).num_experts, 256);
  config["n_routed_experts"] = nullptr;
  spec = ReadModelSpec(config);
  ASSERT_TRUE(spec.ok()) << spec.message();
  EXPECT_TRUE(std::holds_alternative<DenseMlpSpec>(spec->layers[3].mlp));

  config = GoldenConfig("glm4_moe_lite");
  config.erase("mlp_layer_types");
  spec = ReadModelSpec(config);
  ASSERT_TRUE(spec.ok()) << spec.message();
  EXPECT_TRUE(std::holds_alternative<DenseMlpSpec>(spec->layers[0].mlp));
  EXPECT_TRUE(std::holds_alternative<MoeSpec>(spec->layers[1].mlp));
}

TEST(Spec, PairingIsWhatTheConfigSays) {
  for (const char* model : {"deepseek_v3", "glm4_moe_lite", "youtu"}) {
    const ModelSpec spec = SpecWith(model, "rope_interleave", false);
    EXPECT_EQ(MlaOf(spec, 0).rope->pairing, RopePairing::kHalves) << model;
  }
}

// Configs as released, where they are at hand: each is read, or refused by what it is.
TEST(Spec, ReleasedConfigs) {
  const std::filesystem::path dir = std::string(MLA_SOURCE_DIR) + "/../shared/configs";
  if (!std::filesystem::is_directory(dir)) GTEST_SKIP() << "no " << dir;
  int read = 0;
  for (const auto& entry : std::filesystem::directory_iterator(dir)) {
    std::ifstream in(entry.path());
    json config = json::parse(in);
    const Result<ModelSpec> spec = ReadModelSpec(config);
    const std::string name = entry.path().filename().string();
    if (!spec.ok()) {
      EXPECT_TRUE(spec.message().find("model_type") != std::string::npos ||
                  spec.message().find("quantization_config") != std::string::npos)
          << name << ": " << spec.message();
    }
    // The architecture, whatever the weights are stored in.
    config.erase("quantization_config");
    if (config.contains("text_config")) config["text_config"].erase("quantization_config");
    const Result<ModelSpec> plain = ReadModelSpec(config);
    if (plain.ok()) {
      ++read;
    } else {
      EXPECT_NE(plain.message().find("model_type"), std::string::npos)
          << name << ": " << plain.message();
    }
  }
  EXPECT_GE(read, 15);
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
      {"mistral",
       "window",
       [](json& c) { c["sliding_window"] = 1024; },
       {"sliding_window", "1024", "4096"}},
      {"mistral",
       "window left out",
       [](json& c) {
         c.erase("sliding_window");
         c["max_position_embeddings"] = 4097;
       },
       {"sliding_window", "4096", "left out", "4097"}},
      {"glm4_moe_lite",
       "no experts",
       [](json& c) { c["n_routed_experts"] = nullptr; },
       {"n_routed_experts", "null"}},
      {"qwen3",
       "window in use",
       [](json& c) {
         c["use_sliding_window"] = true;
         c["sliding_window"] = 32;
       },
       {"sliding_window", "32"}},
      {"minicpm3_longrope",
       "factors",
       [](json& c) {
         c["rope_scaling"]["long_factor"] = {1.0, 2.0};
       },
       {"long_factor", "4 numbers"}},
      {"minicpm3_longrope",
       "factor of zero",
       [](json& c) { c["rope_scaling"]["short_factor"][2] = 0; },
       {"short_factor[2]", "0"}},
      {"minicpm3", "scale", [](json& c) { c["scale_depth"] = -1; }, {"scale_depth", "-1"}},
      {"deepseek_v32",
       "index heads",
       [](json& c) { c.erase("index_n_heads"); },
       {"index_n_heads", "missing"}},
      {"deepseek_v32",
       "index dim",
       [](json& c) { c["index_head_dim"] = 8; },
       {"index_head_dim", "8", "16"}},
      {"deepseek_v32",
       "index latent",
       [](json& c) { c["q_lora_rank"] = nullptr; },
       {"q_lora_rank", "indexer"}},
      {"glm4_moe_lite",
       "layer types",
       [](json& c) { c["mlp_layer_types"][1] = "thick"; },
       {"mlp_layer_types", "dense"}},
      {"glm4_moe_lite",
       "too few layer types",
       [](json& c) { c["mlp_layer_types"] = {"dense"}; },
       {"mlp_layer_types", "1", "3"}},
      {"glm_moe_dsa",
       "nothing to reuse",
       [](json& c) { c["indexer_types"][0] = "shared"; },
       {"indexer", "shared", "full"}},
      {"longcat_flash",
       "zero experts",
       [](json& c) { c["zero_expert_type"] = "drop"; },
       {"zero_expert_type", "drop", "identity"}},
      {"longcat_flash", "top k", [](json& c) { c["moe_topk"] = 13; }, {"moe_topk", "13", "12"}},
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
