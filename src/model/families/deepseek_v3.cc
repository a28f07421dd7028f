// DeepSeek-V3, R1 and V3.1 (arXiv 2412.19437), and models of that architecture: Kimi-K2, Moonlight.
#include "model/families/parts.h"
#include "model/families/registry.h"

namespace mla {
Result<ModelSpec> ReadDeepseekV3(const ConfigReader& config) {
  MLA_ASSIGN_OR_RETURN(ModelSpec spec, ReadBase(config, {.max_positions = 4096}));
  MLA_ASSIGN_OR_RETURN(const RopePairing pairing, ReadPairing(config));
  MLA_ASSIGN_OR_RETURN(const MlaSpec mla, ReadMla(config, pairing, {.q_lora_rank = 1536}));
  MLA_ASSIGN_OR_RETURN(spec.layers, ReadDeepseekLayers(config, mla, kDeepseekV3Moe));
  return spec;
}

}  // namespace mla
