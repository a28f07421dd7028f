// Numbers between the types of tensors and fp32, in device code.
#ifndef MLA_KERNELS_CUDA_CONVERT_CUH_
#define MLA_KERNELS_CUDA_CONVERT_CUH_

#include <cuda_bf16.h>
#include <cuda_fp16.h>

namespace mla::cuda {

__device__ inline float ToFloat(float v) { return v; }
__device__ inline float ToFloat(__nv_bfloat16 v) { return __bfloat162float(v); }
__device__ inline float ToFloat(__half v) { return __half2float(v); }

// Rounds to nearest even.
__device__ inline void Store(float* to, float v) { *to = v; }
__device__ inline void Store(__nv_bfloat16* to, float v) { *to = __float2bfloat16(v); }
__device__ inline void Store(__half* to, float v) { *to = __float2half(v); }

}  // namespace mla::cuda

#endif  // MLA_KERNELS_CUDA_CONVERT_CUH_
