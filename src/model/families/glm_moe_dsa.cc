// GLM-5, 5.1 and 5.2: DeepSeek-V3.2 in other sizes. The indexer pairs neighbours too, and in 5.2
// most layers attend to what an earlier layer's indexer has chosen (arXiv 2603.12201).
#include <algorithm>
#include <string>
#include <vector>

#include "model/families/parts.h"
#include "model/families/registry.h"

namespace mla {
namespace {

constexpr MoeDefaults kMoe = {.topk_method = "noaux_tc",
                              .scoring_func = "sigmoid",
                              .num_experts = 256,
                              .num_shared = 1,
                              .num_groups = 1,
                              .topk_groups = 1,
                              .first_moe = 3,
                              .normalize = true,
                              .scaling = 2.5};

// For every layer: does it reuse an earlier choice? From indexer_types, or index_topk_pattern, or
// the schedule that index_topk_freq and index_skip_topk_offset make.
Result<std::vector<bool>> ReadReuse(const ConfigReader& config, size_t num_layers) {
  std::vector<bool> reuse;
  if (config.Has("indexer_types")) {
    MLA_ASSIGN_OR_RETURN(const auto types, config.GetStrings("indexer_types"));
    for (const std::string& type : types) {
      if (type != "full" && type != "shared") {
        return config.BadValue("indexer_types", "a list of full and shared");
      }
      reuse.push_back(type == "shared");
    }
  } else if (config.Has("index_topk_pattern")) {
    MLA_ASSIGN_OR_RETURN(const std::string pattern, config.GetString("index_topk_pattern"));
    for (const char letter : pattern) {
      if (letter != 'F' && letter != 'S') {
        return config.BadValue("index_topk_pattern", "a text of F and S");
      }
      reuse.push_back(letter == 'S');
    }
  } else {
    MLA_ASSIGN_OR_RETURN(const int64_t every, config.GetIntOr("index_topk_freq", 1, 1, 4096));
    MLA_ASSIGN_OR_RETURN(const int64_t skip, config.GetIntOr("index_skip_topk_offset", 2, 0, 4096));
    for (int64_t i = 0; i < static_cast<int64_t>(num_layers); ++i) {
      reuse.push_back(std::max<int64_t>(i - skip + 1, 0) % every != 0);
    }
  }
  if (reuse.size() != num_layers || reuse[0]) {
    return CorruptFile("config.json: the indexer kinds of the layers are ", reuse.size(),
                       " and begin with ", reuse.empty() || !reuse[0] ? "full" : "shared",
                       ", want num_hidden_layers (", num_layers, ") that begin with full");
  }
  return reuse;
}

}  // namespace

Result<ModelSpec> ReadGlmMoeDsa(const ConfigReader& config) {
  MLA_ASSIGN_OR_RETURN(ModelSpec spec,
                       ReadBase(config, {.max_positions = 202752, .norm_eps = 1e-5}));
  MLA_ASSIGN_OR_RETURN(MlaSpec mla,
                       ReadMla(config, RopePairing::kInterleaved, {.q_lora_rank = 2048}));
  MLA_ASSIGN_OR_RETURN(const bool interleaved, config.GetBoolOr("indexer_rope_interleave", true));
  MLA_ASSIGN_OR_RETURN(
      mla.indexer,
      ReadIndexer(config, mla, interleaved ? RopePairing::kInterleaved : RopePairing::kHalves));
  MLA_ASSIGN_OR_RETURN(spec.layers, ReadDeepseekLayers(config, mla, kMoe));
  MLA_ASSIGN_OR_RETURN(const std::vector<bool> reuse, ReadReuse(config, spec.layers.size()));
  for (size_t i = 0; i < spec.layers.size(); ++i) {
    std::get<MlaSpec>(spec.layers[i].attention).indexer->reuse = reuse[i];
  }
  return spec;
}

}  // namespace mla
