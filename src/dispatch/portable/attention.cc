// The operators of the shared library on the CPU, in a build without Highway: the reference alone.
#include "mla/attention.h"

#include "dispatch/dispatch.h"
#include "kernels/reference/reference.h"
#include "ops/attention.h"

namespace mla {
namespace {

constexpr Kernel<MlaAbsorbedArgs> kMlaAbsorbed[] = {
    {"reference", NeverRefuses<MlaAbsorbedArgs>, reference::MlaAbsorbed},
};
constexpr Kernel<MergeArgs> kMergePartials[] = {
    {"reference", NeverRefuses<MergeArgs>, reference::MergePartials},
};

}  // namespace

Status MlaAbsorbed(const MlaAbsorbedArgs& args, const Context& context) {
  return Dispatch<MlaAbsorbedArgs>("mla_absorbed", kMlaAbsorbed, args, context);
}
Status MergePartials(const MergeArgs& args, const Context& context) {
  return Dispatch<MergeArgs>("merge_partials", kMergePartials, args, context);
}
Result<KernelVerdicts> ExplainMlaAbsorbed(const MlaAbsorbedArgs& args, const Context& context) {
  return Explain<MlaAbsorbedArgs>(kMlaAbsorbed, args, context);
}

}  // namespace mla
