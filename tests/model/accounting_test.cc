// Parameters, bytes and operations, against published figures and sums written out here.
#include "model/accounting.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>
#include <string>

#include "io/json.h"
#include "model/families/registry.h"
#include "model/known_models.h"

namespace mla::test {
namespace {

ModelSpec Spec(const std::string& config) {
  nlohmann::json json = *ParseJson(config, "test");
  json.erase("quantization_config");
  Result<ModelSpec> spec = ReadModelSpec(json);
  EXPECT_TRUE(spec.ok()) << spec.message();
  return spec.ok() ? *spec : ModelSpec();
}

ModelSpec Known(const std::string& name) {
  return Spec(std::string((*FindKnownModel(name))->config));
}

std::vector<WeightGroup> Groups(const ModelSpec& spec) {
  return *ListWeights(spec, WeightShapes(spec));
}

ParameterKind All(const ModelSpec& spec) { return SumParameters(CountParameters(Groups(spec))); }

TEST(Parameters, DeepseekV3IsWhatItsPaperSays) {
  const ModelSpec spec = Known("deepseek-v3");
  const int64_t attention = 7168 * 1536 + 1536 * 128 * 192 + 7168 * 576 + 512 * 128 * 256 +
                            128 * 128 * 7168 + 1536 + 512 + 2 * 7168;
  const int64_t dense = 3 * 7168 * 18432;
  const int64_t expert = 3 * 7168 * 2048;
  const int64_t router = 256 * 7168 + 256;
  const int64_t ends = 2 * int64_t{129280} * 7168;
  const int64_t total = 61 * attention + 3 * dense + 58 * (257 * expert + router) + ends + 7168;
  EXPECT_EQ(All(spec).total, total);
  EXPECT_EQ(All(spec).total / 1000000000, 671);
  EXPECT_EQ(All(spec).active, total - 58 * 248 * expert);
  // "37B activated for each token": with embedding and head 37.6, without either 35.7, and with the
  // head alone, which a token is multiplied by whole, 36.6.
  EXPECT_EQ(All(spec).active / 100000000, 375);
  EXPECT_EQ((All(spec).active - ends) / 100000000, 356);
  EXPECT_EQ(*ExtraPredictionParameters(spec),
            attention + 257 * expert + router + 2 * 7168 * 7168 + 3 * 7168);
}

TEST(Parameters, ReleasedModelsHaveTheirPublishedSizes) {
  const std::pair<const char*, double> kBillions[] = {
      {"deepseek-v2", 235.7}, {"deepseek-v2-lite", 15.7}, {"llama-2-7b", 6.74},
      {"llama-2-13b", 13.02}, {"llama-2-70b", 68.98},     {"llama-3-8b", 8.03},
      {"llama-3-70b", 70.55}, {"llama-3.1-405b", 405.85}, {"kimi-k2", 1026.4},
      {"qwen2.5-7b", 7.62},   {"qwen3-8b", 8.19},         {"mistral-7b", 7.25},
      {"deepseek-r1", 671},   {"deepseek-v3.1", 671},     {"kimi-k2.5", 1026.4},
      {"minicpm3-4b", 4.07},  {"youtu-llm-2b", 1.96},     {"longcat-flash", 560},
      {"glm-5", 744},
  };
  for (const auto& [name, billions] : kBillions) {
    EXPECT_NEAR(static_cast<double>(All(Known(name)).total) / 1e9, billions, 0.006 * billions)
        << name;
  }
}

TEST(Parameters, EveryKnownModelCanBeCounted) {
  for (const KnownModel& known : KnownModels()) {
    SCOPED_TRACE(known.name);
    const ModelSpec spec = Known(std::string(known.name));
    EXPECT_GT(All(spec).total, 1000000000);
    EXPECT_FALSE(known.source.empty());
  }
}

TEST(Parameters, NamesAreForgivingAndErrorsListNearOnes) {
  EXPECT_EQ((*FindKnownModel("DeepSeek_V3"))->name, "deepseek-v3");
  const auto near = FindKnownModel("deepsek-v3");
  ASSERT_FALSE(near.ok());
  EXPECT_NE(near.message().find("deepseek-v3"), std::string::npos);
  const auto far = FindKnownModel("zzzzzzzzzzzz");
  ASSERT_FALSE(far.ok());
  EXPECT_NE(far.message().find("llama-2-70b"), std::string::npos);
}

TEST(Parameters, DimensionsThatOverflowAreAnError) {
  const ModelSpec spec = Spec(
      R"({"model_type": "deepseek_v3", "vocab_size": 1000, "hidden_size": 1048576,
      "intermediate_size": 1048576, "moe_intermediate_size": 1048576, "num_hidden_layers": 4096,
      "num_attention_heads": 4096, "kv_lora_rank": 1048576, "qk_nope_head_dim": 1048576,
      "qk_rope_head_dim": 64, "v_head_dim": 1048576, "n_routed_experts": 65536,
      "num_experts_per_tok": 8})");
  const auto groups = ListWeights(spec, WeightShapes(spec));
  ASSERT_FALSE(groups.ok());
  EXPECT_NE(groups.message().find("2^63"), std::string::npos);
  EXPECT_FALSE(CheckedBytes(INT64_MAX, 2, "x").ok());
}

TEST(Weights, Fp8CountsBlocksOfLinearLayersAlone) {
  const WeightGroup linear{"attention o", 129, 256, 1};
  EXPECT_EQ(CopyBytes(linear, WeightFormat::kFp8), 129 * 256 + 4 * 2 * 2);
  const WeightGroup head{"head", 129, 256, 1};
  EXPECT_EQ(CopyBytes(head, WeightFormat::kFp8), 2 * 129 * 256);
  EXPECT_EQ(CopyBytes(head, WeightFormat::kQ8), 129 * 8 * 34);
  EXPECT_EQ(CopyBytes(head, WeightFormat::kQ4), 129 * 8 * 18);
  const WeightGroup norm{"norms", 1, 256, 1};
  EXPECT_EQ(CopyBytes(norm, WeightFormat::kQ4), 4 * 256);
}

TEST(Cache, BytesPerTokenAreThePublishedOnes) {
  const ModelSpec v3 = Known("deepseek-v3");
  EXPECT_EQ(CacheBytesPerToken(v3, CacheLayout::kModel, CacheFormat::kF16), 70272);
  EXPECT_EQ(CacheBytesPerToken(v3, CacheLayout::kModel, CacheFormat::kFp8), 61 * 656);
  EXPECT_EQ(CacheBytesPerToken(v3, CacheLayout::kModel, CacheFormat::kInt8), 61 * 656);
  EXPECT_EQ(CacheBytesPerToken(v3, CacheLayout::kMha, CacheFormat::kF16), 61 * 128 * 320 * 2);
  const ModelSpec llama = Known("llama-2-70b");
  EXPECT_EQ(CacheBytesPerToken(llama, CacheLayout::kModel, CacheFormat::kF16), 320 * 1024);
  EXPECT_EQ(CacheBytesPerToken(llama, CacheLayout::kModel, CacheFormat::kF16),
            CacheBytesPerToken(llama, CacheLayout::kGqa8, CacheFormat::kF16));
}

TEST(Cache, AgreesWithTheComparisonThatSessionsShow) {
  for (const KnownModel& known : KnownModels()) {
    SCOPED_TRACE(known.name);
    const ModelSpec spec = Known(std::string(known.name));
    const CacheComparison numbers = CompareCaches(spec);
    const auto f16 = [&](CacheLayout layout) {
      return CacheBytesPerToken(spec, layout, CacheFormat::kF16);
    };
    EXPECT_EQ(f16(CacheLayout::kModel), 2 * numbers.model);
    EXPECT_EQ(f16(CacheLayout::kMha), 2 * numbers.mha);
    EXPECT_EQ(f16(CacheLayout::kGqa8), 2 * numbers.gqa8);
    EXPECT_EQ(f16(CacheLayout::kMqa), 2 * numbers.mqa);
  }
}

TEST(Steps, DecodeOfLlamaIsTwiceItsParametersAndItsScores) {
  const ModelSpec spec = Known("llama-2-7b");
  const std::vector<WeightGroup> groups = Groups(spec);
  const StepCost cost = CostOfStep(spec, groups, {1, 1, 999}, AttentionForm::kAuto,
                                   WeightFormat::kBf16, CacheFormat::kF16);
  const double matrices = 32.0 * (4.0 * 4096 * 4096 + 3.0 * 4096 * 11008) + 32000.0 * 4096;
  EXPECT_DOUBLE_EQ(cost.linear_flops, 2 * matrices);
  EXPECT_DOUBLE_EQ(cost.attention_flops, 32.0 * 2 * 32 * 1000 * 256);
  EXPECT_DOUBLE_EQ(cost.cache_bytes, 32.0 * 2 * 4096 * 2 * 1001);
  EXPECT_NEAR(cost.weight_bytes, 2 * (matrices + 65 * 4096 + 4096), 1);
}

TEST(Steps, FormsOfMlaDifferAsTheirProductsDo) {
  const ModelSpec spec = Known("deepseek-v3");
  const std::vector<WeightGroup> groups = Groups(spec);
  const auto attention = [&](AttentionForm form, StepShape step) {
    return CostOfStep(spec, groups, step, form, WeightFormat::kBf16, CacheFormat::kF16)
        .attention_flops;
  };
  // Decode over 4096 tokens, written out.
  const double each = 61 * 2.0 * 128;
  EXPECT_DOUBLE_EQ(attention(AttentionForm::kAbsorbed, {1, 1, 4095}),
                   each * (512 * 256 + 4096.0 * 1088));
  EXPECT_DOUBLE_EQ(attention(AttentionForm::kExpanded, {1, 1, 4095}),
                   each * (4096.0 * 512 * 256 + 4096.0 * 320));
  EXPECT_DOUBLE_EQ(attention(AttentionForm::kMha, {1, 1, 4095}), each * (512 * 256 + 4096.0 * 320));
  // A prompt from nothing: as MHA and expanded do the same.
  EXPECT_DOUBLE_EQ(attention(AttentionForm::kMha, {1, 512, 0}),
                   attention(AttentionForm::kExpanded, {1, 512, 0}));
}

TEST(Steps, SparseAttentionReadsWhatItChooses) {
  const ModelSpec dense = Known("deepseek-v3");
  const ModelSpec sparse = Known("deepseek-v3.2");
  const auto cost = [&](const ModelSpec& spec, int64_t cached) {
    return CostOfStep(spec, Groups(spec), {1, 1, cached}, AttentionForm::kAbsorbed,
                      WeightFormat::kBf16, CacheFormat::kF16);
  };
  const double scores = 61.0 * 2 * 64 * 128;
  EXPECT_NEAR(cost(sparse, 99999).attention_flops,
              cost(dense, 2047).attention_flops + 100000 * scores, 1e3);
  EXPECT_NEAR(cost(sparse, 999).attention_flops, cost(dense, 999).attention_flops + 1000 * scores,
              1e3);
  EXPECT_LT(cost(sparse, 99999).cache_bytes, cost(dense, 99999).cache_bytes);
}

TEST(Steps, ExpertsAreReadOnceHoweverManyTokensUseThem) {
  const WeightGroup experts{"routed experts", 1, 1, 256, 256, 8};
  EXPECT_DOUBLE_EQ(experts.UsedCopies(1), 8);
  EXPECT_NEAR(experts.UsedCopies(2), 8 + 8 * 248.0 / 256, 1e-9);
  EXPECT_NEAR(experts.UsedCopies(1e6), 256, 1e-9);
}

}  // namespace
}  // namespace mla::test
