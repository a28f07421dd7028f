// The attention operators: MLA in its absorbed and its expanded form, and MHA/GQA/MQA, each over a
// paged cache and a ragged batch. One call serves prefill, decode and a chunk of prefill after a
// cached prefix, for sequences of different lengths.
//
// Semantics common to all:
//  - lse is the natural logarithm of the sum of exp(scaled score). A row with nothing to attend to
//    gives out = 0 and lse = -inf. A NaN in q, or in a key that a row sees, makes out and lse of
//    the row NaN.
//  - causal aligns queries at the end: query i of s_q sees keys j <= kv_len - s_q + i, and nothing
//    where that is negative. Without causal every query sees all kv_len keys.
//  - Memory in pages that are not used, past kv_len in the last page, or past the last used entry
//    of a page table row is never used in arithmetic that reaches an output.
//  - A latent cache is f32, f16 or bf16, or i8: rows of Int8LatentLayout(kv_lora_rank,
//    qk_rope_head_dim).bytes() bytes (mla/int8_latent.h), in which "a row's numbers" are those it
//    stands for. Its rows begin at multiples of 4 bytes.
//  - Offsets are 64-bit. Strides are honoured; the innermost stride of every tensor must be 1.
//  - On error nothing is written to out or lse.
//  - A sequence's result does not depend on the other sequences of the call, nor on the number of
//    threads.
// Thread safety: calls may run concurrently if their outputs and contexts are distinct.
#ifndef MLA_ATTENTION_H_
#define MLA_ATTENTION_H_

#include <cstdint>

#include "mla/context.h"
#include "mla/result.h"
#include "mla/tensor.h"

namespace mla {

inline constexpr int kMaxPageSize = 256;

// The sequences of a call and where their cached tokens lie. Host memory, checked on every call.
struct PagedBatch {
  int32_t num_seqs = 0;
  // [num_seqs + 1]: sequence s owns query tokens [cu_q[s], cu_q[s + 1]). Nondecreasing, cu_q[0] >=
  // 0; tokens outside [cu_q[0], cu_q[num_seqs]) are neither read nor written.
  const int32_t* cu_q = nullptr;
  const int32_t* kv_lens = nullptr;     // [num_seqs]: tokens in the cache, this call's included
  const int32_t* page_table = nullptr;  // [num_seqs, page_table_stride]: page ids of the pool
  int64_t page_table_stride = 0;        // >= ceil(kv_len / page_size) for every sequence
  int32_t page_size = 0;                // tokens per page, 1 to 256
};

// MLA, absorbed form: multi-query attention over the latent, DeepSeek-V2 (arXiv 2405.04434),
// section 2.1.2 with W_UK absorbed into the query and W_UV left to the caller.
//   score_ij = scale * q_i . [c_kv_j ; k_pe_j],   out_i = sum_j softmax(score)_ij c_kv_j
struct MlaAbsorbedArgs {
  ConstTensor q;  // [tokens, heads, kv_lora_rank + qk_rope_head_dim]: [q_lat ; q_pe]
  // [num_pages, page_size, kv_lora_rank + qk_rope_head_dim]: [c_kv ; k_pe]; or int8 latents
  ConstTensor cache;
  PagedBatch batch;
  int32_t kv_lora_rank = 0;
  float scale = 0;  // (qk_nope_head_dim + qk_rope_head_dim)^-1/2, times YaRN's mscale^2
  bool causal = true;
  Tensor out;  // [tokens, heads, kv_lora_rank]
  Tensor lse;  // [tokens, heads] f32; may be absent
};

// MLA, expanded form: the latent is up-projected to per-head keys and values, a bounded number of
// tokens at a time, and attended to as MHA with d_k = qk_nope_head_dim + qk_rope_head_dim.
//   k_j = [W_UK c_kv_j ; k_pe_j],  v_j = W_UV c_kv_j
struct MlaExpandedArgs {
  ConstTensor q;  // [tokens, heads, qk_nope_head_dim + qk_rope_head_dim]: [q_nope ; q_pe]
  // [num_pages, page_size, kv_lora_rank + qk_rope_head_dim]: [c_kv ; k_pe]; or int8 latents
  ConstTensor cache;
  // Views of kv_b_proj (or of k_b and v_b). One of the two inner strides must be 1.
  ConstTensor w_uk;  // [heads, qk_nope_head_dim, kv_lora_rank]
  ConstTensor w_uv;  // [heads, v_head_dim, kv_lora_rank]
  PagedBatch batch;
  float scale = 0;
  bool causal = true;
  Tensor out;  // [tokens, heads, v_head_dim]
  Tensor lse;  // [tokens, heads] f32; may be absent
};

// MHA (kv_heads == heads), GQA and MQA (kv_heads == 1). heads must be a multiple of kv_heads; query
// head h reads key head h / (heads / kv_heads).
struct GqaArgs {
  ConstTensor q;        // [tokens, heads, d_k]
  ConstTensor k_cache;  // [num_pages, page_size, kv_heads, d_k]
  ConstTensor v_cache;  // [num_pages, page_size, kv_heads, d_v]
  PagedBatch batch;
  float scale = 0;
  bool causal = true;
  Tensor out;  // [tokens, heads, d_v]
  Tensor lse;  // [tokens, heads] f32; may be absent
};

// Combines attention over disjoint parts of the keys: for each row,
//   lse = log sum_p exp(lse_p),  out = sum_p exp(lse_p - lse) out_p.
// Parts with lse_p = -inf do not count, whatever their out holds (NaN included); if none counts,
// out = 0 and lse = -inf. A NaN among the lse_p makes both NaN. out may alias one of the parts.
struct MergeArgs {
  ConstTensor part_out;  // [parts, tokens, heads, d_v] f32
  ConstTensor part_lse;  // [parts, tokens, heads] f32
  Tensor out;            // [tokens, heads, d_v]
  Tensor lse;            // [tokens, heads] f32; may be absent
};

Status MlaAbsorbed(const MlaAbsorbedArgs& args, const Context& context);
Status MlaExpanded(const MlaExpandedArgs& args, const Context& context);
Status Gqa(const GqaArgs& args, const Context& context);
Status MergePartials(const MergeArgs& args, const Context& context);

// Which kernel a call would run, and why those before it refuse. Invalid arguments are an error.
Result<KernelVerdicts> ExplainMlaAbsorbed(const MlaAbsorbedArgs& args, const Context& context);
Result<KernelVerdicts> ExplainMlaExpanded(const MlaExpandedArgs& args, const Context& context);
Result<KernelVerdicts> ExplainGqa(const GqaArgs& args, const Context& context);

}  // namespace mla

#endif  // MLA_ATTENTION_H_
