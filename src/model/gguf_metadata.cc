#include "model/gguf_metadata.h"

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>
#include <utility>

#include "io/config.h"

namespace mla {
namespace {

using nlohmann::json;

constexpr double kMaxFactor = 1e6, kMaxTheta = 1e12;
constexpr int64_t kMaxPositions = int64_t{1} << 30;
constexpr uint32_t kSoftmaxGating = 1, kSigmoidGating = 2;

// The rope settings of a config, in either style. The families have checked the values.
struct RopeSettings {
  double theta = 10000;
  std::string type = "default";
  std::optional<ConfigReader> scaling;
};

Result<RopeSettings> ReadRopeSettings(const ConfigReader& config) {
  RopeSettings settings;
  const char* key = config.Has("rope_parameters") ? "rope_parameters" : "rope_scaling";
  MLA_ASSIGN_OR_RETURN(settings.scaling, config.GetOptionalObject(key));
  const bool inside = settings.scaling && settings.scaling->Has("rope_theta");
  MLA_ASSIGN_OR_RETURN(
      settings.theta,
      (inside ? *settings.scaling : config).GetFloatOr("rope_theta", 10000, 1.001, kMaxTheta));
  if (settings.scaling) {
    const char* type = settings.scaling->Has("rope_type") ? "rope_type" : "type";
    MLA_ASSIGN_OR_RETURN(settings.type, settings.scaling->GetStringOr(type, "default"));
  }
  return settings;
}

const RopeSpec& RopeOf(const AttentionSpec& attention) {
  if (const auto* mla = std::get_if<MlaSpec>(&attention)) return *mla->rope;
  return *std::get<GqaSpec>(attention).rope;
}

class ModelWriter {
 public:
  ModelWriter(const ModelSpec& spec, const ConfigReader& config, GgufMetadata& out)
      : spec_(spec), config_(config), out_(out), arch_(GgufArchitecture(spec)) {}

  Status Run() {
    U32("vocab_size", spec_.vocab_size);
    U32("context_length", spec_.max_positions);
    U32("embedding_length", spec_.hidden_size);
    U32("block_count", static_cast<int64_t>(spec_.layers.size()));
    U32("feed_forward_length", DenseWidth());
    F32("attention.layer_norm_rms_epsilon", spec_.norm_eps);
    const AttentionSpec& attention = spec_.layers[0].attention;
    if (const auto* mla = std::get_if<MlaSpec>(&attention)) {
      AddMla(*mla);
      AddMoe();
    } else {
      AddGqa(std::get<GqaSpec>(attention));
    }
    return AddRope(RopeOf(attention));
  }

 private:
  std::string Key(std::string_view name) const { return Concat(arch_, ".", name); }
  void U32(std::string_view name, int64_t value) {
    out_.U32(Key(name), static_cast<uint32_t>(value));
  }
  void F32(std::string_view name, double value) { out_.F32(Key(name), static_cast<float>(value)); }

  // Of the dense layers; of a model without, as wide as a token's experts are together.
  int64_t DenseWidth() const {
    int64_t width = 1;
    for (const LayerSpec& layer : spec_.layers) {
      if (const auto* dense = std::get_if<DenseMlpSpec>(&layer.mlp)) return dense->intermediate;
      const auto& moe = std::get<MoeSpec>(layer.mlp);
      width = int64_t{moe.top_k} * moe.intermediate + moe.shared_intermediate;
    }
    return width;
  }

  // The heads as the absorbed form sees them: one key of kv_lora_rank + qk_rope_head_dim numbers
  // for all; the model's own sizes are under *_mla.
  void AddMla(const MlaSpec& mla) {
    const MlaShape& s = mla.shape;
    U32("attention.head_count", s.heads);
    U32("attention.head_count_kv", 1);
    U32("attention.q_lora_rank", mla.q_lora_rank);
    U32("attention.kv_lora_rank", s.kv_lora_rank);
    U32("attention.key_length", s.kv_lora_rank + s.qk_rope_head_dim);
    U32("attention.value_length", s.kv_lora_rank);
    U32("attention.key_length_mla", s.qk_nope_head_dim + s.qk_rope_head_dim);
    U32("attention.value_length_mla", s.v_head_dim);
    U32("rope.dimension_count", s.qk_rope_head_dim);
  }

  void AddMoe() {
    int64_t dense = 0;
    const MoeSpec* moe = nullptr;
    for (const LayerSpec& layer : spec_.layers) {
      moe = std::get_if<MoeSpec>(&layer.mlp);
      if (moe != nullptr) break;
      ++dense;
    }
    U32("leading_dense_block_count", dense);
    // Readers want these keys of dense models too.
    U32("expert_feed_forward_length", moe == nullptr ? 0 : moe->intermediate);
    U32("expert_shared_count", moe == nullptr ? 0 : moe->shared_intermediate / moe->intermediate);
    if (moe == nullptr) return;
    U32("expert_count", moe->num_experts);
    U32("expert_used_count", moe->top_k);
    F32("expert_weights_scale", moe->scaling);
    out_.Bool(Key("expert_weights_norm"), moe->normalize);
    U32("expert_gating_func",
        moe->scoring == RouterScoring::kSigmoid ? kSigmoidGating : kSoftmaxGating);
    U32("expert_group_count", moe->num_groups);
    U32("expert_group_used_count", moe->topk_groups);
  }

  void AddGqa(const GqaSpec& gqa) {
    U32("attention.head_count", gqa.heads);
    U32("attention.head_count_kv", gqa.kv_heads);
    U32("attention.key_length", gqa.head_dim);
    U32("attention.value_length", gqa.head_dim);
    U32("rope.dimension_count", gqa.head_dim);
  }

  Status AddRope(const RopeSpec& rope) {
    MLA_ASSIGN_OR_RETURN(const RopeSettings settings, ReadRopeSettings(config_));
    F32("rope.freq_base", settings.theta);
    const std::string& type = settings.type;
    // Of Llama 3's kind there is a tensor instead.
    if (type == "default" || type == "llama3") return {};
    if (type != "linear" && type != "yarn") {
      return Unsupported("GGUF cannot state this model: rope type is ", type,
                         ", want default, linear, llama3 or yarn");
    }
    out_.Str(Key("rope.scaling.type"), type);
    MLA_ASSIGN_OR_RETURN(const double factor, settings.scaling->GetFloat("factor", 1, kMaxFactor));
    F32("rope.scaling.factor", factor);
    return type == "yarn" ? AddYarn(*settings.scaling, factor, rope) : Status();
  }

  Status AddYarn(const ConfigReader& scaling, double factor, const RopeSpec& rope) {
    MLA_ASSIGN_OR_RETURN(const int64_t original,
                         scaling.GetIntOr("original_max_position_embeddings", spec_.max_positions,
                                          1, kMaxPositions));
    U32("rope.scaling.original_context_length", original);
    for (const auto& [hf, fallback] : {std::pair("beta_fast", 32.0), std::pair("beta_slow", 1.0)}) {
      MLA_ASSIGN_OR_RETURN(const double beta, scaling.GetFloatOr(hf, fallback, 1e-3, kMaxFactor));
      F32(Concat("rope.scaling.yarn_", hf), beta);
    }
    if (arch_ == "deepseek2") {
      MLA_ASSIGN_OR_RETURN(const double mscale,
                           scaling.GetFloatOr("mscale_all_dim", 0, 0, kMaxFactor));
      F32("rope.scaling.yarn_log_multiplier", 0.1 * mscale);
      return {};
    }
    // Readers multiply by YaRN's own factor.
    const double usual = 0.1 * std::log(factor) + 1;
    if (std::fabs(rope.magnitude / usual - 1) > 1e-6) {
      F32("rope.scaling.attn_factor", rope.magnitude / usual);
    }
    return {};
  }

  const ModelSpec& spec_;
  const ConfigReader& config_;
  GgufMetadata& out_;
  const std::string_view arch_;
};

// The language model's part of a multimodal config.
const json& TextConfig(const json& config, const ModelSpec& spec) {
  return spec.tensor_prefix.empty() ? config : config["text_config"];
}

// Finds the first difference between two specs.
class Differences {
 public:
  template <typename T>
  bool Is(std::string_view what, const T& want, const T& got) {
    return want == got || Say(what, want, got);
  }
  bool Near(std::string_view what, double want, double got) {
    return std::fabs(want - got) <= 1e-5 * std::fabs(want) || Say(what, want, got);
  }

  bool Same(const RopeSpec& a, const RopeSpec& b) {
    if (!Is("rope type longrope", !a.long_inv_freq.empty(), !b.long_inv_freq.empty())) return false;
    if (!Near("the attention factor of cos and sin (rope_scaling.mscale, attention_factor)",
              a.magnitude, b.magnitude) ||
        !Is("the number of rotated pairs", a.inv_freq.size(), b.inv_freq.size())) {
      return false;
    }
    for (size_t i = 0; i < a.inv_freq.size(); ++i) {
      if (!Near(Concat("frequency ", i, " of rope_scaling"), a.inv_freq[i], b.inv_freq[i])) {
        return false;
      }
    }
    return true;
  }

  bool Same(const MlaSpec& a, const MlaSpec& b) {
    const MlaShape &s = a.shape, &t = b.shape;
    return Is("num_attention_heads", s.heads, t.heads) &&
           Is("kv_lora_rank", s.kv_lora_rank, t.kv_lora_rank) &&
           Is("qk_nope_head_dim", s.qk_nope_head_dim, t.qk_nope_head_dim) &&
           Is("qk_rope_head_dim", s.qk_rope_head_dim, t.qk_rope_head_dim) &&
           Is("v_head_dim", s.v_head_dim, t.v_head_dim) &&
           Is("q_lora_rank", a.q_lora_rank, b.q_lora_rank) &&
           Is("the sparse attention's indexer (index_topk)", a.indexer.has_value(),
              b.indexer.has_value()) &&
           Is("attention_bias", a.bias, b.bias) &&
           Near("the scale of q's latent", a.q_latent_scale, b.q_latent_scale) &&
           Near("the scale of the kv latent", a.kv_latent_scale, b.kv_latent_scale) &&
           Same(*a.rope, *b.rope) && Near("the scale of the scores", a.scale, b.scale);
  }

  bool Same(const GqaSpec& a, const GqaSpec& b) {
    const bool halves_a = a.rope->pairing == RopePairing::kHalves;
    const bool halves_b = b.rope->pairing == RopePairing::kHalves;
    return Is("num_attention_heads", a.heads, b.heads) &&
           Is("num_key_value_heads", a.kv_heads, b.kv_heads) &&
           Is("head_dim", a.head_dim, b.head_dim) &&
           Is("attention_bias (of q, k and v)", a.qkv_bias, b.qkv_bias) &&
           Is("attention_bias (of the output)", a.o_bias, b.o_bias) &&
           Is("the norm of q and k", a.qk_norm_eps.has_value(), b.qk_norm_eps.has_value()) &&
           // Rows are put in the order that neighbours need, not the other way.
           (halves_a || Is("rope in halves", halves_a, halves_b)) && Same(*a.rope, *b.rope) &&
           Near("the scale of the scores", a.scale, b.scale);
  }

  bool Same(const DenseMlpSpec& a, const DenseMlpSpec& b) {
    return Is("intermediate_size", a.intermediate, b.intermediate) &&
           Is("mlp_bias", a.bias, b.bias);
  }

  bool Same(const MoeSpec& a, const MoeSpec& b) {
    return Is("n_routed_experts", a.num_experts, b.num_experts) &&
           Is("the number of identity experts", a.identity_experts, b.identity_experts) &&
           Is("num_experts_per_tok", a.top_k, b.top_k) &&
           Is("moe_intermediate_size", a.intermediate, b.intermediate) &&
           Is("n_shared_experts", a.shared_intermediate / a.intermediate,
              b.shared_intermediate / b.intermediate) &&
           Is("scoring_func sigmoid", a.scoring == RouterScoring::kSigmoid,
              b.scoring == RouterScoring::kSigmoid) &&
           Is("topk_method noaux_tc", a.correction_bias, b.correction_bias) &&
           (a.num_groups == 1 || Is("groups scored by the sum of two", a.group_score == kTop2,
                                    b.group_score == kTop2)) &&
           Is("n_group", a.num_groups, b.num_groups) &&
           Is("topk_group", a.topk_groups, b.topk_groups) &&
           Is("norm_topk_prob", a.normalize, b.normalize) &&
           Near("routed_scaling_factor", a.scaling, b.scaling);
  }

  template <typename Variant>
  bool SameKind(const Variant& a, const Variant& b) {
    return std::visit(
        [&](const auto& x) {
          const auto* y = std::get_if<std::decay_t<decltype(x)>>(&b);
          if (y == nullptr) return Is("the kind of layer", a.index(), b.index());
          return Same(x, *y);
        },
        a);
  }

  bool Same(const ModelSpec& a, const ModelSpec& b) {
    return Is("vocab_size", a.vocab_size, b.vocab_size) &&
           Is("hidden_size", a.hidden_size, b.hidden_size) &&
           Is("max_position_embeddings", a.max_positions, b.max_positions) &&
           Near("rms_norm_eps", a.norm_eps, b.norm_eps) &&
           Is("tie_word_embeddings", a.tie_embeddings, b.tie_embeddings) &&
           Near("scale_emb (of the embedding)", a.embedding_scale, b.embedding_scale) &&
           Near("scale_depth (of each half layer)", a.residual_scale, b.residual_scale) &&
           Near("dim_model_base (the scale of the logits)", a.logit_scale, b.logit_scale) &&
           Is("num_hidden_layers", a.layers.size(), b.layers.size()) && SameLayers(a, b);
  }

  const std::optional<std::string>& text() const { return text_; }

 private:
  static constexpr GroupScore kTop2 = GroupScore::kTop2Sum;

  bool SameLayers(const ModelSpec& a, const ModelSpec& b) {
    for (size_t i = 0; i < a.layers.size(); ++i) {
      where_ = Concat("layer ", i, ": ");
      if (!Is("a second attention or a branch in a layer",
              a.layers[i].branch.has_value() || a.layers[i].names.has_value(), false) ||
          !SameKind(a.layers[i].attention, b.layers[i].attention) ||
          !SameKind(a.layers[i].mlp, b.layers[i].mlp)) {
        return false;
      }
    }
    return true;
  }

  template <typename T>
  bool Say(std::string_view what, const T& want, const T& got) {
    text_ = Concat(std::boolalpha, where_, what, " is ", want, ", a GGUF file can only say ", got);
    return false;
  }

  std::string where_;
  std::optional<std::string> text_;
};

}  // namespace

std::string_view GgufArchitecture(const ModelSpec& spec) {
  const auto* gqa = std::get_if<GqaSpec>(&spec.layers[0].attention);
  if (gqa == nullptr) return "deepseek2";
  if (gqa->qk_norm_eps) return "qwen3";
  return gqa->qkv_bias && !gqa->o_bias ? "qwen2" : "llama";
}

Status AddGgufModel(const ModelSpec& spec, const json& config, GgufMetadata& metadata) {
  MLA_ASSIGN_OR_RETURN(const ConfigReader reader,
                       ConfigReader::Create(TextConfig(config, spec), "config.json"));
  return ModelWriter(spec, reader, metadata).Run();
}

Result<std::vector<float>> GgufRopeFactors(const ModelSpec& spec, const json& config) {
  std::vector<float> factors;
  if (GgufArchitecture(spec) != "llama") return factors;
  MLA_ASSIGN_OR_RETURN(const ConfigReader reader,
                       ConfigReader::Create(TextConfig(config, spec), "config.json"));
  MLA_ASSIGN_OR_RETURN(const RopeSettings settings, ReadRopeSettings(reader));
  if (settings.type != "llama3") return factors;
  const std::vector<float>& inv_freq = RopeOf(spec.layers[0].attention).inv_freq;
  for (size_t i = 0; i < inv_freq.size(); ++i) {
    const double power = static_cast<double>(i) / static_cast<double>(inv_freq.size());
    factors.push_back(static_cast<float>(std::pow(settings.theta, -power) / inv_freq[i]));
  }
  return factors;
}

std::optional<std::string> GgufDifference(const ModelSpec& spec, const ModelSpec& written) {
  Differences differences;
  differences.Same(spec, written);
  return differences.text();
}

}  // namespace mla
