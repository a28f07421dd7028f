// The parts that families are put together from: each reads its own keys of config.json (Hugging
// Face names) and checks them. Errors name the key, the value and what would be right.
//
// A key that a config leaves out has the default of the family's published configuration class
// (transformers): where that is not the same for all families, a family gives its own in the
// structs below. Where there is nothing sensible to assume (most dimensions), the key must be
// there. A key that is null is something else: there is none of what it counts.
#ifndef MLA_MODEL_FAMILIES_PARTS_H_
#define MLA_MODEL_FAMILIES_PARTS_H_

#include <cstdint>

#include "io/config.h"
#include "mla/result.h"
#include "model/spec.h"

namespace mla {

struct BaseDefaults {
  int32_t max_positions;
  double norm_eps = 1e-6;
  bool tie_embeddings = false;
};

// What every decoder has: vocabulary, hidden size, norms, special ids (a config that leaves those
// out has none); refuses activations other than silu and quantised checkpoints. `layers` is left
// empty.
Result<ModelSpec> ReadBase(const ConfigReader& config, const BaseDefaults& defaults);

Result<int32_t> ReadNumLayers(const ConfigReader& config);

// One dimension: 1 to 2^20.
Result<int32_t> ReadSize(const ConfigReader& config, std::string_view key);

struct MlaDefaults {
  int32_t q_lora_rank;
  int32_t v_head_dim = 0;  // 0: must be there
  double rope_theta = 10000;
};

// MLA with q_lora_rank (null: none), YaRN's scale applied, and the given pairing.
Result<MlaSpec> ReadMla(const ConfigReader& config, RopePairing pairing,
                        const MlaDefaults& defaults);

// The pairing that rope_interleave says: neighbours unless it is false.
Result<RopePairing> ReadPairing(const ConfigReader& config);

struct GqaDefaults {
  int32_t kv_heads = 0;  // 0: as many as heads, which a null always is
  int32_t head_dim = 0;  // 0: hidden_size / num_attention_heads
};

// MHA, GQA or MQA with RoPE on the whole head, paired in halves.
Result<GqaSpec> ReadGqa(const ConfigReader& config, const GqaDefaults& defaults);

// Refuses a sliding window (4096 unless the config says otherwise; null: none) that would cut the
// context, which is `max_positions`.
Status RefuseSlidingWindow(const ConfigReader& config, int32_t max_positions);

// DeepSeek Sparse Attention's indexer, for an attention of this shape.
Result<IndexerSpec> ReadIndexer(const ConfigReader& config, const MlaSpec& mla,
                                RopePairing pairing);

// `key`: what the config calls its width.
Result<DenseMlpSpec> ReadDenseMlp(const ConfigReader& config,
                                  std::string_view key = "intermediate_size");

// All layers alike, with dense MLPs.
Result<std::vector<LayerSpec>> ReadDenseLayers(const ConfigReader& config,
                                               const AttentionSpec& attention);

struct MoeDefaults {
  std::string_view topk_method;
  std::string_view scoring_func;
  int32_t num_experts;
  int32_t num_shared;
  int32_t num_groups;
  int32_t topk_groups;
  int32_t first_moe;  // first_k_dense_replace
  bool normalize;
  double scaling;
};

// V3's, which V3.2 has as well.
inline constexpr MoeDefaults kDeepseekV3Moe = {.topk_method = "noaux_tc",
                                               .scoring_func = "sigmoid",
                                               .num_experts = 256,
                                               .num_shared = 1,
                                               .num_groups = 8,
                                               .topk_groups = 4,
                                               .first_moe = 3,
                                               .normalize = true,
                                               .scaling = 2.5};

// DeepSeek's mixture of experts: the routing of topk_method (greedy, group_limited_greedy,
// noaux_tc) and scoring_func. Null: no shared experts, no groups.
Result<MoeSpec> ReadMoe(const ConfigReader& config, const MoeDefaults& defaults);

// DeepSeek's layer list: mlp_layer_types if the config has it ("dense", "sparse"); else
// first_k_dense_replace dense layers, then a mixture in every moe_layer_freq-th layer (dense
// throughout if n_routed_experts is null).
Result<std::vector<LayerSpec>> ReadDeepseekLayers(const ConfigReader& config, const MlaSpec& mla,
                                                  const MoeDefaults& defaults);

}  // namespace mla

#endif  // MLA_MODEL_FAMILIES_PARTS_H_
