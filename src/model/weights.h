// A model's weights: views of the checkpoint's tensors, found by their Hugging Face names. Nothing
// is copied; the checkpoint must outlive them.
#ifndef MLA_MODEL_WEIGHTS_H_
#define MLA_MODEL_WEIGHTS_H_

#include <optional>
#include <variant>
#include <vector>

#include "io/checkpoint.h"
#include "mla/result.h"
#include "mla/tensor.h"
#include "model/spec.h"

namespace mla {

struct LinearWeight {
  ConstTensor w;     // [out, in]
  ConstTensor bias;  // [out]; may be absent
};

struct MlaWeights {
  // With q_lora_rank: q_a, q_a_norm and q_b. Without: q.
  LinearWeight q, q_a, q_b;
  ConstTensor q_a_norm;   // [q_lora_rank]
  LinearWeight kv_a;      // [kv_lora_rank + qk_rope_head_dim, hidden]
  ConstTensor kv_a_norm;  // [kv_lora_rank]
  // Views of kv_b_proj [heads * (qk_nope_head_dim + v_head_dim), kv_lora_rank], or of k_b_proj
  // [heads * qk_nope_head_dim, kv_lora_rank] and v_b_proj [heads * v_head_dim, kv_lora_rank].
  ConstTensor w_uk;  // [heads, qk_nope_head_dim, kv_lora_rank]
  ConstTensor w_uv;  // [heads, v_head_dim, kv_lora_rank]
  LinearWeight o;
};

struct GqaWeights {
  LinearWeight q, k, v, o;
};

struct DenseMlpWeights {
  LinearWeight gate, up, down;
};

struct MoeWeights {
  ConstTensor router;                       // [experts, hidden]
  ConstTensor correction_bias;              // [experts]; may be absent
  std::vector<ConstTensor> gate, up, down;  // one per expert
  std::optional<DenseMlpWeights> shared;
};

struct LayerWeights {
  ConstTensor attention_norm, mlp_norm;  // [hidden]
  std::variant<MlaWeights, GqaWeights> attention;
  std::variant<DenseMlpWeights, MoeWeights> mlp;
};

struct ModelWeights {
  ConstTensor embedding;   // [vocab, hidden]
  ConstTensor final_norm;  // [hidden]
  ConstTensor lm_head;     // [vocab, hidden]; the embedding if tied
  std::vector<LayerWeights> layers;
};

// Finds every tensor that the spec needs. Tensors that are missing, of the wrong shape or of a type
// that cannot be computed with are all listed in one error. Tensors beyond these are ignored.
Result<ModelWeights> BindWeights(const ModelSpec& spec, const Checkpoint& checkpoint);

}  // namespace mla

#endif  // MLA_MODEL_WEIGHTS_H_
