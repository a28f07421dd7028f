// The CUDA devices of this machine and the kernels that run on them.
#ifndef MLA_APPS_CUDA_INFO_H_
#define MLA_APPS_CUDA_INFO_H_

#include <nlohmann/json.hpp>
#include <string>

namespace mla {

// {"built": whether this program holds CUDA kernels, "devices": [...], "mla_decode": its kernels,
// best first, with what each refuses about a decode step of DeepSeek-V3 on the first device}; where
// there is no device, "problem" says why.
nlohmann::json CudaJson();

std::string CudaText(const nlohmann::json& cuda);

}  // namespace mla

#endif  // MLA_APPS_CUDA_INFO_H_
