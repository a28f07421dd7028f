// In place of src/kernels/cpu/amx.cc, where AMX is emulated: the rest of its kernels is AVX-512.
#include "kernels/cpu/amx.h"

namespace mla::cpu {

bool HasAmxBf16() { return __builtin_cpu_supports("avx512bf16") != 0; }

}  // namespace mla::cpu
