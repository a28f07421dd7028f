// LongCat-Flash (arXiv 2509.01322): every layer of the config is two decoder layers with dense
// MLPs, and a mixture of experts that reads the first one's MLP input and joins after the second.
// Some of the experts return their input. The normed latents are scaled to the hidden state's
// variance.
#include <cmath>
#include <string>

#include "model/families/parts.h"
#include "model/families/registry.h"

namespace mla {
namespace {

constexpr int64_t kMaxExperts = 1 << 16;

Result<MlaSpec> ReadScaledMla(const ConfigReader& config, int32_t hidden_size) {
  MLA_ASSIGN_OR_RETURN(MlaSpec mla, ReadMla(config, RopePairing::kInterleaved,
                                            {.q_lora_rank = 1536, .rope_theta = 1e7}));
  MLA_ASSIGN_OR_RETURN(const bool scale_q, config.GetBoolOr("mla_scale_q_lora", true));
  MLA_ASSIGN_OR_RETURN(const bool scale_kv, config.GetBoolOr("mla_scale_kv_lora", true));
  const auto scale = [&](int32_t rank) {
    return static_cast<float>(std::sqrt(static_cast<double>(hidden_size) / rank));
  };
  if (scale_q && mla.q_lora_rank > 0) mla.q_latent_scale = scale(mla.q_lora_rank);
  if (scale_kv) mla.kv_latent_scale = scale(mla.shape.kv_lora_rank);
  return mla;
}

Result<MoeSpec> ReadShortcut(const ConfigReader& config) {
  MoeSpec moe;
  MLA_ASSIGN_OR_RETURN(const int64_t experts, config.GetInt("n_routed_experts", 1, kMaxExperts));
  MLA_ASSIGN_OR_RETURN(const int64_t zero,
                       config.GetIntOr("zero_expert_num",
                                       config.IsNull("zero_expert_num") ? 0 : 256, 0, kMaxExperts));
  MLA_ASSIGN_OR_RETURN(const int64_t top_k, config.GetInt("moe_topk", 1, experts + zero));
  MLA_ASSIGN_OR_RETURN(moe.intermediate, ReadSize(config, "expert_ffn_hidden_size"));
  MLA_ASSIGN_OR_RETURN(const double scaling, config.GetFloatOr("routed_scaling_factor", 6, 0, 1e6));
  MLA_ASSIGN_OR_RETURN(moe.normalize, config.GetBoolOr("norm_topk_prob", false));
  MLA_ASSIGN_OR_RETURN(const std::string kind,
                       config.GetChoiceOr("zero_expert_type", "identity", {"identity"}));
  MLA_ASSIGN_OR_RETURN(const bool router_bias, config.GetBoolOr("router_bias", false));
  if (router_bias) return config.BadValue("router_bias", "false");
  moe.num_experts = static_cast<int32_t>(experts);
  moe.identity_experts = static_cast<int32_t>(zero);
  moe.top_k = static_cast<int32_t>(top_k);
  moe.scaling = static_cast<float>(scaling);
  moe.scoring = RouterScoring::kSoftmax;
  moe.correction_bias = true;
  return moe;
}

// Half `half` of the config's layer `index`.
LayerNames NamesOf(int32_t index, int32_t half) {
  const std::string prefix = Concat("model.layers.", index, ".");
  LayerNames names;
  names.attention_norm = Concat(prefix, "input_layernorm.", half, ".weight");
  names.attention = Concat(prefix, "self_attn.", half, ".");
  names.mlp_norm = Concat(prefix, "post_attention_layernorm.", half, ".weight");
  names.mlp = Concat(prefix, "mlps.", half, ".");
  names.branch = prefix + "mlp.";
  names.branch_router = prefix + "mlp.router.classifier.weight";
  names.branch_router_bias = prefix + "mlp.router.e_score_correction_bias";
  return names;
}

}  // namespace

Result<ModelSpec> ReadLongcatFlash(const ConfigReader& config) {
  MLA_ASSIGN_OR_RETURN(ModelSpec spec,
                       ReadBase(config, {.max_positions = 131072, .norm_eps = 1e-5}));
  MLA_ASSIGN_OR_RETURN(const MlaSpec mla, ReadScaledMla(config, spec.hidden_size));
  MLA_ASSIGN_OR_RETURN(const DenseMlpSpec mlp, ReadDenseMlp(config, "ffn_hidden_size"));
  MLA_ASSIGN_OR_RETURN(const MoeSpec moe, ReadShortcut(config));
  MLA_ASSIGN_OR_RETURN(const int64_t num_layers, config.GetInt("num_layers", 1, 4096));
  for (int32_t i = 0; i < num_layers; ++i) {
    spec.layers.push_back({mla, mlp, BranchSpec{moe, 1}, NamesOf(i, 0)});
    spec.layers.push_back({mla, mlp, {}, NamesOf(i, 1)});
  }
  return spec;
}

}  // namespace mla
