// head_linear on the GPU: the ordered list of kernels.
#include "dispatch/cuda/choose.h"
#include "kernels/cuda/device.h"
#include "kernels/cuda/head_linear/kernel.h"
#include "mla/cuda.h"
#include "ops/mla_decode.h"

namespace mla::cuda {
namespace {

const HeadLinearKernel* const kHeadLinear[] = {&kHeadLinearSm80, &kHeadLinearPlain};

}  // namespace

Result<KernelVerdicts> ExplainHeadLinear(const HeadLinearArgs& args, const CudaContext& context) {
  MLA_RETURN_IF_ERROR(Validate(args));
  MLA_ASSIGN_OR_RETURN(const DeviceProperties device, CurrentDevice());
  return Judge<HeadLinearKernel>(kHeadLinear, args, device, context);
}

Status HeadLinear(const HeadLinearArgs& args, const CudaContext& context) {
  MLA_RETURN_IF_ERROR(Validate(args));
  MLA_ASSIGN_OR_RETURN(const DeviceProperties device, CurrentDevice());
  MLA_ASSIGN_OR_RETURN(const HeadLinearKernel* const kernel,
                       Choose<HeadLinearKernel>("head_linear", kHeadLinear, args, device, context));
  if (args.y.num_elements() == 0) return {};
  if (const cudaError_t error = kernel->launch(args, context.stream); error != cudaSuccess) {
    return CudaError(error, "launching head_linear");
  }
  return {};
}

}  // namespace mla::cuda
