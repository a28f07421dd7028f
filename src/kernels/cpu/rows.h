// CPU kernels for the operators that move, convert and combine rows: plain loops over contiguous
// rows, which the compiler vectorises for the baseline. They are bound by memory.
#ifndef MLA_KERNELS_CPU_ROWS_H_
#define MLA_KERNELS_CPU_ROWS_H_

#include <string_view>

#include "mla/elementwise.h"

namespace mla::cpu {

std::string_view RefusesEmbedding(const EmbeddingArgs& args, const Context& context);
Status RunEmbedding(const EmbeddingArgs& args, const Context& context);
std::string_view RefusesScale(const ScaleArgs& args, const Context& context);
Status RunScale(const ScaleArgs& args, const Context& context);
std::string_view RefusesRope(const RopeArgs& args, const Context& context);
Status RunRope(const RopeArgs& args, const Context& context);
std::string_view RefusesGatherRows(const GatherRowsArgs& args, const Context& context);
Status RunGatherRows(const GatherRowsArgs& args, const Context& context);
std::string_view RefusesCombineExperts(const CombineExpertsArgs& args, const Context& context);
Status RunCombineExperts(const CombineExpertsArgs& args, const Context& context);
std::string_view RefusesCacheWrite(const CacheWriteArgs& args, const Context& context);
Status RunCacheWrite(const CacheWriteArgs& args, const Context& context);

}  // namespace mla::cpu

#endif  // MLA_KERNELS_CPU_ROWS_H_
