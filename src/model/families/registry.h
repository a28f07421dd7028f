// The model families: what maps a config.json to a ModelSpec. To add one, write a file beside this
// with a function of type SpecReader and add a line to list.h (docs/adding-a-model.md).
#ifndef MLA_MODEL_FAMILIES_REGISTRY_H_
#define MLA_MODEL_FAMILIES_REGISTRY_H_

#include <nlohmann/json_fwd.hpp>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "io/config.h"
#include "mla/result.h"
#include "model/families/list.h"
#include "model/spec.h"

namespace mla {

using SpecReader = Result<ModelSpec> (*)(const ConfigReader& config);

#define MLA_DECLARE_FAMILY(type, read) Result<ModelSpec> read(const ConfigReader& config);
MLA_MODEL_FAMILIES(MLA_DECLARE_FAMILY)
#undef MLA_DECLARE_FAMILY

// Reads a whole config by its model_type. Of a multimodal model, whose config has a text_config and
// whose own type is not known, the language model is read. An unknown type is kUnsupported: the
// error lists those that are known and, of some, says what they would need. `asked`: see
// ConfigReader::Create.
Result<ModelSpec> ReadModelSpec(const nlohmann::json& config,
                                std::set<std::string>* asked = nullptr);

}  // namespace mla

#endif  // MLA_MODEL_FAMILIES_REGISTRY_H_
