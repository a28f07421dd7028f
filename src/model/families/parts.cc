#include "model/families/parts.h"

#include <cmath>
#include <string>
#include <vector>

#include "model/rope.h"

namespace mla {
namespace {

// Far beyond any model, and small enough that products of two fit 64 bits with room.
constexpr int64_t kMaxDim = 1 << 20;
constexpr int64_t kMaxHeads = 4096;
constexpr int64_t kMaxLayers = 4096;
constexpr int64_t kMaxVocab = 1 << 24;
constexpr int64_t kMaxExperts = 1 << 16;
constexpr int64_t kMaxPositions = 1 << 30;

// Reads a dimension into an int32.
Status ReadDim(const ConfigReader& config, std::string_view key, int64_t max, int32_t& value) {
  MLA_ASSIGN_OR_RETURN(const int64_t read, config.GetInt(key, 1, max));
  value = static_cast<int32_t>(read);
  return {};
}

Status ReadDimOr(const ConfigReader& config, std::string_view key, int64_t fallback, int64_t min,
                 int64_t max, int32_t& value) {
  MLA_ASSIGN_OR_RETURN(const int64_t read, config.GetIntOr(key, fallback, min, max));
  value = static_cast<int32_t>(read);
  return {};
}

Status ReadSpecialIds(const ConfigReader& config, ModelSpec& spec) {
  MLA_ASSIGN_OR_RETURN(const auto bos,
                       config.GetOptionalInt("bos_token_id", 0, spec.vocab_size - 1));
  spec.bos_id = static_cast<int32_t>(bos.value_or(-1));
  MLA_ASSIGN_OR_RETURN(const auto eos, config.GetInts("eos_token_id", 0, spec.vocab_size - 1));
  spec.eos_ids.assign(eos.begin(), eos.end());
  return {};
}

Status ReadRouting(const ConfigReader& config, const MoeDefaults& defaults, MoeSpec& moe) {
  MLA_ASSIGN_OR_RETURN(const std::string method,
                       config.GetChoiceOr("topk_method", defaults.topk_method,
                                          {"greedy", "group_limited_greedy", "noaux_tc"}));
  MLA_ASSIGN_OR_RETURN(
      const std::string scoring,
      config.GetChoiceOr("scoring_func", defaults.scoring_func, {"softmax", "sigmoid"}));
  moe.scoring = scoring == "sigmoid" ? RouterScoring::kSigmoid : RouterScoring::kSoftmax;
  moe.correction_bias = method == "noaux_tc";
  moe.group_score = method == "noaux_tc" ? GroupScore::kTop2Sum : GroupScore::kMax;
  if (method == "greedy") return {};  // groups do not count
  MLA_RETURN_IF_ERROR(ReadDimOr(config, "n_group", 1, 1, kMaxExperts, moe.num_groups));
  MLA_RETURN_IF_ERROR(ReadDimOr(config, "topk_group", 1, 1, kMaxExperts, moe.topk_groups));
  if (moe.num_experts % moe.num_groups != 0) {
    return config.BadValue("n_group",
                           Concat("a divisor of n_routed_experts (", moe.num_experts, ")"));
  }
  if (moe.topk_groups > moe.num_groups) {
    return config.BadValue("topk_group", Concat("at most n_group (", moe.num_groups, ")"));
  }
  return {};
}

}  // namespace

Result<ModelSpec> ReadBase(const ConfigReader& config) {
  ModelSpec spec;
  MLA_ASSIGN_OR_RETURN(spec.model_type, config.GetString("model_type"));
  MLA_RETURN_IF_ERROR(ReadDim(config, "vocab_size", kMaxVocab, spec.vocab_size));
  MLA_RETURN_IF_ERROR(ReadDim(config, "hidden_size", kMaxDim, spec.hidden_size));
  MLA_RETURN_IF_ERROR(
      ReadDimOr(config, "max_position_embeddings", 2048, 1, kMaxPositions, spec.max_positions));
  MLA_ASSIGN_OR_RETURN(const double eps, config.GetFloatOr("rms_norm_eps", 1e-6, 0, 1));
  spec.norm_eps = static_cast<float>(eps);
  MLA_ASSIGN_OR_RETURN(spec.tie_embeddings, config.GetBoolOr("tie_word_embeddings", false));
  MLA_RETURN_IF_ERROR(ReadSpecialIds(config, spec));
  MLA_ASSIGN_OR_RETURN(const std::string activation, config.GetStringOr("hidden_act", "silu"));
  if (activation != "silu") return config.BadValue("hidden_act", "silu");
  if (config.Has("quantization_config")) {
    return Unsupported(
        "config.json: quantization_config is set: quantised checkpoints are not supported, want "
        "weights in bf16, f16 or f32");
  }
  return spec;
}

Result<int32_t> ReadNumLayers(const ConfigReader& config) {
  int32_t layers = 0;
  MLA_RETURN_IF_ERROR(ReadDim(config, "num_hidden_layers", kMaxLayers, layers));
  return layers;
}

Result<MlaSpec> ReadMla(const ConfigReader& config, RopePairing pairing) {
  MlaSpec mla;
  MlaShape& shape = mla.shape;
  MLA_RETURN_IF_ERROR(ReadDim(config, "num_attention_heads", kMaxHeads, shape.heads));
  MLA_RETURN_IF_ERROR(ReadDim(config, "kv_lora_rank", kMaxDim, shape.kv_lora_rank));
  MLA_RETURN_IF_ERROR(ReadDim(config, "qk_nope_head_dim", kMaxDim, shape.qk_nope_head_dim));
  MLA_RETURN_IF_ERROR(ReadDim(config, "qk_rope_head_dim", kMaxDim, shape.qk_rope_head_dim));
  MLA_RETURN_IF_ERROR(ReadDim(config, "v_head_dim", kMaxDim, shape.v_head_dim));
  if (shape.qk_rope_head_dim % 2 != 0) {
    return config.BadValue("qk_rope_head_dim", "an even number");
  }
  MLA_ASSIGN_OR_RETURN(const auto q_rank, config.GetOptionalInt("q_lora_rank", 1, kMaxDim));
  mla.q_lora_rank = static_cast<int32_t>(q_rank.value_or(0));
  MLA_ASSIGN_OR_RETURN(mla.bias, config.GetBoolOr("attention_bias", false));
  MLA_ASSIGN_OR_RETURN(RopeResult rope, ReadRope(config, shape.qk_rope_head_dim, pairing));
  mla.rope = std::make_shared<const RopeSpec>(std::move(rope.rope));
  mla.scale = static_cast<float>(
      rope.scale_factor / std::sqrt(double{1} * shape.qk_nope_head_dim + shape.qk_rope_head_dim));
  return mla;
}

Result<GqaSpec> ReadGqa(const ConfigReader& config) {
  GqaSpec gqa;
  MLA_RETURN_IF_ERROR(ReadDim(config, "num_attention_heads", kMaxHeads, gqa.heads));
  MLA_RETURN_IF_ERROR(
      ReadDimOr(config, "num_key_value_heads", gqa.heads, 1, kMaxHeads, gqa.kv_heads));
  if (gqa.heads % gqa.kv_heads != 0) {
    return config.BadValue("num_key_value_heads",
                           Concat("a divisor of num_attention_heads (", gqa.heads, ")"));
  }
  if (config.Has("head_dim")) {
    MLA_RETURN_IF_ERROR(ReadDim(config, "head_dim", kMaxDim, gqa.head_dim));
    if (gqa.head_dim % 2 != 0) return config.BadValue("head_dim", "an even number");
  } else {
    MLA_ASSIGN_OR_RETURN(const int64_t hidden, config.GetInt("hidden_size", 1, kMaxDim));
    if (hidden % (2 * gqa.heads) != 0) {
      return config.BadValue("hidden_size", Concat("a multiple of twice num_attention_heads (",
                                                   gqa.heads, "), or a head_dim"));
    }
    gqa.head_dim = static_cast<int32_t>(hidden / gqa.heads);
  }
  MLA_ASSIGN_OR_RETURN(gqa.qkv_bias, config.GetBoolOr("attention_bias", false));
  gqa.o_bias = gqa.qkv_bias;
  MLA_ASSIGN_OR_RETURN(RopeResult rope, ReadRope(config, gqa.head_dim, RopePairing::kHalves));
  gqa.rope = std::make_shared<const RopeSpec>(std::move(rope.rope));
  gqa.scale = static_cast<float>(1 / std::sqrt(static_cast<double>(gqa.head_dim)));
  return gqa;
}

Result<DenseMlpSpec> ReadDenseMlp(const ConfigReader& config) {
  DenseMlpSpec mlp;
  MLA_RETURN_IF_ERROR(ReadDim(config, "intermediate_size", kMaxDim, mlp.intermediate));
  MLA_ASSIGN_OR_RETURN(mlp.bias, config.GetBoolOr("mlp_bias", false));
  return mlp;
}

Result<MoeSpec> ReadMoe(const ConfigReader& config, const MoeDefaults& defaults) {
  MoeSpec moe;
  MLA_RETURN_IF_ERROR(ReadDim(config, "n_routed_experts", kMaxExperts, moe.num_experts));
  MLA_RETURN_IF_ERROR(ReadDim(config, "num_experts_per_tok", kMaxExperts, moe.top_k));
  MLA_RETURN_IF_ERROR(ReadDim(config, "moe_intermediate_size", kMaxDim, moe.intermediate));
  MLA_ASSIGN_OR_RETURN(const int64_t shared, config.GetIntOr("n_shared_experts", 0, 0, 1024));
  moe.shared_intermediate = static_cast<int32_t>(shared * moe.intermediate);
  MLA_RETURN_IF_ERROR(ReadRouting(config, defaults, moe));
  const int32_t eligible = moe.num_experts / moe.num_groups * moe.topk_groups;
  if (moe.top_k > eligible) {
    return config.BadValue("num_experts_per_tok",
                           Concat("at most the ", eligible, " experts of the chosen groups"));
  }
  MLA_ASSIGN_OR_RETURN(moe.normalize, config.GetBoolOr("norm_topk_prob", false));
  MLA_ASSIGN_OR_RETURN(const double scaling, config.GetFloatOr("routed_scaling_factor", 1, 0, 1e6));
  moe.scaling = static_cast<float>(scaling);
  return moe;
}

Result<std::vector<LayerSpec>> ReadDeepseekLayers(const ConfigReader& config, const MlaSpec& mla,
                                                  const MoeDefaults& defaults) {
  MLA_ASSIGN_OR_RETURN(const int32_t num_layers, ReadNumLayers(config));
  MLA_ASSIGN_OR_RETURN(const DenseMlpSpec dense, ReadDenseMlp(config));
  int32_t first_moe = 0;
  int32_t every = 1;
  MLA_RETURN_IF_ERROR(ReadDimOr(config, "first_k_dense_replace", 0, 0, kMaxLayers, first_moe));
  MLA_RETURN_IF_ERROR(ReadDimOr(config, "moe_layer_freq", 1, 1, kMaxLayers, every));
  MoeSpec moe;
  const bool sparse = config.Has("n_routed_experts");
  if (sparse) {
    MLA_ASSIGN_OR_RETURN(moe, ReadMoe(config, defaults));
  }
  std::vector<LayerSpec> layers;
  for (int32_t i = 0; i < num_layers; ++i) {
    const bool is_moe = sparse && i >= first_moe && i % every == 0;
    layers.push_back({mla, is_moe ? MlpSpec(moe) : MlpSpec(dense)});
  }
  return layers;
}

}  // namespace mla
