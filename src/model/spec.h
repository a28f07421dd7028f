// What a model is made of, read from its config by a family (model/families) and independent of
// where its weights lie. A layer is a choice of attention and of MLP; a family combines the parts.
#ifndef MLA_MODEL_SPEC_H_
#define MLA_MODEL_SPEC_H_

#include <cstdint>
#include <memory>
#include <optional>
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
  // LongRoPE (arXiv 2402.13753): for the tokens of a step after which their sequence is longer than
  // `original_context`. Empty: one set of frequencies serves every length.
  std::vector<float> long_inv_freq;
  int32_t original_context = 0;
  float magnitude = 1;  // of cos and sin: the attention factor of YaRN and LongRoPE
  RopePairing pairing = RopePairing::kInterleaved;
};

// DeepSeek Sparse Attention's choice of tokens (DeepSeek-V3.2): a query attends to the top_k tokens
// by index score, sum_h w_h relu(q_I,h . k_I), where q_I comes from the query's latent and k_I, one
// for all heads, is cached beside the latent. The first qk_rope_head_dim elements are rotated.
struct IndexerSpec {
  int32_t heads = 0;
  int32_t head_dim = 0;
  int32_t top_k = 0;
  float norm_eps = 1e-6;  // of the LayerNorm on k_I
  RopePairing pairing = RopePairing::kHalves;
  // No scores of its own: attends to what the nearest earlier layer with scores has chosen.
  bool reuse = false;
};

struct MlaSpec {
  MlaShape shape;
  int32_t q_lora_rank = 0;       // 0: queries come from x directly (q_lora_rank null)
  float latent_norm_eps = 1e-6;  // of q_a_layernorm and kv_a_layernorm, whatever rms_norm_eps says
  float scale = 0;               // (d_n + d_r)^-1/2, times m(mscale_all_dim)^2 under YaRN
  bool bias = false;             // on q_a_proj, kv_a_proj_with_mqa and o_proj
  // What the normed latents are multiplied by.
  float q_latent_scale = 1;
  float kv_latent_scale = 1;
  std::optional<IndexerSpec> indexer;    // none: attention to all tokens
  std::shared_ptr<const RopeSpec> rope;  // shared by the layers that rotate alike
};

struct GqaSpec {
  int32_t heads = 0;
  int32_t kv_heads = 0;
  int32_t head_dim = 0;
  float scale = 0;
  bool qkv_bias = false;
  bool o_bias = false;
  std::optional<float> qk_norm_eps;      // RMSNorm of each head's q and k, before RoPE; none: none
  std::shared_ptr<const RopeSpec> rope;  // shared by the layers that rotate alike
};

struct DenseMlpSpec {
  int32_t intermediate = 0;
  bool bias = false;
};

struct MoeSpec {
  int32_t num_experts = 0;
  // Experts without weights after the others, which return their input; the router has both.
  int32_t identity_experts = 0;
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

// A mixture of experts that reads the normed input of its layer's MLP, beside it, and whose output
// is added to the residual stream `joins_after` layers later.
struct BranchSpec {
  MoeSpec moe;
  int32_t joins_after = 0;  // 0: with the MLP of its own layer
};

// Names of a layer's tensors, if they are not Hugging Face's usual ones under model.layers.I: whole
// names, and prefixes that end in a dot.
struct LayerNames {
  std::string attention_norm;  // "model.layers.3.input_layernorm.0.weight"
  std::string attention;       // "model.layers.3.self_attn.0."
  std::string mlp_norm;
  std::string mlp;
  std::string branch;  // "model.layers.3.mlp.": the branch's experts
  std::string branch_router, branch_router_bias;
};

struct LayerSpec {
  AttentionSpec attention;
  MlpSpec mlp;
  std::optional<BranchSpec> branch;
  std::optional<LayerNames> names;
};

struct ModelSpec {
  std::string model_type;
  int32_t vocab_size = 0;
  int32_t hidden_size = 0;
  int32_t max_positions = 0;  // the context the model was made for
  float norm_eps = 1e-6;
  bool tie_embeddings = false;
  float embedding_scale = 1;  // of the token embeddings
  float residual_scale = 1;   // of what each half of a layer adds to the residual stream
  float logit_scale = 1;      // of the last hidden state, before the head
  std::string tensor_prefix;  // of every tensor's name: "language_model." in multimodal checkpoints
  int32_t bos_id = -1;        // -1: none
  std::vector<int32_t> eos_ids;  // several are normal
  std::vector<LayerSpec> layers;
};

// The cache each layer needs. `full_heads`: MLA layers as plain MHA, "k" and "v" of every head in
// place of the latent.
std::vector<LayerCacheSpec> CacheSpecs(const ModelSpec& spec, bool full_heads = false);

// Numbers per token over all layers: what this model caches, and what MHA, GQA with 8 KV heads and
// MQA would cache with the same heads (expanded keys and values of each head, or of 8, or of one).
struct CacheComparison {
  int64_t model = 0, mha = 0, gqa8 = 0, mqa = 0;
};
CacheComparison CompareCaches(const ModelSpec& spec);

}  // namespace mla

#endif  // MLA_MODEL_SPEC_H_
