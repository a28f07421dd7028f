// The dimensions of released models, as data: what `plan` can be asked about by name.
#ifndef MLA_MODEL_KNOWN_MODELS_H_
#define MLA_MODEL_KNOWN_MODELS_H_

#include <span>
#include <string_view>

#include "mla/result.h"

namespace mla {

struct KnownModel {
  std::string_view name;    // "deepseek-v3"
  std::string_view config;  // what config.json says of its dimensions, as JSON
  std::string_view source;  // where the dimensions are published
};

std::span<const KnownModel> KnownModels();

// By name; letter case, "_" and "." for "-" do not matter. kNotFound lists near names, or all.
Result<const KnownModel*> FindKnownModel(std::string_view name);

}  // namespace mla

#endif  // MLA_MODEL_KNOWN_MODELS_H_
