// What the functions of the C interface share on the CPU.
#ifndef MLA_CAPI_CPU_H_
#define MLA_CAPI_CPU_H_

#include <cstdint>
#include <string_view>

#include "capi/boundary.h"
#include "mla/context.h"

namespace mla::capi {

// A context with a pool of this many threads; 0: as many as the process may use. Pools are made at
// their first use and kept: the workers of one that is not in use sleep. `automatic`: what compute
// is where the caller leaves it open.
Result<Context> CpuContext(int32_t num_threads, int32_t compute, ComputeMode automatic,
                           std::string_view kernel);

// Hands out verdicts, which live until this thread's next call.
Status WriteVerdicts(const KernelVerdicts& verdicts, mla_verdicts* given, std::string_view what);

}  // namespace mla::capi

#endif  // MLA_CAPI_CPU_H_
