// Absorbed attention on the CPU with operands as a caller of the C interface may have them.
#ifndef MLA_CAPI_ATTEND_H_
#define MLA_CAPI_ATTEND_H_

#include "mla/attention.h"
#include "mla/context.h"
#include "mla/result.h"
#include "mla/tensor.h"

namespace mla::capi {

// A call whose query tokens have two axes: token t is [t / inner, t % inner].
struct AttendCall {
  ConstTensor q;         // [outer, inner, heads, d_k] f32, bf16 or f16, any outer strides
  Tensor out;            // [outer, inner, heads, kv_lora_rank], likewise
  Tensor lse;            // [outer, inner, heads] f32, any strides; may be absent
  MlaAbsorbedArgs args;  // the rest: q, out and lse in it are not looked at
};

// MlaAbsorbed. What the kernels do not take as it is goes through f32 in memory of this call's own,
// in tiles of tokens of at most kAttendBytes: q and out that are not f32, or whose two token axes
// cannot be seen as one. Nothing is written before everything is checked.
Status Attend(const AttendCall& call, const Context& context);

inline constexpr int64_t kAttendBytes = int64_t{64} << 20;

// What the kernels say of it.
Result<KernelVerdicts> ExplainAttend(const AttendCall& call, const Context& context);

// Compute bf16 where it loses nothing of the operands and has kernels: of bf16 queries and caches.
ComputeMode AutomaticCompute(const ConstTensor& q, const ConstTensor& cache);

}  // namespace mla::capi

#endif  // MLA_CAPI_ATTEND_H_
