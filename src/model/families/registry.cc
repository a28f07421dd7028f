#include "model/families/registry.h"

#include <nlohmann/json.hpp>
#include <string>

#include "io/json.h"

namespace mla {
namespace {

struct Family {
  std::string_view model_type;
  SpecReader read;
};

constexpr Family kFamilies[] = {
    {"deepseek_v2", ReadDeepseekV2},
    {"deepseek_v3", ReadDeepseekV3},
    {"llama", ReadLlama},
};

}  // namespace

std::vector<std::string_view> KnownModelTypes() {
  std::vector<std::string_view> types;
  for (const Family& family : kFamilies) types.push_back(family.model_type);
  return types;
}

Result<ModelSpec> ReadModelSpec(const nlohmann::json& config) {
  MLA_ASSIGN_OR_RETURN(const ConfigReader reader, ConfigReader::Create(config, "config.json"));
  MLA_ASSIGN_OR_RETURN(const std::string type, reader.GetString("model_type"));
  std::string known;
  for (const Family& family : kFamilies) {
    if (family.model_type == type) return family.read(reader);
    if (!known.empty()) known += ", ";
    known += family.model_type;
  }
  return Unsupported("config.json: model_type ", Quote(type), " is not known, want one of ", known);
}

}  // namespace mla
