// The kernels of head_linear, as the dispatcher sees them.
#ifndef MLA_KERNELS_CUDA_HEAD_LINEAR_KERNEL_H_
#define MLA_KERNELS_CUDA_HEAD_LINEAR_KERNEL_H_

#include <cuda_runtime_api.h>

#include <string_view>

#include "kernels/cuda/device.h"
#include "mla/cuda.h"

namespace mla::cuda {

struct HeadLinearKernel {
  std::string_view name;
  // Empty if the kernel supports the call on this device; else the limit it breaks.
  std::string_view (*refuses)(const HeadLinearArgs& args, const DeviceProperties& device);
  cudaError_t (*launch)(const HeadLinearArgs& args, cudaStream_t stream);
};

extern const HeadLinearKernel kHeadLinearSm80;   // mma.sync and cp.async, Ampere and later
extern const HeadLinearKernel kHeadLinearPlain;  // every legal call

}  // namespace mla::cuda

#endif  // MLA_KERNELS_CUDA_HEAD_LINEAR_KERNEL_H_
