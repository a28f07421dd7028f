#include "model/families/parts.h"

#include <algorithm>
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
constexpr int64_t kDefaultWindow = 4096;

// Reads a dimension into an int32.
Status ReadDim(const ConfigReader& config, std::string_view key, int64_t max, int32_t& value) {
  MLA_ASSIGN_OR_RETURN(const int64_t read, config.GetInt(key, 1, max));
  value = static_cast<int32_t>(read);
  return {};
}

// Null counts as missing.
Status ReadDimOr(const ConfigReader& config, std::string_view key, int64_t fallback, int64_t min,
                 int64_t max, int32_t& value) {
  MLA_ASSIGN_OR_RETURN(const int64_t read, config.GetIntOr(key, fallback, min, max));
  value = static_cast<int32_t>(read);
  return {};
}

// The fallback of a key for which null is another value than the default.
int64_t Unless(const ConfigReader& config, std::string_view key, int64_t fallback, int64_t null) {
  return config.IsNull(key) ? null : fallback;
}

Status ReadSpecialIds(const ConfigReader& config, ModelSpec& spec) {
  MLA_ASSIGN_OR_RETURN(const auto bos,
                       config.GetOptionalInt("bos_token_id", 0, spec.vocab_size - 1));
  spec.bos_id = static_cast<int32_t>(bos.value_or(-1));
  MLA_ASSIGN_OR_RETURN(const auto eos, config.GetInts("eos_token_id", 0, spec.vocab_size - 1));
  spec.eos_ids.assign(eos.begin(), eos.end());
  return {};
}

// What a quantised checkpoint calls itself: "modelopt NVFP4", "compressed-tensors pack-quantized".
Result<std::string> QuantisationName(const ConfigReader& quantisation) {
  MLA_ASSIGN_OR_RETURN(std::string name, quantisation.GetStringOr("quant_method", "unnamed"));
  for (const char* key : {"quant_algo", "moe_quant_algo", "format", "fmt"}) {
    MLA_ASSIGN_OR_RETURN(const std::string detail, quantisation.GetStringOr(key, ""));
    if (!detail.empty()) name += " " + detail;
  }
  return name;
}

// Of quantised checkpoints in safetensors, FP8 as DeepSeek-V3 has it.
Status CheckQuantisation(const ConfigReader& config) {
  MLA_ASSIGN_OR_RETURN(const auto quantisation, config.GetOptionalObject("quantization_config"));
  if (!quantisation) return {};
  MLA_ASSIGN_OR_RETURN(const std::string name, QuantisationName(*quantisation));
  MLA_ASSIGN_OR_RETURN(const auto block, quantisation->GetInts("weight_block_size", 1, kMaxDim));
  if (name != "fp8" && name != "fp8 e4m3") {
    return Unsupported(
        "config.json: quantization_config is ", name,
        ", want quant_method fp8 with fmt e4m3, or a checkpoint in bf16, f16 or f32");
  }
  if (block != std::vector<int64_t>{128, 128}) {
    std::string text;
    for (const int64_t n : block) text += Concat(text.empty() ? "" : ", ", n);
    return Unsupported("config.json: quantization_config.weight_block_size is [", text,
                       "], want [128, 128]");
  }
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
  MLA_RETURN_IF_ERROR(ReadDimOr(config, "n_group",
                                Unless(config, "n_group", defaults.num_groups, 1), 1, kMaxExperts,
                                moe.num_groups));
  MLA_RETURN_IF_ERROR(ReadDimOr(config, "topk_group",
                                Unless(config, "topk_group", defaults.topk_groups, 1), 1,
                                kMaxExperts, moe.topk_groups));
  if (moe.num_experts % moe.num_groups != 0) {
    return config.BadValue("n_group",
                           Concat("a divisor of n_routed_experts (", moe.num_experts, ")"));
  }
  if (moe.topk_groups > moe.num_groups) {
    return config.BadValue("topk_group", Concat("at most n_group (", moe.num_groups, ")"));
  }
  return {};
}

// For every layer: does it have a mixture of experts?
Result<std::vector<bool>> ReadMlpPattern(const ConfigReader& config, int32_t default_first_moe) {
  MLA_ASSIGN_OR_RETURN(const int32_t num_layers, ReadNumLayers(config));
  std::vector<bool> is_moe;
  if (config.Has("mlp_layer_types")) {
    MLA_ASSIGN_OR_RETURN(const std::vector<std::string> types,
                         config.GetStrings("mlp_layer_types"));
    if (std::ssize(types) != num_layers) {
      return CorruptFile("config.json: mlp_layer_types has ", types.size(),
                         " entries, want num_hidden_layers (", num_layers, ")");
    }
    for (const std::string& type : types) {
      if (type != "dense" && type != "sparse") {
        return config.BadValue("mlp_layer_types", "a list of dense and sparse");
      }
      is_moe.push_back(type == "sparse");
    }
    return is_moe;
  }
  int32_t first_moe = 0;
  int32_t every = 1;
  MLA_RETURN_IF_ERROR(
      ReadDimOr(config, "first_k_dense_replace", default_first_moe, 0, kMaxLayers, first_moe));
  MLA_RETURN_IF_ERROR(ReadDimOr(config, "moe_layer_freq", 1, 1, kMaxLayers, every));
  const bool sparse = !config.IsNull("n_routed_experts");
  for (int32_t i = 0; i < num_layers; ++i) {
    is_moe.push_back(sparse && i >= first_moe && i % every == 0);
  }
  return is_moe;
}

}  // namespace

Result<ModelSpec> ReadBase(const ConfigReader& config, const BaseDefaults& defaults) {
  ModelSpec spec;
  MLA_ASSIGN_OR_RETURN(spec.model_type, config.GetString("model_type"));
  MLA_RETURN_IF_ERROR(ReadDim(config, "vocab_size", kMaxVocab, spec.vocab_size));
  MLA_RETURN_IF_ERROR(ReadDim(config, "hidden_size", kMaxDim, spec.hidden_size));
  MLA_RETURN_IF_ERROR(ReadDimOr(config, "max_position_embeddings", defaults.max_positions, 1,
                                kMaxPositions, spec.max_positions));
  MLA_ASSIGN_OR_RETURN(const double eps,
                       config.GetFloatOr("rms_norm_eps", defaults.norm_eps, 0, 1));
  spec.norm_eps = static_cast<float>(eps);
  MLA_ASSIGN_OR_RETURN(spec.tie_embeddings,
                       config.GetBoolOr("tie_word_embeddings", defaults.tie_embeddings));
  MLA_RETURN_IF_ERROR(ReadSpecialIds(config, spec));
  MLA_ASSIGN_OR_RETURN(const std::string activation, config.GetStringOr("hidden_act", "silu"));
  if (activation != "silu") return config.BadValue("hidden_act", "silu");
  MLA_RETURN_IF_ERROR(CheckQuantisation(config));
  return spec;
}

Result<int32_t> ReadNumLayers(const ConfigReader& config) {
  int32_t layers = 0;
  MLA_RETURN_IF_ERROR(ReadDim(config, "num_hidden_layers", kMaxLayers, layers));
  return layers;
}

Result<int32_t> ReadSize(const ConfigReader& config, std::string_view key) {
  int32_t size = 0;
  MLA_RETURN_IF_ERROR(ReadDim(config, key, kMaxDim, size));
  return size;
}

Result<RopePairing> ReadPairing(const ConfigReader& config) {
  MLA_ASSIGN_OR_RETURN(const bool interleaved, config.GetBoolOr("rope_interleave", true));
  return interleaved ? RopePairing::kInterleaved : RopePairing::kHalves;
}

Result<MlaSpec> ReadMla(const ConfigReader& config, RopePairing pairing,
                        const MlaDefaults& defaults) {
  MlaSpec mla;
  MlaShape& shape = mla.shape;
  MLA_RETURN_IF_ERROR(ReadDim(config, "num_attention_heads", kMaxHeads, shape.heads));
  MLA_RETURN_IF_ERROR(ReadDim(config, "kv_lora_rank", kMaxDim, shape.kv_lora_rank));
  MLA_RETURN_IF_ERROR(ReadDim(config, "qk_nope_head_dim", kMaxDim, shape.qk_nope_head_dim));
  MLA_RETURN_IF_ERROR(ReadDim(config, "qk_rope_head_dim", kMaxDim, shape.qk_rope_head_dim));
  if (defaults.v_head_dim > 0) {
    MLA_RETURN_IF_ERROR(
        ReadDimOr(config, "v_head_dim", defaults.v_head_dim, 1, kMaxDim, shape.v_head_dim));
  } else {
    MLA_RETURN_IF_ERROR(ReadDim(config, "v_head_dim", kMaxDim, shape.v_head_dim));
  }
  if (shape.qk_rope_head_dim % 2 != 0) {
    return config.BadValue("qk_rope_head_dim", "an even number");
  }
  MLA_RETURN_IF_ERROR(ReadDimOr(config, "q_lora_rank",
                                Unless(config, "q_lora_rank", defaults.q_lora_rank, 0), 1, kMaxDim,
                                mla.q_lora_rank));
  MLA_ASSIGN_OR_RETURN(mla.bias, config.GetBoolOr("attention_bias", false));
  MLA_ASSIGN_OR_RETURN(RopeResult rope,
                       ReadRope(config, shape.qk_rope_head_dim, pairing, defaults.rope_theta));
  mla.rope = std::make_shared<const RopeSpec>(std::move(rope.rope));
  mla.scale = static_cast<float>(
      rope.scale_factor / std::sqrt(double{1} * shape.qk_nope_head_dim + shape.qk_rope_head_dim));
  return mla;
}

Result<GqaSpec> ReadGqa(const ConfigReader& config, const GqaDefaults& defaults) {
  GqaSpec gqa;
  MLA_RETURN_IF_ERROR(ReadDim(config, "num_attention_heads", kMaxHeads, gqa.heads));
  const int32_t kv_heads = defaults.kv_heads > 0 ? defaults.kv_heads : gqa.heads;
  MLA_RETURN_IF_ERROR(ReadDimOr(config, "num_key_value_heads",
                                Unless(config, "num_key_value_heads", kv_heads, gqa.heads), 1,
                                kMaxHeads, gqa.kv_heads));
  if (gqa.heads % gqa.kv_heads != 0) {
    return config.BadValue("num_key_value_heads",
                           Concat("a divisor of num_attention_heads (", gqa.heads, ")"));
  }
  if (config.Has("head_dim") || (defaults.head_dim > 0 && !config.IsNull("head_dim"))) {
    MLA_RETURN_IF_ERROR(ReadDimOr(config, "head_dim", defaults.head_dim, 1, kMaxDim, gqa.head_dim));
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
  MLA_ASSIGN_OR_RETURN(RopeResult rope,
                       ReadRope(config, gqa.head_dim, RopePairing::kHalves, 10000));
  gqa.rope = std::make_shared<const RopeSpec>(std::move(rope.rope));
  gqa.scale = static_cast<float>(1 / std::sqrt(static_cast<double>(gqa.head_dim)));
  return gqa;
}

Status RefuseSlidingWindow(const ConfigReader& config, int32_t max_positions) {
  if (config.IsNull("sliding_window")) return {};
  MLA_ASSIGN_OR_RETURN(const int64_t window,
                       config.GetIntOr("sliding_window", kDefaultWindow, 0, kMaxPositions));
  if (window >= max_positions) return {};
  return Unsupported("config.json: sliding_window is ", window,
                     config.Has("sliding_window") ? "" : ", as it is left out",
                     ": windows shorter than the context (max_position_embeddings, ", max_positions,
                     ") are not supported, want null or more");
}

Result<IndexerSpec> ReadIndexer(const ConfigReader& config, const MlaSpec& mla,
                                RopePairing pairing) {
  IndexerSpec indexer;
  indexer.pairing = pairing;
  MLA_RETURN_IF_ERROR(ReadDim(config, "index_n_heads", kMaxHeads, indexer.heads));
  MLA_RETURN_IF_ERROR(ReadDim(config, "index_head_dim", kMaxDim, indexer.head_dim));
  MLA_RETURN_IF_ERROR(ReadDim(config, "index_topk", kMaxPositions, indexer.top_k));
  if (indexer.head_dim < mla.shape.qk_rope_head_dim) {
    return config.BadValue("index_head_dim",
                           Concat("at least qk_rope_head_dim (", mla.shape.qk_rope_head_dim, ")"));
  }
  if (mla.q_lora_rank == 0) {
    return config.BadValue("q_lora_rank", "a number: the indexer reads the query's latent");
  }
  return indexer;
}

Result<DenseMlpSpec> ReadDenseMlp(const ConfigReader& config, std::string_view key) {
  DenseMlpSpec mlp;
  MLA_RETURN_IF_ERROR(ReadDim(config, key, kMaxDim, mlp.intermediate));
  MLA_ASSIGN_OR_RETURN(mlp.bias, config.GetBoolOr("mlp_bias", false));
  return mlp;
}

Result<std::vector<LayerSpec>> ReadDenseLayers(const ConfigReader& config,
                                               const AttentionSpec& attention) {
  MLA_ASSIGN_OR_RETURN(const int32_t num_layers, ReadNumLayers(config));
  MLA_ASSIGN_OR_RETURN(const DenseMlpSpec mlp, ReadDenseMlp(config));
  return std::vector<LayerSpec>(num_layers, LayerSpec{attention, mlp, {}, {}});
}

Result<MoeSpec> ReadMoe(const ConfigReader& config, const MoeDefaults& defaults) {
  MoeSpec moe;
  if (config.IsNull("n_routed_experts")) {
    return config.BadValue("n_routed_experts", "a number, where a layer has experts");
  }
  MLA_RETURN_IF_ERROR(
      ReadDimOr(config, "n_routed_experts", defaults.num_experts, 1, kMaxExperts, moe.num_experts));
  MLA_RETURN_IF_ERROR(ReadDim(config, "num_experts_per_tok", kMaxExperts, moe.top_k));
  MLA_RETURN_IF_ERROR(ReadDim(config, "moe_intermediate_size", kMaxDim, moe.intermediate));
  int32_t shared = 0;
  MLA_RETURN_IF_ERROR(ReadDimOr(config, "n_shared_experts",
                                Unless(config, "n_shared_experts", defaults.num_shared, 0), 0, 1024,
                                shared));
  moe.shared_intermediate = shared * moe.intermediate;
  MLA_RETURN_IF_ERROR(ReadRouting(config, defaults, moe));
  const int32_t eligible = moe.num_experts / moe.num_groups * moe.topk_groups;
  if (moe.top_k > eligible) {
    return config.BadValue("num_experts_per_tok",
                           Concat("at most the ", eligible, " experts of the chosen groups"));
  }
  MLA_ASSIGN_OR_RETURN(moe.normalize, config.GetBoolOr("norm_topk_prob", defaults.normalize));
  MLA_ASSIGN_OR_RETURN(const double scaling,
                       config.GetFloatOr("routed_scaling_factor", defaults.scaling, 0, 1e6));
  moe.scaling = static_cast<float>(scaling);
  return moe;
}

Result<std::vector<LayerSpec>> ReadDeepseekLayers(const ConfigReader& config, const MlaSpec& mla,
                                                  const MoeDefaults& defaults) {
  MLA_ASSIGN_OR_RETURN(const std::vector<bool> is_moe, ReadMlpPattern(config, defaults.first_moe));
  const bool any_moe = std::find(is_moe.begin(), is_moe.end(), true) != is_moe.end();
  const bool all_moe = std::find(is_moe.begin(), is_moe.end(), false) == is_moe.end();
  DenseMlpSpec dense;
  if (!all_moe) {
    MLA_ASSIGN_OR_RETURN(dense, ReadDenseMlp(config));
  }
  MoeSpec moe;
  if (any_moe) {
    MLA_ASSIGN_OR_RETURN(moe, ReadMoe(config, defaults));
  }
  std::vector<LayerSpec> layers;
  layers.reserve(is_moe.size());
  for (const bool sparse : is_moe) {
    layers.push_back({mla, sparse ? MlpSpec(moe) : MlpSpec(dense), {}, {}});
  }
  return layers;
}

}  // namespace mla
