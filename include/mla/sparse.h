// DeepSeek Sparse Attention (DeepSeek-V3.2) as two operators over paged caches: the lightning
// indexer's choice of tokens, and MLA in its absorbed form over the tokens chosen. What
// mla/attention.h says of all attention operators holds here too.
#ifndef MLA_SPARSE_H_
#define MLA_SPARSE_H_

#include <cstdint>

#include "mla/attention.h"
#include "mla/context.h"
#include "mla/result.h"
#include "mla/tensor.h"

namespace mla {

// The top_k visible tokens of each query by index score,
//   score_ij = sum_h weights_ih relu(q_ih . k_j),
// formed in fp32 or better in every ComputeMode. Equal scores: the lower index goes first. A NaN
// counts as the lowest score.
struct MlaIndexTopkArgs {
  ConstTensor q;        // [tokens, index_heads, d_I] f32
  ConstTensor weights;  // [tokens, index_heads] f32; constant factors of the scores are in here
  ConstTensor cache;    // [num_pages, page_size, d_I]: k
  PagedBatch batch;
  int32_t top_k = 0;
  bool causal = true;
  // [tokens, top_k] i32 out: positions within the query's sequence, ascending; then -1, where fewer
  // than top_k tokens are visible.
  Tensor indices;
};

// MlaAbsorbed over the given tokens alone: which are seen is for the indices to say, so there is no
// causal mask here.
struct MlaSparseArgs {
  ConstTensor q;  // [tokens, heads, kv_lora_rank + qk_rope_head_dim]: [q_lat ; q_pe]
  // [num_pages, page_size, kv_lora_rank + qk_rope_head_dim]: [c_kv ; k_pe]; or int8 latents
  ConstTensor cache;
  ConstTensor indices;  // [tokens, top_k] i32: distinct positions below kv_len; -1: nothing
  PagedBatch batch;
  int32_t kv_lora_rank = 0;
  float scale = 0;
  Tensor out;  // [tokens, heads, kv_lora_rank]
  Tensor lse;  // [tokens, heads] f32; may be absent
};

Status MlaIndexTopk(const MlaIndexTopkArgs& args, const Context& context);
Status MlaSparse(const MlaSparseArgs& args, const Context& context);

Result<KernelVerdicts> ExplainMlaIndexTopk(const MlaIndexTopkArgs& args, const Context& context);
Result<KernelVerdicts> ExplainMlaSparse(const MlaSparseArgs& args, const Context& context);

}  // namespace mla

#endif  // MLA_SPARSE_H_
