// Youtu-LLM: dense MLA.
#include "model/families/parts.h"
#include "model/families/registry.h"

namespace mla {

Result<ModelSpec> ReadYoutu(const ConfigReader& config) {
  MLA_ASSIGN_OR_RETURN(ModelSpec spec,
                       ReadBase(config, {.max_positions = 131072, .tie_embeddings = true}));
  MLA_ASSIGN_OR_RETURN(const RopePairing pairing, ReadPairing(config));
  MLA_ASSIGN_OR_RETURN(const MlaSpec mla, ReadMla(config, pairing, {.q_lora_rank = 1536}));
  MLA_ASSIGN_OR_RETURN(spec.layers, ReadDenseLayers(config, mla));
  return spec;
}

}  // namespace mla
