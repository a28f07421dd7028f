// What an operator's list of kernels is made of. The dispatcher asks each kernel in turn, best
// first; the first that does not refuse runs. The reference, last in every list, never refuses.
#ifndef MLA_OPS_KERNEL_H_
#define MLA_OPS_KERNEL_H_

#include <string_view>

#include "mla/context.h"
#include "mla/result.h"

namespace mla {

template <typename Args>
struct Kernel {
  std::string_view name;  // "cpu_avx512_bf16", "cpu_simd", "reference"
  // Empty if the kernel supports the call; else the limit it breaks, as static text. Asked only of
  // arguments that have passed the operator's validation. Cheap: it is asked on every call.
  std::string_view (*refuses)(const Args& args, const Context& context);
  // Requires that the kernel did not refuse.
  Status (*run)(const Args& args, const Context& context);
};

}  // namespace mla

#endif  // MLA_OPS_KERNEL_H_
