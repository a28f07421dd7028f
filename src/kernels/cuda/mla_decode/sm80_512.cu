#include "kernels/cuda/mla_decode/sm80_kernel.cuh"

namespace mla::cuda::sm80 {

cudaError_t Launch512(const MlaDecodeParams& params, const Plan& plan, DType dtype,
                      cudaStream_t stream) {
  return LaunchFor<512, 512>(params, plan, dtype, stream);
}

}  // namespace mla::cuda::sm80
