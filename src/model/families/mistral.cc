// Mistral 7B (arXiv 2310.06825) and its successors: Llama, and in the first version a sliding
// window.
#include "model/families/parts.h"
#include "model/families/registry.h"

namespace mla {

Result<ModelSpec> ReadMistral(const ConfigReader& config) {
  MLA_ASSIGN_OR_RETURN(ModelSpec spec, ReadBase(config, {.max_positions = 131072}));
  MLA_RETURN_IF_ERROR(RefuseSlidingWindow(config, spec.max_positions));
  MLA_ASSIGN_OR_RETURN(const GqaSpec attention, ReadGqa(config, {.kv_heads = 8}));
  MLA_ASSIGN_OR_RETURN(spec.layers, ReadDenseLayers(config, attention));
  return spec;
}

}  // namespace mla
