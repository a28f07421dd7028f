// The model families: what maps a config.json to a ModelSpec. To add one, write a file beside this
// with a function of type SpecReader and add a line to the table in registry.cc.
#ifndef MLA_MODEL_FAMILIES_REGISTRY_H_
#define MLA_MODEL_FAMILIES_REGISTRY_H_

#include <nlohmann/json_fwd.hpp>
#include <string_view>
#include <vector>

#include "io/config.h"
#include "mla/result.h"
#include "model/spec.h"

namespace mla {

using SpecReader = Result<ModelSpec> (*)(const ConfigReader& config);

Result<ModelSpec> ReadDeepseekV2(const ConfigReader& config);
Result<ModelSpec> ReadDeepseekV3(const ConfigReader& config);
Result<ModelSpec> ReadLlama(const ConfigReader& config);

// Reads a whole config by its model_type. An unknown one is kUnsupported and the error lists those
// that are known.
Result<ModelSpec> ReadModelSpec(const nlohmann::json& config);

std::vector<std::string_view> KnownModelTypes();

}  // namespace mla

#endif  // MLA_MODEL_FAMILIES_REGISTRY_H_
