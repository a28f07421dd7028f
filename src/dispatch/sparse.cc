#include "mla/sparse.h"

#include "dispatch/dispatch.h"
#include "kernels/cpu/sparse.h"
#include "kernels/reference/reference.h"
#include "ops/sparse.h"

namespace mla {
namespace {

constexpr Kernel<MlaIndexTopkArgs> kMlaIndexTopk[] = {
    {"cpu_simd", cpu::SimdRefusesMlaIndexTopk, cpu::RunSimdMlaIndexTopk},
    {"reference", NeverRefuses<MlaIndexTopkArgs>, reference::MlaIndexTopk},
};

constexpr Kernel<MlaSparseArgs> kMlaSparse[] = {
    {"cpu_amx_bf16", cpu::AmxRefusesMlaSparse, cpu::RunAmxMlaSparse},
    {"cpu_avx512_vnni", cpu::Avx512VnniRefusesMlaSparse, cpu::RunAvx512VnniMlaSparse},
    {"cpu_avx512_bf16", cpu::Avx512Bf16RefusesMlaSparse, cpu::RunAvx512Bf16MlaSparse},
    {"cpu_simd", cpu::SimdRefusesMlaSparse, cpu::RunSimdMlaSparse},
    {"reference", NeverRefuses<MlaSparseArgs>, reference::MlaSparse},
};

}  // namespace

Status MlaIndexTopk(const MlaIndexTopkArgs& args, const Context& context) {
  return Dispatch<MlaIndexTopkArgs>("mla_index_topk", kMlaIndexTopk, args, context);
}
Status MlaSparse(const MlaSparseArgs& args, const Context& context) {
  return Dispatch<MlaSparseArgs>("mla_sparse", kMlaSparse, args, context);
}

Result<KernelVerdicts> ExplainMlaIndexTopk(const MlaIndexTopkArgs& args, const Context& context) {
  return Explain<MlaIndexTopkArgs>(kMlaIndexTopk, args, context);
}
Result<KernelVerdicts> ExplainMlaSparse(const MlaSparseArgs& args, const Context& context) {
  return Explain<MlaSparseArgs>(kMlaSparse, args, context);
}

}  // namespace mla
