// The choice of a kernel from a CUDA operator's ordered list. One function selects and explains.
#ifndef MLA_DISPATCH_CUDA_CHOOSE_H_
#define MLA_DISPATCH_CUDA_CHOOSE_H_

#include <span>
#include <string>
#include <string_view>

#include "kernels/cuda/device.h"
#include "mla/cuda.h"

namespace mla::cuda {

template <typename Kernel, typename Args>
KernelVerdicts Judge(std::span<const Kernel* const> kernels, const Args& args,
                     const DeviceProperties& device, const CudaContext& context) {
  KernelVerdicts verdicts;
  for (const Kernel* kernel : kernels) {
    const bool asked = context.kernel.empty() || kernel->name == context.kernel;
    verdicts.push_back({kernel->name, asked ? kernel->refuses(args, device)
                                            : std::string_view("another kernel is asked for")});
  }
  return verdicts;
}

// The first that accepts, or the error that says what each refuses.
template <typename Kernel, typename Args>
Result<const Kernel*> Choose(std::string_view op, std::span<const Kernel* const> kernels,
                             const Args& args, const DeviceProperties& device,
                             const CudaContext& context) {
  std::string names, refusals;
  for (const Kernel* kernel : kernels) {
    names += Concat(names.empty() ? "" : ", ", kernel->name);
    if (!context.kernel.empty() && kernel->name != context.kernel) continue;
    const std::string_view refusal = kernel->refuses(args, device);
    if (refusal.empty()) return kernel;
    refusals += Concat(refusals.empty() ? "" : "; ", kernel->name, " refuses: ", refusal);
  }
  if (!refusals.empty()) return Unsupported(op, ": ", refusals);
  return InvalidArgument(op, ": no kernel is called ", context.kernel, ", want one of ", names);
}

}  // namespace mla::cuda

#endif  // MLA_DISPATCH_CUDA_CHOOSE_H_
