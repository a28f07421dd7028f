// The parts that families are put together from: each reads its own keys of config.json (Hugging
// Face names) and checks them. Errors name the key, the value and what would be right.
#ifndef MLA_MODEL_FAMILIES_PARTS_H_
#define MLA_MODEL_FAMILIES_PARTS_H_

#include <cstdint>

#include "io/config.h"
#include "mla/result.h"
#include "model/spec.h"

namespace mla {

// What every decoder has: vocabulary, hidden size, norms, special ids; refuses activations other
// than silu and quantised checkpoints. `layers` is left empty.
Result<ModelSpec> ReadBase(const ConfigReader& config);

Result<int32_t> ReadNumLayers(const ConfigReader& config);

// One dimension: 1 to 2^20.
Result<int32_t> ReadSize(const ConfigReader& config, std::string_view key);

// MLA with q_lora_rank (null: none), YaRN's scale applied, and the given pairing. A config without
// v_head_dim has this one, if it is not 0.
Result<MlaSpec> ReadMla(const ConfigReader& config, RopePairing pairing, int32_t v_head_dim = 0);

// MHA, GQA or MQA with RoPE on the whole head, paired in halves.
Result<GqaSpec> ReadGqa(const ConfigReader& config);

// Refuses a sliding window that would cut the context. `enabled`: the config says it is in use.
Status RefuseSlidingWindow(const ConfigReader& config, bool enabled);

// DeepSeek Sparse Attention's indexer, for an attention of this shape.
Result<IndexerSpec> ReadIndexer(const ConfigReader& config, const MlaSpec& mla,
                                RopePairing pairing);

// `key`: what the config calls its width.
Result<DenseMlpSpec> ReadDenseMlp(const ConfigReader& config,
                                  std::string_view key = "intermediate_size");

// All layers alike, with dense MLPs.
Result<std::vector<LayerSpec>> ReadDenseLayers(const ConfigReader& config,
                                               const AttentionSpec& attention);

// DeepSeek's mixture of experts: the routing of topk_method (greedy, group_limited_greedy,
// noaux_tc) and scoring_func, with the given defaults where a config leaves them out.
struct MoeDefaults {
  std::string_view topk_method;
  std::string_view scoring_func;
};
Result<MoeSpec> ReadMoe(const ConfigReader& config, const MoeDefaults& defaults);

// DeepSeek's layer list: mlp_layer_types if the config has it ("dense", "sparse"); else
// first_k_dense_replace dense layers, then a mixture in every moe_layer_freq-th layer (dense
// throughout if n_routed_experts is null).
Result<std::vector<LayerSpec>> ReadDeepseekLayers(const ConfigReader& config, const MlaSpec& mla,
                                                  const MoeDefaults& defaults);

}  // namespace mla

#endif  // MLA_MODEL_FAMILIES_PARTS_H_
