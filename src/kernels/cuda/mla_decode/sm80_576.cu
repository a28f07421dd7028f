#include "kernels/cuda/mla_decode/sm80_kernel.cuh"

namespace mla::cuda::sm80 {

cudaError_t Launch576(const MlaDecodeParams& params, const Plan& plan, DType dtype,
                      cudaStream_t stream) {
  return LaunchFor<576, 512>(params, plan, dtype, stream);
}

}  // namespace mla::cuda::sm80
