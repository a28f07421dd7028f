#include "mla/attention.h"

#include "dispatch/dispatch.h"
#include "kernels/cpu/attention.h"
#include "kernels/reference/reference.h"
#include "ops/attention.h"

namespace mla {
namespace {

constexpr Kernel<MlaAbsorbedArgs> kMlaAbsorbed[] = {
    {"cpu_amx_bf16", cpu::AmxRefusesMlaAbsorbed, cpu::RunAmxMlaAbsorbed},
    {"cpu_avx512_vnni", cpu::Avx512VnniRefusesMlaAbsorbed, cpu::RunAvx512VnniMlaAbsorbed},
    {"cpu_avx512_bf16", cpu::Avx512Bf16RefusesMlaAbsorbed, cpu::RunAvx512Bf16MlaAbsorbed},
    {"cpu_simd", cpu::SimdRefusesMlaAbsorbed, cpu::RunSimdMlaAbsorbed},
    {"reference", NeverRefuses<MlaAbsorbedArgs>, reference::MlaAbsorbed},
};

constexpr Kernel<MlaExpandedArgs> kMlaExpanded[] = {
    {"cpu_amx_bf16", cpu::AmxRefusesMlaExpanded, cpu::RunAmxMlaExpanded},
    {"cpu_avx512_bf16", cpu::Avx512Bf16RefusesMlaExpanded, cpu::RunAvx512Bf16MlaExpanded},
    {"cpu_simd", cpu::SimdRefusesMlaExpanded, cpu::RunSimdMlaExpanded},
    {"reference", NeverRefuses<MlaExpandedArgs>, reference::MlaExpanded},
};

constexpr Kernel<GqaArgs> kGqa[] = {
    {"cpu_amx_bf16", cpu::AmxRefusesGqa, cpu::RunAmxGqa},
    {"cpu_avx512_bf16", cpu::Avx512Bf16RefusesGqa, cpu::RunAvx512Bf16Gqa},
    {"cpu_simd", cpu::SimdRefusesGqa, cpu::RunSimdGqa},
    {"reference", NeverRefuses<GqaArgs>, reference::Gqa},
};

constexpr Kernel<MergeArgs> kMergePartials[] = {
    {"reference", NeverRefuses<MergeArgs>, reference::MergePartials},
};

}  // namespace

Status MlaAbsorbed(const MlaAbsorbedArgs& args, const Context& context) {
  return Dispatch<MlaAbsorbedArgs>("mla_absorbed", kMlaAbsorbed, args, context);
}
Status MlaExpanded(const MlaExpandedArgs& args, const Context& context) {
  return Dispatch<MlaExpandedArgs>("mla_expanded", kMlaExpanded, args, context);
}
Status Gqa(const GqaArgs& args, const Context& context) {
  return Dispatch<GqaArgs>("gqa", kGqa, args, context);
}
Status MergePartials(const MergeArgs& args, const Context& context) {
  return Dispatch<MergeArgs>("merge_partials", kMergePartials, args, context);
}

Result<KernelVerdicts> ExplainMlaAbsorbed(const MlaAbsorbedArgs& args, const Context& context) {
  return Explain<MlaAbsorbedArgs>(kMlaAbsorbed, args, context);
}
Result<KernelVerdicts> ExplainMlaExpanded(const MlaExpandedArgs& args, const Context& context) {
  return Explain<MlaExpandedArgs>(kMlaExpanded, args, context);
}
Result<KernelVerdicts> ExplainGqa(const GqaArgs& args, const Context& context) {
  return Explain<GqaArgs>(kGqa, args, context);
}

}  // namespace mla
