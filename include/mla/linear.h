// Matrix products with weights: the operators around attention.
//
// Weights are f32, f16 or bf16, a block type, or f8_e4m3 with block scales, and are used as they
// lie (mapped files included); HeadLinear takes the first three only. Activations are f32 tensors
// whose innermost stride is 1. ComputeMode says how the products are formed; quantised weights
// enter with their exact values in both. Activations are never rounded to 8-bit integers; a kernel
// of mode bf16 may hold them in 16 bits, as multiples of a power of two per group of 32: those
// below 2^-7 of the group's largest to 2^-15 of it, the others exactly. An output element depends
// on its own row of x alone: not on the other rows nor on the number of threads; with one
// exception, the last bits with quantised weights where AMX is used, which Context::batch_invariant
// excludes.
#ifndef MLA_LINEAR_H_
#define MLA_LINEAR_H_

#include <cstdint>
#include <span>

#include "mla/context.h"
#include "mla/result.h"
#include "mla/tensor.h"

namespace mla {

// One weight and where its product goes.
struct LinearTarget {
  ConstTensor w;     // [out, in]; innermost stride 1; any weight type
  ConstTensor bias;  // [out] f32, f16 or bf16; may be absent
  Tensor y;          // [rows, out] f32
};

// y = x w^T + bias for one or several weights that share x (q_a and kv_a; gate and up; q, k and v):
// one call, so that threads are woken once.
struct LinearArgs {
  ConstTensor x;  // [rows, in] f32
  std::span<const LinearTarget> targets;
  bool accumulate = false;  // y += instead of y =
};

// Mixture of experts: rows of x sorted by expert; rows [offsets[e], offsets[e + 1]) meet w[e].
struct GroupedTarget {
  std::span<const ConstTensor> w;  // one [out, in] per group; all of one dtype and shape
  Tensor y;                        // [rows, out] f32
};
struct GroupedLinearArgs {
  ConstTensor x;                     // [rows, in] f32
  std::span<const int32_t> offsets;  // [groups + 1], from 0 to rows, nondecreasing
  std::span<const GroupedTarget> targets;
};

// Per-head products: y[t, h, :] = W[h] x[t, h, :]. The absorption of W_UK into the query and the
// up-projection by W_UV. The weight is a view of kv_b_proj: one of its inner strides must be 1.
struct HeadLinearArgs {
  ConstTensor x;  // [rows, heads, in] f32
  ConstTensor w;  // [heads, out, in], strided
  Tensor y;       // [rows, heads, out] f32
};

Status Linear(const LinearArgs& args, const Context& context);
Status GroupedLinear(const GroupedLinearArgs& args, const Context& context);
Status HeadLinear(const HeadLinearArgs& args, const Context& context);

Result<KernelVerdicts> ExplainLinear(const LinearArgs& args, const Context& context);
Result<KernelVerdicts> ExplainGroupedLinear(const GroupedLinearArgs& args, const Context& context);
Result<KernelVerdicts> ExplainHeadLinear(const HeadLinearArgs& args, const Context& context);

}  // namespace mla

#endif  // MLA_LINEAR_H_
