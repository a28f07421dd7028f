// Youtu-LLM: dense MLA.
#include "model/families/parts.h"
#include "model/families/registry.h"

namespace mla {

Result<ModelSpec> ReadYoutu(const ConfigReader& config) {
  MLA_ASSIGN_OR_RETURN(ModelSpec spec, ReadBase(config));
  MLA_ASSIGN_OR_RETURN(spec.tie_embeddings, config.GetBoolOr("tie_word_embeddings", true));
  MLA_ASSIGN_OR_RETURN(const bool interleaved, config.GetBoolOr("rope_interleave", true));
  MLA_ASSIGN_OR_RETURN(const MlaSpec mla, ReadMla(config, interleaved ? RopePairing::kInterleaved
                                                                      : RopePairing::kHalves));
  MLA_ASSIGN_OR_RETURN(spec.layers, ReadDenseLayers(config, mla));
  return spec;
}

}  // namespace mla
