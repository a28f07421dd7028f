#include "mla/linear.h"

#include "dispatch/dispatch.h"
#include "kernels/cpu/linear.h"
#include "kernels/reference/reference.h"
#include "ops/linear.h"

namespace mla {
namespace {

constexpr Kernel<LinearArgs> kLinear[] = {
    {"cpu_amx_bf16", cpu::AmxRefusesLinear, cpu::RunAmxLinear},
    {"cpu_avx512_bf16", cpu::Avx512Bf16RefusesLinear, cpu::RunAvx512Bf16Linear},
    {"cpu_avx512_bf16_quant", cpu::Avx512Bf16QuantRefusesLinear, cpu::RunAvx512Bf16QuantLinear},
    {"cpu_simd", cpu::SimdRefusesLinear, cpu::RunSimdLinear},
    {"reference", NeverRefuses<LinearArgs>, reference::Linear},
};

constexpr Kernel<GroupedLinearArgs> kGroupedLinear[] = {
    {"cpu_amx_bf16", cpu::AmxRefusesGroupedLinear, cpu::RunAmxGroupedLinear},
    {"cpu_avx512_bf16", cpu::Avx512Bf16RefusesGroupedLinear, cpu::RunAvx512Bf16GroupedLinear},
    {"cpu_avx512_bf16_quant", cpu::Avx512Bf16QuantRefusesGroupedLinear,
     cpu::RunAvx512Bf16QuantGroupedLinear},
    {"cpu_simd", cpu::SimdRefusesGroupedLinear, cpu::RunSimdGroupedLinear},
    {"reference", NeverRefuses<GroupedLinearArgs>, reference::GroupedLinear},
};

constexpr Kernel<HeadLinearArgs> kHeadLinear[] = {
    {"cpu_amx_bf16", cpu::AmxRefusesHeadLinear, cpu::RunAmxHeadLinear},
    {"cpu_avx512_bf16", cpu::Avx512Bf16RefusesHeadLinear, cpu::RunAvx512Bf16HeadLinear},
    {"cpu_simd", cpu::SimdRefusesHeadLinear, cpu::RunSimdHeadLinear},
    {"reference", NeverRefuses<HeadLinearArgs>, reference::HeadLinear},
};

}  // namespace

Status Linear(const LinearArgs& args, const Context& context) {
  return Dispatch<LinearArgs>("linear", kLinear, args, context);
}
Status GroupedLinear(const GroupedLinearArgs& args, const Context& context) {
  return Dispatch<GroupedLinearArgs>("grouped_linear", kGroupedLinear, args, context);
}
Status HeadLinear(const HeadLinearArgs& args, const Context& context) {
  return Dispatch<HeadLinearArgs>("head_linear", kHeadLinear, args, context);
}

Result<KernelVerdicts> ExplainLinear(const LinearArgs& args, const Context& context) {
  return Explain<LinearArgs>(kLinear, args, context);
}
Result<KernelVerdicts> ExplainGroupedLinear(const GroupedLinearArgs& args, const Context& context) {
  return Explain<GroupedLinearArgs>(kGroupedLinear, args, context);
}
Result<KernelVerdicts> ExplainHeadLinear(const HeadLinearArgs& args, const Context& context) {
  return Explain<HeadLinearArgs>(kHeadLinear, args, context);
}

}  // namespace mla
