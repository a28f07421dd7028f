#include "apps/random_model.h"

#include <algorithm>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <set>
#include <utility>

#include "apps/cli.h"
#include "apps/config_source.h"
#include "apps/output.h"
#include "base/edit_distance.h"
#include "io/json.h"
#include "model/families/registry.h"
#include "model/random_weights.h"

namespace mla {
namespace {

using Json = nlohmann::json;

StoredDType ParseWeightsDType(const std::string& name) {
  if (name == "f32") return StoredDType::kF32;
  if (name == "f16") return StoredDType::kF16;
  return name == "f8" ? StoredDType::kF8E4M3 : StoredDType::kBF16;
}

struct Setting {
  std::string key;  // dotted
  Json value;
};

Result<Setting> ParseSet(const std::string& text) {
  const size_t equals = text.find('=');
  if (equals == std::string::npos || equals == 0) {
    return InvalidArgument("--set ", Quote(text), ", want KEY=VALUE");
  }
  Setting setting{text.substr(0, equals), {}};
  const std::string value = text.substr(equals + 1);
  Result<Json> parsed = ParseJson(value, "the value");
  if (!parsed.ok()) {
    return InvalidArgument("--set ", setting.key, " has the value ", Quote(value),
                           ", want JSON: 4, 0.5, true, null, [1, 2] or \"text\" with its quotes");
  }
  setting.value = *std::move(parsed);
  return setting;
}

// Every member of an object, and those of members, with dotted names.
void CollectKeys(const Json& object, const std::string& prefix, std::set<std::string>& keys) {
  for (const auto& [key, value] : object.items()) {
    keys.insert(prefix + key);
    if (value.is_object()) CollectKeys(value, prefix + key + ".", keys);
  }
}

std::string_view LastPart(std::string_view key) { return key.substr(key.rfind('.') + 1); }

// The known key that was probably meant: the same in another object, or a few letters away.
std::string NearestKey(const std::string& key, const std::set<std::string>& known) {
  for (const std::string& candidate : known) {
    if (LastPart(candidate) == LastPart(key)) return candidate;
  }
  std::string nearest;
  size_t fewest = std::max<size_t>(2, key.size() / 3) + 1;
  for (const std::string& candidate : known) {
    const size_t edits = EditDistance(key, candidate);
    if (edits >= fewest) continue;
    fewest = edits;
    nearest = candidate;
  }
  return nearest;
}

Result<ModelSpec> ReadChangedSpec(const RandomModelFlags& flags, const ConfigSource& source) {
  std::set<std::string> known;
  CollectKeys(source.config, "", known);
  Json config = source.config;
  // Random weights are not stored, so it does not matter how.
  config.erase("quantization_config");
  MLA_RETURN_IF_ERROR(ApplySets(flags.sets, config));
  Result<ModelSpec> spec = ReadModelSpec(config, &known);
  for (const std::string& set : flags.sets) {
    const std::string key = set.substr(0, set.find('='));
    if (known.contains(key)) continue;
    const std::string nearest = NearestKey(key, known);
    if (nearest.empty() && !spec.ok()) break;  // its own error comes first
    return NotFound("--set: ", source.text, " has no key ", Quote(key), ", and nothing reads one",
                    nearest.empty() ? std::string() : Concat("; did you mean ", nearest, "?"));
  }
  if (!spec.ok()) return Error{spec.error().code, Concat(source.text, ": ", spec.message())};
  return spec;
}

}  // namespace

void RandomModelFlags::Add(CLI::App& app) {
  app.add_option(
         "--config", config,
         "Instead of MODEL: a config.json, its directory, or a name that `mla plan --list`\n"
         "shows; with --random-weights")
      ->type_name("CONFIG");
  app.add_option("--set", sets,
                 "Change the configuration: num_hidden_layers=4, rope_scaling.factor=40; VALUE is\n"
                 "JSON; may be given several times")
      ->allow_extra_args(false)
      ->type_name("KEY=VALUE");
  app.add_flag("--random-weights", random_weights, "Make the weights up: the same in every run");
  app.add_option("--weights-dtype", weights_dtype,
                 "Random weights are bf16, f16, f32, or f8: projections in FP8 with block scales\n"
                 "(default: bf16; see --quantize for block types)")
      ->check(OneOf({"bf16", "f16", "f32", "f8"}))
      ->type_name("TYPE");
}

std::string RandomModelFlags::Contradiction(const std::string& model) const {
  if (!config.empty()) {
    if (!model.empty()) return "MODEL and --config exclude each other: want one of them";
    if (!random_weights) return "--config has no weights: want --random-weights with it";
    return {};
  }
  if (!sets.empty()) return "--set changes a configuration: want --config with it";
  if (random_weights) return "--random-weights needs a configuration: want --config with it";
  if (model.empty()) return "MODEL is required (or --config with --random-weights)";
  return {};
}

std::string RandomModelFlags::Describe() const {
  std::string text = OneLine(std::filesystem::path(config).filename().string());
  if (text.empty()) text = OneLine(config);
  for (const std::string& set : sets) text += ", " + OneLine(set);
  return text + ", random " + weights_dtype + " weights";
}

Status ApplySets(std::span<const std::string> sets, Json& config) {
  for (const std::string& set : sets) {
    MLA_ASSIGN_OR_RETURN(Setting setting, ParseSet(set));
    Json* object = &config;
    std::string_view rest = setting.key;
    for (;;) {
      if (object->is_null()) *object = Json::object();
      if (!object->is_object()) {
        const size_t end = setting.key.size() - rest.size();
        return InvalidArgument("--set ", setting.key, ": ", setting.key.substr(0, end - 1), " is ",
                               DescribeJson(*object), ", not an object with members");
      }
      const size_t dot = rest.find('.');
      Json& member = (*object)[std::string(rest.substr(0, dot))];
      if (dot == rest.npos) {
        member = std::move(setting.value);
        break;
      }
      object = &member;
      rest.remove_prefix(dot + 1);
    }
  }
  return {};
}

Result<std::unique_ptr<Model>> MakeRandomModel(const RandomModelFlags& flags, ThreadPool* threads) {
  MLA_ASSIGN_OR_RETURN(const ConfigSource source, ReadConfigSource(flags.config));
  if (!source.config.is_object()) {
    return CorruptFile(source.text, " is ", DescribeJson(source.config), ", want an object");
  }
  MLA_ASSIGN_OR_RETURN(ModelSpec spec, ReadChangedSpec(flags, source));
  RandomWeightsOptions options;
  options.dtype = ParseWeightsDType(flags.weights_dtype);
  options.threads = threads;
  Result<Checkpoint> checkpoint = MakeRandomCheckpoint(spec, options);
  if (!checkpoint.ok()) {
    if (checkpoint.error().code != ErrorCode::kOutOfMemory) return checkpoint.error();
    return Error{ErrorCode::kOutOfMemory, Concat(source.text, ": ", checkpoint.message(),
                                                 "; --set num_hidden_layers=N with fewer than ",
                                                 spec.layers.size(), " layers needs less")};
  }
  return Model::Create(std::move(spec), *std::move(checkpoint));
}

}  // namespace mla
