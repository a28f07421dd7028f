// DeepSeek-V3.2: V3 with sparse attention, whose indexer rotates in halves where the attention
// pairs neighbours.
#include "model/families/parts.h"
#include "model/families/registry.h"

namespace mla {

Result<ModelSpec> ReadDeepseekV32(const ConfigReader& config) {
  MLA_ASSIGN_OR_RETURN(ModelSpec spec, ReadBase(config));
  MLA_ASSIGN_OR_RETURN(MlaSpec mla, ReadMla(config, RopePairing::kInterleaved));
  MLA_ASSIGN_OR_RETURN(mla.indexer, ReadIndexer(config, mla, RopePairing::kHalves));
  MLA_ASSIGN_OR_RETURN(spec.layers, ReadDeepseekLayers(config, mla, {"noaux_tc", "sigmoid"}));
  return spec;
}

}  // namespace mla
