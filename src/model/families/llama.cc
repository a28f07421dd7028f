// Llama 2 and 3, and models of that architecture: MHA, GQA and MQA.
#include "model/families/parts.h"
#include "model/families/registry.h"

namespace mla {

Result<ModelSpec> ReadLlama(const ConfigReader& config) {
  MLA_ASSIGN_OR_RETURN(ModelSpec spec, ReadBase(config));
  MLA_ASSIGN_OR_RETURN(const int32_t num_layers, ReadNumLayers(config));
  MLA_ASSIGN_OR_RETURN(const GqaSpec attention, ReadGqa(config));
  MLA_ASSIGN_OR_RETURN(const DenseMlpSpec mlp, ReadDenseMlp(config));
  spec.layers.assign(num_layers, LayerSpec{attention, mlp});
  return spec;
}

}  // namespace mla
