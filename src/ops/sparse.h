// Validation of the sparse attention operators' arguments.
#ifndef MLA_OPS_SPARSE_H_
#define MLA_OPS_SPARSE_H_

#include "mla/sparse.h"

namespace mla {

Status Validate(const MlaIndexTopkArgs& args);
Status Validate(const MlaSparseArgs& args);

}  // namespace mla

#endif  // MLA_OPS_SPARSE_H_
