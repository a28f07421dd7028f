// Reading and writing the FP8 latent of mla/cuda.h.
#ifndef MLA_KERNELS_CUDA_FP8_LATENT_CUH_
#define MLA_KERNELS_CUDA_FP8_LATENT_CUH_

#include <cuda_bf16.h>
#include <cuda_fp8.h>

#include <cstdint>

#include "mla/cuda.h"

namespace mla::cuda {

inline constexpr float kE4m3Max = 448;

// One cached token.
struct Fp8Latent {
  const uint8_t* row;

  __device__ float scale(int32_t group) const {
    return reinterpret_cast<const float*>(row + kFp8LatentRank)[group];
  }
  __device__ float operator[](int32_t d) const {
    if (d < kFp8LatentRank) {
      __nv_fp8_e4m3 code;
      code.__x = row[d];
      return static_cast<float>(code) * scale(d / kFp8LatentGroup);
    }
    constexpr int kScaleBytes = kFp8LatentRank / kFp8LatentGroup * 4;
    const auto* rope = reinterpret_cast<const __nv_bfloat16*>(row + kFp8LatentRank + kScaleBytes);
    return __bfloat162float(rope[d - kFp8LatentRank]);
  }
};

// The least power of two that brings `amax` within e4m3; 1 for a group of zeros.
__device__ inline float Fp8Scale(float amax) {
  if (!(amax > 0)) return 1;
  const float exact = amax / kE4m3Max;
  int exponent;
  const float fraction = frexpf(exact, &exponent);  // exact = fraction * 2^exponent, [0.5, 1)
  return ldexpf(1.0f, fraction == 0.5f ? exponent - 1 : exponent);
}

}  // namespace mla::cuda

#endif  // MLA_KERNELS_CUDA_FP8_LATENT_CUH_
