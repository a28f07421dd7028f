// The inner kernel of linear_avx512_bf16.cc, for kernels whose calls have bf16 weights among
// others. For x86-64 with AVX512_BF16 only.
#ifndef MLA_KERNELS_CPU_LINEAR_BF16_BLOCK_H_
#define MLA_KERNELS_CPU_LINEAR_BF16_BLOCK_H_

#include <cstdint>

#include "kernels/cpu/linear_plan.h"

namespace mla::cpu {

// Rows of x are bf16, padded with zeros to a multiple of 32. `scratch`: 64-byte aligned.
void RunBf16Block(const ProductBlock& block, float* scratch);
int64_t Bf16ScratchFloats(int64_t packed_stride, int64_t block_rows);

}  // namespace mla::cpu

#endif  // MLA_KERNELS_CPU_LINEAR_BF16_BLOCK_H_
