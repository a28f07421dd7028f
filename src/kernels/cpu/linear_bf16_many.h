// Products of bf16 weights with many rows of x. For x86-64 with AVX512_BF16 only.
//
// To the bit what the dot form of linear_avx512_bf16.cc computes for one row: 16 sums along k, the
// l-th over the pairs of elements l of every 32, added up by the tree of SumLanes. There the 16 are
// the lanes of a vector; here lanes are outputs and the 16 are computed one after another, so that
// nothing is added across lanes. Both operands are copied first, ordered by sum: the weights of 32
// outputs at a time, and the rows of the block.
#ifndef MLA_KERNELS_CPU_LINEAR_BF16_MANY_H_
#define MLA_KERNELS_CPU_LINEAR_BF16_MANY_H_

#include <cstdint>

#include "kernels/cpu/linear_plan.h"

namespace mla::cpu {

// With fewer rows the copies take longer than they save.
inline constexpr int64_t kMinManyRows = 24;

// Weights contiguous along `in`; rows of x bf16, padded with zeros to a multiple of 32. `scratch`:
// ManyRowsScratchFloats(packed_stride), 64-byte aligned.
void RunManyRowsBf16(const ProductBlock& block, float* scratch);
int64_t ManyRowsScratchFloats(int64_t packed_stride);

}  // namespace mla::cpu

#endif  // MLA_KERNELS_CPU_LINEAR_BF16_MANY_H_
