// Validation of the attention operators' arguments, and the shapes that follow from them. Kernels
// are only called with arguments that have passed here.
#ifndef MLA_OPS_ATTENTION_H_
#define MLA_OPS_ATTENTION_H_

#include <algorithm>
#include <cstdint>
#include <string_view>

#include "mla/attention.h"

namespace mla {

Status Validate(const MlaAbsorbedArgs& args);
Status Validate(const MlaExpandedArgs& args);
Status Validate(const GqaArgs& args);
Status Validate(const MergeArgs& args);

// The checks that attention operators share; `op` names the operator in errors. A batch is checked
// against the cache its page table points into.
Status ValidateBatch(std::string_view op, const PagedBatch& batch, int64_t tokens,
                     const ConstTensor& cache);
Status ValidateScale(std::string_view op, float scale);
// A cache of latents [c_kv ; k_pe]: rows of numbers, or int8 latents. rank >= 1, rope >= 0.
Status ValidateLatentCache(std::string_view op, const ConstTensor& cache, int64_t rank,
                           int64_t rope);
// out [tokens, heads, d_v] and the optional lse [tokens, heads].
Status ValidateOutputs(std::string_view op, const Tensor& out, const Tensor& lse, int64_t tokens,
                       int64_t heads, int64_t d_v);

// Where sequence `seq` of a batch lies.
struct SequenceSpan {
  int32_t q_begin;  // first query token
  int32_t q_len;
  int32_t kv_len;
  const int32_t* pages;  // page ids of its cached tokens
};
inline SequenceSpan GetSequence(const PagedBatch& batch, int32_t seq) {
  return {batch.cu_q[seq], batch.cu_q[seq + 1] - batch.cu_q[seq], batch.kv_lens[seq],
          batch.page_table + seq * batch.page_table_stride};
}

// How many of the sequence's keys query token i sees: they are keys [0, count).
inline int32_t VisibleKeys(const SequenceSpan& seq, int32_t i, bool causal) {
  if (!causal) return seq.kv_len;
  return std::clamp(seq.kv_len - seq.q_len + i + 1, 0, seq.kv_len);
}

}  // namespace mla

#endif  // MLA_OPS_ATTENTION_H_
