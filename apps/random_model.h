// A model that needs no checkpoint: a configuration, changed at will, and random weights.
#ifndef MLA_APPS_RANDOM_MODEL_H_
#define MLA_APPS_RANDOM_MODEL_H_

#include <CLI/CLI.hpp>
#include <memory>
#include <nlohmann/json_fwd.hpp>
#include <span>
#include <string>
#include <vector>

#include "base/threads.h"
#include "mla/result.h"
#include "model/model.h"

namespace mla {

struct RandomModelFlags {
  std::string config;             // see ReadConfigSource; empty: not asked for
  std::vector<std::string> sets;  // KEY=VALUE
  std::string weights_dtype = "bf16";
  bool random_weights = false;

  void Add(CLI::App& app);
  // What of the flags makes no sense together; empty: nothing. `model`: the MODEL given, or empty.
  std::string Contradiction(const std::string& model) const;
  std::string Describe() const;  // "lite4.json, num_hidden_layers=2, random bf16 weights"
};

// config with the members that `sets` name replaced: "rope_scaling.factor=40" changes a member of a
// member, which is made if it is not there. Values are JSON. kInvalidArgument for what is neither.
Status ApplySets(std::span<const std::string> sets, nlohmann::json& config);

// Errors name the file, and of a key in --set that neither the configuration has nor its family
// reads, the nearest that is known. How the configuration says weights are stored is not followed:
// weights_dtype is.
Result<std::unique_ptr<Model>> MakeRandomModel(const RandomModelFlags& flags, ThreadPool* threads);

}  // namespace mla

#endif  // MLA_APPS_RANDOM_MODEL_H_
