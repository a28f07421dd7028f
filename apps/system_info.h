// What this machine is and which kernels run on it.
#ifndef MLA_APPS_SYSTEM_INFO_H_
#define MLA_APPS_SYSTEM_INFO_H_

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "mla/result.h"

namespace mla {

std::string CpuModel();  // "AMD EPYC 9354", or "unknown"

struct MemoryInfo {
  int64_t total_bytes = 0;
  int64_t available_bytes = 0;  // without swapping; 0: unknown
};
MemoryInfo ReadMemoryInfo();

// The kernels of one operator, best first, and which of them runs a small call with bf16 weights
// and cache in each compute mode.
struct OperatorKernels {
  std::string_view name;
  std::vector<std::string_view> kernels;
  std::string_view runs_f32, runs_bf16;
};
Result<std::vector<OperatorKernels>> ListOperatorKernels();

}  // namespace mla

#endif  // MLA_APPS_SYSTEM_INFO_H_
