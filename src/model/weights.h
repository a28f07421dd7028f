// A model's weights: views of the checkpoint's tensors, found by their Hugging Face names, which
// the checkpoint must outlive. Quantised tensors are kept as they lie, with one exception: where
// attention needs single heads of a weight (kv_b_proj, or k_b_proj and v_b_proj), a quantised one
// is decoded once.
#ifndef MLA_MODEL_WEIGHTS_H_
#define MLA_MODEL_WEIGHTS_H_

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
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

struct IndexerWeights {
  LinearWeight q;                   // wq_b [heads * head_dim, q_lora_rank]
  LinearWeight k;                   // wk [head_dim, hidden]
  ConstTensor k_norm, k_norm_bias;  // [head_dim]
  LinearWeight head_weights;        // weights_proj [heads, hidden]
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
  std::optional<IndexerWeights> indexer;  // of layers that choose tokens themselves
};

struct GqaWeights {
  LinearWeight q, k, v, o;
  ConstTensor q_norm, k_norm;  // [head_dim]; may be absent
};

struct DenseMlpWeights {
  LinearWeight gate, up, down;
};

struct MoeWeights {
  ConstTensor router;                       // [experts, identity experts included, hidden]
  ConstTensor correction_bias;              // [as many]; may be absent
  std::vector<ConstTensor> gate, up, down;  // one per expert
  std::optional<DenseMlpWeights> shared;
};

struct LayerWeights {
  ConstTensor attention_norm, mlp_norm;  // [hidden]
  std::variant<MlaWeights, GqaWeights> attention;
  std::variant<DenseMlpWeights, MoeWeights> mlp;
  std::optional<MoeWeights> branch;
};

// Memory of a weight that is not used as the checkpoint has it.
struct ConvertedWeight {
  std::shared_ptr<const uint8_t[]> memory;
  const void* stored = nullptr;  // what it was made from
  int64_t bytes = 0;
};

struct ModelWeights {
  ConstTensor embedding;   // [vocab, hidden]
  ConstTensor final_norm;  // [hidden]
  ConstTensor lm_head;     // [vocab, hidden]; the embedding if tied
  std::vector<LayerWeights> layers;
  std::vector<ConvertedWeight> converted;
  std::optional<DType> decoded_to;  // where BindWeights decoded some
};

// Finds every tensor that the spec needs. Tensors that are missing, of the wrong shape or of a type
// that cannot be computed with, and F8_E4M3 weights whose block scales NAME_scale_inv (F32, one per
// 128 x 128 block) are missing or misshapen, are all listed in one error. Tensors beyond these are
// ignored. Quantised weights that attention needs as plain floats are decoded to `decoded`: f32, or
// bf16, which has half of the bytes and is what suits bf16 arithmetic. k_b and v_b of different
// types are brought to one: `decoded`, but f32 if one of them is.
Result<ModelWeights> BindWeights(const ModelSpec& spec, const Checkpoint& checkpoint,
                                 DType decoded = DType::kF32);

// The tensors that BindWeights would look for, all of them, in the order of the model.
struct NamedShape {
  std::string name;
  std::vector<int64_t> shape;
};
std::vector<NamedShape> ListTensors(const ModelSpec& spec);

// The weights that a model of this spec has, as shapes alone, for counting: the views are present
// but hold no memory and must not be read. Of a layer's experts, which are all alike, there is one.
ModelWeights WeightShapes(const ModelSpec& spec);

}  // namespace mla

#endif  // MLA_MODEL_WEIGHTS_H_
