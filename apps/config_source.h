// A model's configuration, wherever the user says it is.
#ifndef MLA_APPS_CONFIG_SOURCE_H_
#define MLA_APPS_CONFIG_SOURCE_H_

#include <nlohmann/json.hpp>
#include <string>

#include "mla/result.h"

namespace mla {

struct ConfigSource {
  nlohmann::json config;
  std::string text;  // where it is from
};

// `name`: a model directory, a config.json, or a name of KnownModels(). Errors name the path or the
// names that are near.
Result<ConfigSource> ReadConfigSource(const std::string& name);

}  // namespace mla

#endif  // MLA_APPS_CONFIG_SOURCE_H_
