// CPU kernels for the row-wise operators, through Highway.
#ifndef MLA_KERNELS_CPU_ELEMENTWISE_H_
#define MLA_KERNELS_CPU_ELEMENTWISE_H_

#include <string_view>

#include "mla/elementwise.h"

namespace mla::cpu {

std::string_view SimdRefusesRmsNorm(const RmsNormArgs& args, const Context& context);
Status RunSimdRmsNorm(const RmsNormArgs& args, const Context& context);
std::string_view SimdRefusesSiluMul(const SiluMulArgs& args, const Context& context);
Status RunSimdSiluMul(const SiluMulArgs& args, const Context& context);

}  // namespace mla::cpu

#endif  // MLA_KERNELS_CPU_ELEMENTWISE_H_
