// Rotary embedding and append to the paged latent cache.
#ifndef MLA_KERNELS_CUDA_MLA_APPEND_MLA_APPEND_H_
#define MLA_KERNELS_CUDA_MLA_APPEND_MLA_APPEND_H_

#include <cuda_runtime_api.h>

#include "mla/cuda.h"

namespace mla::cuda {

// Plain CUDA, for every legal call.
cudaError_t LaunchMlaAppend(const MlaAppendArgs& args, cudaStream_t stream);

}  // namespace mla::cuda

#endif  // MLA_KERNELS_CUDA_MLA_APPEND_MLA_APPEND_H_
