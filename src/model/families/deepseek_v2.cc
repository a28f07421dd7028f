// DeepSeek-V2 and V2-Lite (arXiv 2405.04434).
#include "model/families/parts.h"
#include "model/families/registry.h"

namespace mla {

Result<ModelSpec> ReadDeepseekV2(const ConfigReader& config) {
  MLA_ASSIGN_OR_RETURN(ModelSpec spec, ReadBase(config));
  MLA_ASSIGN_OR_RETURN(const MlaSpec mla, ReadMla(config, RopePairing::kInterleaved));
  MLA_ASSIGN_OR_RETURN(spec.layers, ReadDeepseekLayers(config, mla, {"greedy", "softmax"}));
  for (LayerSpec& layer : spec.layers) {
    // V2's published code scales the weights only where it does not normalise them.
    auto* moe = std::get_if<MoeSpec>(&layer.mlp);
    if (moe != nullptr && moe->normalize) moe->scaling = 1;
  }
  return spec;
}

}  // namespace mla
