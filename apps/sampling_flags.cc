#include "apps/sampling_flags.h"

#include <algorithm>
#include <cstdlib>
#include <nlohmann/json.hpp>
#include <random>

#include "apps/cli.h"
#include "io/config.h"
#include "io/json.h"
#include "io/read_file.h"

namespace mla {
namespace {

constexpr const char* kFileName = "generation_config.json";

Result<GenerationDefaults> ReadDefaults(const nlohmann::json& json, const std::string& path,
                                        int32_t vocab_size) {
  MLA_ASSIGN_OR_RETURN(const ConfigReader config, ConfigReader::Create(json, path));
  GenerationDefaults defaults;
  MLA_ASSIGN_OR_RETURN(const auto eos, config.GetInts("eos_token_id", 0, vocab_size - 1));
  defaults.eos_ids.assign(eos.begin(), eos.end());
  MLA_ASSIGN_OR_RETURN(const bool sample, config.GetBoolOr("do_sample", false));
  SamplingOptions& sampling = defaults.sampling;
  MLA_ASSIGN_OR_RETURN(const double temperature, config.GetFloatOr("temperature", 1, 0, 100));
  sampling.temperature = sample ? static_cast<float>(temperature) : 0;
  MLA_ASSIGN_OR_RETURN(const int64_t top_k, config.GetIntOr("top_k", 0, 0, INT32_MAX));
  sampling.top_k = static_cast<int32_t>(top_k);
  MLA_ASSIGN_OR_RETURN(const double top_p, config.GetFloatOr("top_p", 1, 1e-6, 1));
  sampling.top_p = static_cast<float>(top_p);
  MLA_ASSIGN_OR_RETURN(const double min_p, config.GetFloatOr("min_p", 0, 0, 1));
  sampling.min_p = static_cast<float>(min_p);
  MLA_ASSIGN_OR_RETURN(const double penalty, config.GetFloatOr("repetition_penalty", 1, 0.01, 100));
  sampling.repeat_penalty = static_cast<float>(penalty);
  return defaults;
}

uint64_t RandomSeed() {
  // 32 bits: a seed that is to be typed again should be short.
  return std::random_device{}();
}

}  // namespace

Result<GenerationDefaults> ReadGenerationDefaults(const std::string& model_dir,
                                                  const ModelSpec& spec) {
  const std::string path = JoinPath(model_dir, kFileName);
  const Result<nlohmann::json> json = ReadJsonFile(path);
  if (json.ok()) return ReadDefaults(*json, path, spec.vocab_size);
  if (json.error().code != ErrorCode::kNotFound) return json.error();
  GenerationDefaults defaults;
  defaults.sampling.temperature = 0.8F;
  defaults.sampling.top_p = 0.95F;
  return defaults;
}

void SamplingFlags::Add(CLI::App& app) {
  app.add_option("-n,--max-tokens", max_tokens,
                 "Tokens to generate (default: until the text ends or the context is full)")
      ->check(IntRange(0))
      ->type_name("N");
  app.add_option("--temperature", temperature,
                 "Randomness, 0 to 100; 0: the likeliest token always")
      ->check(NumberRange(0, 100))
      ->type_name("X");
  app.add_option("--top-k", top_k, "Choose among the N likeliest tokens; 0: all")
      ->check(IntRange(0))
      ->type_name("N");
  app.add_option("--top-p", top_p,
                 "Choose among the fewest tokens that together have probability X")
      ->check(NumberRange(0, 1, true))
      ->type_name("X");
  app.add_option("--min-p", min_p, "Choose among tokens at least X times as likely as the best")
      ->check(NumberRange(0, 1))
      ->type_name("X");
  app.add_option("--repeat-penalty", repeat_penalty,
                 "Make the last 64 tokens less likely, 0.01 to 100; 1: no penalty")
      ->check(NumberRange(0.01, 100))
      ->type_name("X");
  app.add_option("--seed", seed, "The same seed gives the same text (default: random, reported)")
      ->check(UnsignedInt())
      ->type_name("N");
  app.add_flag("--ignore-eos", ignore_eos, "Go on after the model ends its text");
}

Result<GenerateOptions> SamplingFlags::Resolve(const std::string& model_dir,
                                               const ModelSpec& spec) const {
  MLA_ASSIGN_OR_RETURN(const GenerationDefaults defaults, ReadGenerationDefaults(model_dir, spec));
  GenerateOptions options;
  options.max_tokens = max_tokens;
  options.sampling = defaults.sampling;
  // Who asks for a way of sampling wants to sample, though the model's default be greedy.
  const bool asks = top_k || top_p || min_p;
  if (asks && options.sampling.temperature == 0) options.sampling.temperature = 1;
  if (temperature) options.sampling.temperature = *temperature;
  if (top_k) options.sampling.top_k = *top_k;
  if (top_p) options.sampling.top_p = *top_p;
  if (min_p) options.sampling.min_p = *min_p;
  if (repeat_penalty) options.sampling.repeat_penalty = *repeat_penalty;
  options.sampling.seed = seed ? *seed : RandomSeed();
  MLA_RETURN_IF_ERROR(Validate(options.sampling));
  if (!ignore_eos) {
    options.stop_ids = spec.eos_ids;
    for (const int32_t id : defaults.eos_ids) {
      if (std::count(options.stop_ids.begin(), options.stop_ids.end(), id) == 0) {
        options.stop_ids.push_back(id);
      }
    }
  }
  return options;
}

std::string DescribeSampling(const SamplingOptions& o) {
  if (o.temperature == 0) {
    return o.repeat_penalty == 1 ? "greedy" : Concat("greedy, repeat-penalty ", o.repeat_penalty);
  }
  std::string text = Concat("temperature ", o.temperature);
  if (o.top_k > 0) text += Concat(", top-k ", o.top_k);
  if (o.top_p < 1) text += Concat(", top-p ", o.top_p);
  if (o.min_p > 0) text += Concat(", min-p ", o.min_p);
  if (o.repeat_penalty != 1) text += Concat(", repeat-penalty ", o.repeat_penalty);
  return text + Concat(", seed ", o.seed);
}

nlohmann::ordered_json SamplingJson(const SamplingOptions& o) {
  // 0.7, not the double nearest to the float nearest to it.
  const auto decimal = [](float value) { return std::strtod(Concat(value).c_str(), nullptr); };
  nlohmann::ordered_json json;
  json["temperature"] = decimal(o.temperature);
  json["top_k"] = o.top_k;
  json["top_p"] = decimal(o.top_p);
  json["min_p"] = decimal(o.min_p);
  json["repeat_penalty"] = decimal(o.repeat_penalty);
  json["seed"] = o.seed;
  return json;
}

}  // namespace mla
