#include "kernels/cuda/mla_decode/sm80_kernel.cuh"

namespace mla::cuda::sm80 {

cudaError_t Launch320(const MlaDecodeParams& params, const Plan& plan, DType dtype,
                      cudaStream_t stream) {
  return LaunchFor<320, 256>(params, plan, dtype, stream);
}

}  // namespace mla::cuda::sm80
