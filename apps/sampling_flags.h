// The sampling flags, over the defaults that a model ships.
#ifndef MLA_APPS_SAMPLING_FLAGS_H_
#define MLA_APPS_SAMPLING_FLAGS_H_

#include <CLI/CLI.hpp>
#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <vector>

#include "engine/generate.h"
#include "engine/sampler.h"
#include "mla/result.h"
#include "model/spec.h"

namespace mla {

// What MODEL/generation_config.json says. Without do_sample it means greedy, as its own library
// reads it; without the file, temperature 0.8 and top-p 0.95.
struct GenerationDefaults {
  SamplingOptions sampling;
  std::vector<int32_t> eos_ids;
};
Result<GenerationDefaults> ReadGenerationDefaults(const std::string& model_dir,
                                                  const ModelSpec& spec);

struct SamplingFlags {
  std::optional<float> temperature, top_p, min_p, repeat_penalty;
  std::optional<int32_t> top_k;
  std::optional<uint64_t> seed;
  int32_t max_tokens = -1;
  bool ignore_eos = false;

  void Add(CLI::App& app);

  // The flags over the model's defaults; a random seed unless one is given. Stops at the ends of
  // sequence of config.json and of generation_config.json, unless they are ignored.
  Result<GenerateOptions> Resolve(const std::string& model_dir, const ModelSpec& spec) const;
};

std::string DescribeSampling(const SamplingOptions& options);  // "temperature 0.7, ..., seed 17"
nlohmann::ordered_json SamplingJson(const SamplingOptions& options);

}  // namespace mla

#endif  // MLA_APPS_SAMPLING_FLAGS_H_
