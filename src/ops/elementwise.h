// Validation of the row-wise operators' arguments.
#ifndef MLA_OPS_ELEMENTWISE_H_
#define MLA_OPS_ELEMENTWISE_H_

#include "mla/elementwise.h"

namespace mla {

Status Validate(const EmbeddingArgs& args);
Status Validate(const RmsNormArgs& args);
Status Validate(const LayerNormArgs& args);
Status Validate(const ScaleArgs& args);
Status Validate(const RopeTableArgs& args);
Status Validate(const RopeArgs& args);
Status Validate(const SiluMulArgs& args);
Status Validate(const RouteArgs& args);
Status Validate(const GatherRowsArgs& args);
Status Validate(const CombineExpertsArgs& args);
Status Validate(const CacheWriteArgs& args);

}  // namespace mla

#endif  // MLA_OPS_ELEMENTWISE_H_
