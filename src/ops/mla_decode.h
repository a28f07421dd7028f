// Validation of mla_decode and the operators around it: what the host can know of a call whose
// lengths are on the device.
#ifndef MLA_OPS_MLA_DECODE_H_
#define MLA_OPS_MLA_DECODE_H_

#include "mla/cuda.h"
#include "mla/result.h"

namespace mla {

// Shapes, types, strides and devices; not the memory that the caller may not have allocated yet.
Status ValidateShapes(const cuda::MlaDecodeArgs& args);

// ValidateShapes, and schedule and workspace present and aligned.
Status Validate(const cuda::MlaDecodeArgs& args);

Status Validate(const cuda::MlaAppendArgs& args);
Status Validate(const cuda::HeadLinearArgs& args);

}  // namespace mla

#endif  // MLA_OPS_MLA_DECODE_H_
