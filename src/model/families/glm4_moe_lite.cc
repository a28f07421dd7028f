// GLM-4.7-Flash: DeepSeek-V3's parts in other sizes, with the kind of every layer's MLP listed.
#include "model/families/parts.h"
#include "model/families/registry.h"

namespace mla {
namespace {

constexpr MoeDefaults kMoe = {.topk_method = "noaux_tc",
                              .scoring_func = "sigmoid",
                              .num_experts = 64,
                              .num_shared = 1,
                              .num_groups = 1,
                              .topk_groups = 1,
                              .first_moe = 1,
                              .normalize = true,
                              .scaling = 1.8};

}  // namespace

Result<ModelSpec> ReadGlm4MoeLite(const ConfigReader& config) {
  MLA_ASSIGN_OR_RETURN(ModelSpec spec,
                       ReadBase(config, {.max_positions = 202752, .norm_eps = 1e-5}));
  MLA_ASSIGN_OR_RETURN(const RopePairing pairing, ReadPairing(config));
  MLA_ASSIGN_OR_RETURN(const MlaSpec mla, ReadMla(config, pairing, {.q_lora_rank = 768}));
  MLA_ASSIGN_OR_RETURN(spec.layers, ReadDeepseekLayers(config, mla, kMoe));
  return spec;
}

}  // namespace mla
