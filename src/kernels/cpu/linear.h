// CPU kernels for matrix products with weights. See src/dispatch for the order they are tried in.
#ifndef MLA_KERNELS_CPU_LINEAR_H_
#define MLA_KERNELS_CPU_LINEAR_H_

#include <cstdint>
#include <string_view>

#include "mla/linear.h"

namespace mla::cpu {

// Highway, fp32 arithmetic, any instruction set, weights of any type. ComputeMode::kBF16 is
// honoured by rounding the activations first. Never refuses.
std::string_view SimdRefusesLinear(const LinearArgs& args, const Context& context);
Status RunSimdLinear(const LinearArgs& args, const Context& context);
std::string_view SimdRefusesGroupedLinear(const GroupedLinearArgs& args, const Context& context);
Status RunSimdGroupedLinear(const GroupedLinearArgs& args, const Context& context);
std::string_view SimdRefusesHeadLinear(const HeadLinearArgs& args, const Context& context);
Status RunSimdHeadLinear(const HeadLinearArgs& args, const Context& context);

// AVX512_BF16 dot products: ComputeMode::kBF16 with bf16 weights.
std::string_view Avx512Bf16RefusesLinear(const LinearArgs& args, const Context& context);
Status RunAvx512Bf16Linear(const LinearArgs& args, const Context& context);
std::string_view Avx512Bf16RefusesGroupedLinear(const GroupedLinearArgs& args,
                                                const Context& context);
Status RunAvx512Bf16GroupedLinear(const GroupedLinearArgs& args, const Context& context);
std::string_view Avx512Bf16RefusesHeadLinear(const HeadLinearArgs& args, const Context& context);
Status RunAvx512Bf16HeadLinear(const HeadLinearArgs& args, const Context& context);

// AMX tiles: the same calls; and quantised weights, as sums of two bf16 numbers, where a matrix
// meets so many rows (experts: in the mean) that decoding pays. With fewer rows, or if
// Context::batch_invariant, they go to the next kernels, which are closer to the weights by some
// 2^-17.
inline int64_t AmxFewestRows(DType weights) {
  if (!IsQuantised(weights)) return 1;
  return weights == DType::kF8E4M3 ? 16 : 48;
}
std::string_view AmxRefusesLinear(const LinearArgs& args, const Context& context);
Status RunAmxLinear(const LinearArgs& args, const Context& context);
std::string_view AmxRefusesGroupedLinear(const GroupedLinearArgs& args, const Context& context);
Status RunAmxGroupedLinear(const GroupedLinearArgs& args, const Context& context);
std::string_view AmxRefusesHeadLinear(const HeadLinearArgs& args, const Context& context);
Status RunAmxHeadLinear(const HeadLinearArgs& args, const Context& context);

// AVX512_BF16 dot products with quantised weights, and AVX512_VNNI, AVX512_VBMI and GFNI: F8E4M3 as
// bf16 numbers, block types as integers against activations of 16 bits; both scaled in fp32. bf16
// weights may be among the targets.
std::string_view Avx512Bf16QuantRefusesLinear(const LinearArgs& args, const Context& context);
Status RunAvx512Bf16QuantLinear(const LinearArgs& args, const Context& context);
std::string_view Avx512Bf16QuantRefusesGroupedLinear(const GroupedLinearArgs& args,
                                                     const Context& context);
Status RunAvx512Bf16QuantGroupedLinear(const GroupedLinearArgs& args, const Context& context);

}  // namespace mla::cpu

#endif  // MLA_KERNELS_CPU_LINEAR_H_
