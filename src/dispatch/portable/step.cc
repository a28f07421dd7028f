// What mla_append and mla_head_linear of the shared library take on the CPU, in a build without
// Highway: the reference alone.
#include "dispatch/dispatch.h"
#include "kernels/reference/reference.h"
#include "mla/elementwise.h"
#include "mla/linear.h"
#include "ops/elementwise.h"
#include "ops/linear.h"

namespace mla {
namespace {

constexpr Kernel<RopeTableArgs> kRopeTable[] = {
    {"reference", NeverRefuses<RopeTableArgs>, reference::RopeTable},
};
constexpr Kernel<RopeArgs> kRope[] = {
    {"reference", NeverRefuses<RopeArgs>, reference::Rope},
};
constexpr Kernel<CacheWriteArgs> kCacheWrite[] = {
    {"reference", NeverRefuses<CacheWriteArgs>, reference::CacheWrite},
};
constexpr Kernel<HeadLinearArgs> kHeadLinear[] = {
    {"reference", NeverRefuses<HeadLinearArgs>, reference::HeadLinear},
};

}  // namespace

Status RopeTable(const RopeTableArgs& args, const Context& context) {
  return Dispatch<RopeTableArgs>("rope_table", kRopeTable, args, context);
}
Status Rope(const RopeArgs& args, const Context& context) {
  return Dispatch<RopeArgs>("rope", kRope, args, context);
}
Status CacheWrite(const CacheWriteArgs& args, const Context& context) {
  return Dispatch<CacheWriteArgs>("cache_write", kCacheWrite, args, context);
}
Status HeadLinear(const HeadLinearArgs& args, const Context& context) {
  return Dispatch<HeadLinearArgs>("head_linear", kHeadLinear, args, context);
}
Result<KernelVerdicts> ExplainHeadLinear(const HeadLinearArgs& args, const Context& context) {
  return Explain<HeadLinearArgs>(kHeadLinear, args, context);
}

}  // namespace mla
