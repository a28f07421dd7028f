// Quantised weights as sums of two bf16 numbers, for matrix units that multiply bf16. For x86-64
// with AVX512_BF16, AVX512_VBMI and GFNI only.
#ifndef MLA_KERNELS_CPU_LINEAR_QUANT_PLANES_H_
#define MLA_KERNELS_CPU_LINEAR_QUANT_PLANES_H_

#include <cstdint>

#include "kernels/cpu/linear_plan.h"

namespace mla::cpu {

// A weight is a number of its first plane, the bf16 nearest to it, and one of its second, the bf16
// nearest to what is left: both together are within 2^-17 of it, relative. Of steps of 32 inputs
// each plane is a tile of rows of weights.
inline constexpr int64_t kPlaneDepth = 32, kPlaneRows = 32, kPlanes = 2;
inline constexpr int64_t kPlaneElements = kPlaneRows * kPlaneDepth;  // of one step
inline constexpr int64_t kPlaneStepsMultiple = 512 / kPlaneDepth;    // where DecodePlanes may begin

// Writes outputs [o, o + outs), at most kPlaneRows, of steps [begin, end) to `to`, [steps, kPlanes,
// kPlaneRows, kPlaneDepth]: zeros past the last input, nothing for outputs past `outs`. The weights
// are quantised, w_out_unit false; `begin` is a multiple of kPlaneStepsMultiple.
void DecodePlanes(const Product& product, int64_t o, int64_t outs, int64_t begin, int64_t end,
                  uint16_t* to);

}  // namespace mla::cpu

#endif  // MLA_KERNELS_CPU_LINEAR_QUANT_PLANES_H_
