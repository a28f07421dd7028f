// DeepSeek-V2 and V2-Lite (arXiv 2405.04434).
#include "model/families/parts.h"
#include "model/families/registry.h"

namespace mla {
namespace {

constexpr MoeDefaults kMoe = {.topk_method = "greedy",
                              .scoring_func = "softmax",
                              .num_experts = 64,
                              .num_shared = 2,
                              .num_groups = 1,
                              .topk_groups = 1,
                              .first_moe = 0,
                              .normalize = false,
                              .scaling = 1};

}  // namespace

Result<ModelSpec> ReadDeepseekV2(const ConfigReader& config) {
  MLA_ASSIGN_OR_RETURN(ModelSpec spec, ReadBase(config, {.max_positions = 2048}));
  MLA_ASSIGN_OR_RETURN(const MlaSpec mla,
                       ReadMla(config, RopePairing::kInterleaved, {.q_lora_rank = 1536}));
  MLA_ASSIGN_OR_RETURN(spec.layers, ReadDeepseekLayers(config, mla, kMoe));
  for (LayerSpec& layer : spec.layers) {
    // V2's published code scales the weights only where it does not normalise them.
    auto* moe = std::get_if<MoeSpec>(&layer.mlp);
    if (moe != nullptr && moe->normalize) moe->scaling = 1;
  }
  return spec;
}

}  // namespace mla
