// head_linear on the GPU: the ordered list of kernels.
#include <string>

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
  KernelVerdicts verdicts;
  for (const HeadLinearKernel* kernel : kHeadLinear) {
    const bool asked = context.kernel.empty() || kernel->name == context.kernel;
    verdicts.push_back({kernel->name, asked ? kernel->refuses(args, device)
                                            : std::string_view("another kernel is asked for")});
  }
  return verdicts;
}

Status HeadLinear(const HeadLinearArgs& args, const CudaContext& context) {
  MLA_ASSIGN_OR_RETURN(const KernelVerdicts verdicts, ExplainHeadLinear(args, context));
  if (args.y.num_elements() == 0) return {};
  std::string refusals;
  for (size_t i = 0; i < verdicts.size(); ++i) {
    if (verdicts[i].refusal.empty()) {
      const cudaError_t error = kHeadLinear[i]->launch(args, context.stream);
      if (error != cudaSuccess) return CudaError(error, "launching head_linear");
      return {};
    }
    refusals +=
        Concat(refusals.empty() ? "" : "; ", verdicts[i].kernel, " refuses: ", verdicts[i].refusal);
  }
  return Unsupported("head_linear: no kernel takes the call: ", refusals);
}

}  // namespace mla::cuda
