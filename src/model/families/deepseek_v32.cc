// DeepSeek-V3.2: V3 with sparse attention, whose indexer rotates in halves where the attention
// pairs neighbours.
#include "model/families/parts.h"
#include "model/families/registry.h"

namespace mla {
Result<ModelSpec> ReadDeepseekV32(const ConfigReader& config) {
  MLA_ASSIGN_OR_RETURN(ModelSpec spec, ReadBase(config, {.max_positions = 163840}));
  MLA_ASSIGN_OR_RETURN(MlaSpec mla,
                       ReadMla(config, RopePairing::kInterleaved, {.q_lora_rank = 1536}));
  MLA_ASSIGN_OR_RETURN(mla.indexer, ReadIndexer(config, mla, RopePairing::kHalves));
  MLA_ASSIGN_OR_RETURN(spec.layers, ReadDeepseekLayers(config, mla, kDeepseekV3Moe));
  return spec;
}

}  // namespace mla
