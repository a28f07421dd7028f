// mla_append on the GPU: one kernel serves every call.
#include "kernels/cuda/mla_append/mla_append.h"

#include "kernels/cuda/device.h"
#include "mla/cuda.h"
#include "ops/mla_decode.h"

namespace mla::cuda {

Status MlaAppend(const MlaAppendArgs& args, const CudaContext& context) {
  MLA_RETURN_IF_ERROR(Validate(args));
  if (const cudaError_t error = LaunchMlaAppend(args, context.stream); error != cudaSuccess) {
    return CudaError(error, "launching mla_append");
  }
  return {};
}

}  // namespace mla::cuda
