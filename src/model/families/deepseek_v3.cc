// DeepSeek-V3, R1 and V3.1 (arXiv 2412.19437), and models of that architecture: Kimi-K2, Moonlight.
#include "model/families/parts.h"
#include "model/families/registry.h"

namespace mla {

Result<ModelSpec> ReadDeepseekV3(const ConfigReader& config) {
  MLA_ASSIGN_OR_RETURN(ModelSpec spec, ReadBase(config));
  MLA_ASSIGN_OR_RETURN(const bool interleaved, config.GetBoolOr("rope_interleave", true));
  MLA_ASSIGN_OR_RETURN(const MlaSpec mla, ReadMla(config, interleaved ? RopePairing::kInterleaved
                                                                      : RopePairing::kHalves));
  MLA_ASSIGN_OR_RETURN(spec.layers, ReadDeepseekLayers(config, mla, {"noaux_tc", "sigmoid"}));
  return spec;
}

}  // namespace mla
