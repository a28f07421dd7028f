// The oracle: every operator as plain loops with fp64 accumulation. It accepts every legal call and
// is what the other kernels are tested against; it does not round activations in
// ComputeMode::kBF16.
#ifndef MLA_KERNELS_REFERENCE_REFERENCE_H_
#define MLA_KERNELS_REFERENCE_REFERENCE_H_

#include "mla/attention.h"
#include "mla/elementwise.h"
#include "mla/linear.h"
#include "mla/sparse.h"

namespace mla::reference {

Status MlaAbsorbed(const MlaAbsorbedArgs& args, const Context& context);
Status MlaExpanded(const MlaExpandedArgs& args, const Context& context);
Status Gqa(const GqaArgs& args, const Context& context);
Status MergePartials(const MergeArgs& args, const Context& context);
Status MlaIndexTopk(const MlaIndexTopkArgs& args, const Context& context);
Status MlaSparse(const MlaSparseArgs& args, const Context& context);

Status Linear(const LinearArgs& args, const Context& context);
Status GroupedLinear(const GroupedLinearArgs& args, const Context& context);
Status HeadLinear(const HeadLinearArgs& args, const Context& context);

Status Embedding(const EmbeddingArgs& args, const Context& context);
Status RmsNorm(const RmsNormArgs& args, const Context& context);
Status LayerNorm(const LayerNormArgs& args, const Context& context);
Status Scale(const ScaleArgs& args, const Context& context);
Status RopeTable(const RopeTableArgs& args, const Context& context);
Status Rope(const RopeArgs& args, const Context& context);
Status SiluMul(const SiluMulArgs& args, const Context& context);
Status Route(const RouteArgs& args, const Context& context);
Status GatherRows(const GatherRowsArgs& args, const Context& context);
Status CombineExperts(const CombineExpertsArgs& args, const Context& context);
Status CacheWrite(const CacheWriteArgs& args, const Context& context);

}  // namespace mla::reference

#endif  // MLA_KERNELS_REFERENCE_REFERENCE_H_
