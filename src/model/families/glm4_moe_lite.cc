// GLM-4.7-Flash: DeepSeek-V3's parts in other sizes, with the kind of every layer's MLP listed.
#include "model/families/parts.h"
#include "model/families/registry.h"

namespace mla {

Result<ModelSpec> ReadGlm4MoeLite(const ConfigReader& config) {
  MLA_ASSIGN_OR_RETURN(ModelSpec spec, ReadBase(config));
  MLA_ASSIGN_OR_RETURN(const MlaSpec mla, ReadMla(config, RopePairing::kInterleaved));
  MLA_ASSIGN_OR_RETURN(spec.layers, ReadDeepseekLayers(config, mla, {"noaux_tc", "sigmoid"}));
  return spec;
}

}  // namespace mla
