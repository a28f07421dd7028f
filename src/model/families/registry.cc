#include "model/families/registry.h"

#include <algorithm>
#include <iterator>
#include <nlohmann/json.hpp>
#include <string>

#include "io/json.h"

namespace mla {
namespace {

using nlohmann::json;

struct Family {
  std::string_view model_type;
  SpecReader read;
};

constexpr Family kFamilies[] = {
#define MLA_LIST_FAMILY(type, read) {type, read},
    MLA_MODEL_FAMILIES(MLA_LIST_FAMILY)
#undef MLA_LIST_FAMILY
};

// What families that are met in the wild would need and is not here.
struct Missing {
  std::string_view model_type;
  std::string_view parts;
};

constexpr Missing kMissing[] = {
    {"deepseek_ref",
     "compressed attention over shared keys and values, hash routing and hyper-connections"},
    {"deepseek_v4",
     "compressed attention over shared keys and values, hash routing and hyper-connections"},
    {"kimi_linear", "layers of linear attention (KDA)"},
    {"glm5_next", "layers of linear attention (KDA) and attention without RoPE"},
};

const Family* FindFamily(std::string_view type) {
  const auto* found = std::find_if(std::begin(kFamilies), std::end(kFamilies),
                                   [&](const Family& f) { return f.model_type == type; });
  return found == std::end(kFamilies) ? nullptr : found;
}

Error UnknownType(const std::string& type) {
  for (const Missing& missing : kMissing) {
    if (missing.model_type == type) {
      return Unsupported("config.json: model_type ", Quote(type), " is not supported: it needs ",
                         missing.parts);
    }
  }
  std::string known;
  for (const Family& family : kFamilies) {
    if (!known.empty()) known += ", ";
    known += family.model_type;
  }
  return Unsupported("config.json: model_type ", Quote(type), " is not known, want one of ", known);
}

// The language model inside a multimodal one. What the outer config says of the whole checkpoint
// holds for it too.
Result<ModelSpec> ReadTextModel(const json& config, std::set<std::string>* asked) {
  json inner = config["text_config"];
  for (const char* key : {"quantization_config", "tie_word_embeddings"}) {
    if (config.contains(key) && (!inner.contains(key) || inner[key].is_null())) {
      inner[key] = config[key];
    }
  }
  std::set<std::string> inner_asked;
  Result<ModelSpec> spec = ReadModelSpec(inner, asked != nullptr ? &inner_asked : nullptr);
  for (const std::string& key : inner_asked) asked->insert("text_config." + key);
  if (!spec.ok()) return spec;
  spec->tensor_prefix = "language_model.";
  return spec;
}

}  // namespace

Result<ModelSpec> ReadModelSpec(const json& config, std::set<std::string>* asked) {
  MLA_ASSIGN_OR_RETURN(const ConfigReader reader,
                       ConfigReader::Create(config, "config.json", asked));
  MLA_ASSIGN_OR_RETURN(const std::string type, reader.GetString("model_type"));
  if (const Family* family = FindFamily(type)) return family->read(reader);
  const auto text = config.find("text_config");
  if (text != config.end() && text->is_object() && !text->contains("text_config")) {
    return ReadTextModel(config, asked);
  }
  return UnknownType(type);
}

}  // namespace mla
