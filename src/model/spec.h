// What a model is made of, read from its config by a family (model/families) and independent of
// where its weights lie. A layer is a choice of attention and of MLP; a family combines the parts.
#ifndef MLA_MODEL_SPEC_H_
#define MLA_MODEL_SPEC_H_

#include <cstdint>
#include <memory>
#include <string>
#include <variant>
#include <vector>

#include "dispatch/mla_form.h"
#include "kvcache/kv_cache.h"
#include "mla/elementwise.h"

namespace mla {

// Rotary embedding, ready to apply.
struct RopeSpec {
  std::vector<float> inv_freq;  // [d_r / 2]
  float magnitude = 1;          // of cos and sin: YaRN's m(mscale) / m(mscale_all_dim)
  RopePairing pairing = RopePairing::kInterleaved;
};

struct MlaSpec {
  MlaShape shape;
  int32_t q_lora_rank = 0;       // 0: queries come from x directly (q_lora_rank null)
  float latent_norm_eps = 1e-6;  // of q_a_layernorm and kv_a_layernorm, whatever rms_norm_eps says
  float scale = 0;               // (d_n + d_r)^-1/2, times m(mscale_all_dim)^2 under YaRN
  bool bias = false;             // on q_a_proj, kv_a_proj_with_mqa and o_proj
  std::shared_ptr<const RopeSpec> rope;  // shared by the layers that rotate alike
};

struct GqaSpec {
  int32_t heads = 0;
  int32_t kv_heads = 0;
  int32_t head_dim = 0;
  float scale = 0;
  bool qkv_bias = false;
  bool o_bias = false;
  std::shared_ptr<const RopeSpec> rope;  // shared by the layers that rotate alike
};

struct DenseMlpSpec {
  int32_t intermediate = 0;
  bool bias = false;
};

struct MoeSpec {
  int32_t num_experts = 0;
  int32_t top_k = 0;
  int32_t intermediate = 0;         // of one routed expert
  int32_t shared_intermediate = 0;  // of the shared experts together; 0: none
  RouterScoring scoring = RouterScoring::kSoftmax;
  GroupScore group_score = GroupScore::kMax;
  int32_t num_groups = 1;
  int32_t topk_groups = 1;
  bool normalize = false;
  float scaling = 1;
  bool correction_bias = false;
};

using AttentionSpec = std::variant<MlaSpec, GqaSpec>;
using MlpSpec = std::variant<DenseMlpSpec, MoeSpec>;

struct LayerSpec {
  AttentionSpec attention;
  MlpSpec mlp;
};

struct ModelSpec {
  std::string model_type;
  int32_t vocab_size = 0;
  int32_t hidden_size = 0;
  int32_t max_positions = 0;  // the context the model was made for
  float norm_eps = 1e-6;
  bool tie_embeddings = false;
  int32_t bos_id = -1;           // -1: none
  std::vector<int32_t> eos_ids;  // several are normal
  std::vector<LayerSpec> layers;
};

// The cache each layer needs.
std::vector<LayerCacheSpec> CacheSpecs(const ModelSpec& spec);

// Numbers per token over all layers: what this model caches, and what MHA, GQA with 8 KV heads and
// MQA would cache with the same heads (expanded keys and values of each head, or of 8, or of one).
struct CacheComparison {
  int64_t model = 0, mha = 0, gqa8 = 0, mqa = 0;
};
CacheComparison CompareCaches(const ModelSpec& spec);

}  // namespace mla

#endif  // MLA_MODEL_SPEC_H_
