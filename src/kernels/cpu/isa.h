// The instruction sets of this machine, and a limit on those the CPU kernels may use.
#ifndef MLA_KERNELS_CPU_ISA_H_
#define MLA_KERNELS_CPU_ISA_H_

#include <string_view>
#include <vector>

#include "mla/result.h"

namespace mla::cpu {

// Best first, e.g. {"amx_bf16", "avx512_bf16", "avx512", "avx2", "sse4", "baseline"} or {"neon"}.
std::vector<std::string_view> SupportedIsas();

// The set in use: the best supported one, unless limited.
std::string_view CurrentIsa();

// Uses no instructions beyond `isa`, one of SupportedIsas(). For tests and for finding out what an
// older machine would do. The environment variable MLA_ISA does the same at start; a value there
// that is not supported is reported by CurrentIsaError(). Not to be called while an operator runs.
Status LimitIsa(std::string_view isa);
Status CurrentIsaError();

// True if the bf16 dot-product kernels may run: AVX512_BF16 exists and is not limited away.
bool UsesAvx512Bf16();
// True if besides them AVX512_VNNI exists.
bool UsesAvx512Vnni();
// True if besides the bf16 dot products those of AMX tiles may be used.
bool UsesAmxBf16();
inline constexpr std::string_view kNeedsAmxBf16 = "needs AMX tiles of bf16";  // a refusal

}  // namespace mla::cpu

#endif  // MLA_KERNELS_CPU_ISA_H_
