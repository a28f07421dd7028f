// Llama 2 and 3, and models of that architecture: MHA, GQA and MQA.
#include "model/families/parts.h"
#include "model/families/registry.h"

namespace mla {

Result<ModelSpec> ReadLlama(const ConfigReader& config) {
  MLA_ASSIGN_OR_RETURN(ModelSpec spec, ReadBase(config, {.max_positions = 2048}));
  MLA_ASSIGN_OR_RETURN(const GqaSpec attention, ReadGqa(config, {}));
  MLA_ASSIGN_OR_RETURN(spec.layers, ReadDenseLayers(config, attention));
  return spec;
}

}  // namespace mla
