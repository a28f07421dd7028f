// Validation of the matrix products' arguments.
#ifndef MLA_OPS_LINEAR_H_
#define MLA_OPS_LINEAR_H_

#include "mla/linear.h"

namespace mla {

Status Validate(const LinearArgs& args);
Status Validate(const GroupedLinearArgs& args);
Status Validate(const HeadLinearArgs& args);

}  // namespace mla

#endif  // MLA_OPS_LINEAR_H_
