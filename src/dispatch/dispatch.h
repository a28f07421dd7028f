// The choice of a kernel from an operator's ordered list. One function selects and explains.
#ifndef MLA_DISPATCH_DISPATCH_H_
#define MLA_DISPATCH_DISPATCH_H_

#include <span>
#include <string>
#include <string_view>

#include "ops/kernel.h"

namespace mla {

template <typename Args>
KernelVerdicts Judge(std::span<const Kernel<Args>> kernels, const Args& args,
                     const Context& context) {
  KernelVerdicts verdicts;
  for (const Kernel<Args>& kernel : kernels) {
    std::string_view refusal;
    if (!context.kernel.empty() && kernel.name != context.kernel) {
      refusal = "another kernel is asked for";
    } else {
      refusal = kernel.refuses(args, context);
    }
    verdicts.push_back({kernel.name, refusal});
  }
  return verdicts;
}

// The error of a call that no kernel accepted: only a forced kernel can bring it about.
template <typename Args>
Error NoKernel(std::string_view op, std::span<const Kernel<Args>> kernels, const Args& args,
               const Context& context) {
  std::string names;
  for (const Kernel<Args>& kernel : kernels) {
    if (kernel.name == context.kernel) {
      return Unsupported(op, ": kernel ", kernel.name, " refuses: ", kernel.refuses(args, context));
    }
    if (!names.empty()) names += ", ";
    names += kernel.name;
  }
  return InvalidArgument(op, ": no kernel is called ", context.kernel, ", want one of ", names);
}

// Validates, then runs the first kernel that accepts.
template <typename Args>
Status Dispatch(std::string_view op, std::span<const Kernel<Args>> kernels, const Args& args,
                const Context& context) {
  MLA_RETURN_IF_ERROR(Validate(args));
  for (const Kernel<Args>& kernel : kernels) {
    if (!context.kernel.empty() && kernel.name != context.kernel) continue;
    if (kernel.refuses(args, context).empty()) return kernel.run(args, context);
  }
  return NoKernel(op, kernels, args, context);
}

template <typename Args>
Result<KernelVerdicts> Explain(std::span<const Kernel<Args>> kernels, const Args& args,
                               const Context& context) {
  MLA_RETURN_IF_ERROR(Validate(args));
  return Judge(kernels, args, context);
}

template <typename Args>
std::string_view NeverRefuses(const Args&, const Context&) {
  return {};
}

}  // namespace mla

#endif  // MLA_DISPATCH_DISPATCH_H_
