// The tile registers of AMX. For x86-64 only. Functions are always inlined, into callers that need
// not be compiled for AMX themselves: the instructions are assembly.
//
// Eight tiles of up to 16 rows of 64 bytes hold matrices of bf16 or f32. DotBf16 multiplies A,
// [m, 2 k] bf16, by B, [k, 2 n] bf16, row i of which has elements 2 i and 2 i + 1 of the summed
// axis of each of n columns side by side, and adds to C, [m, n] f32. Intel 64 and IA-32
// Architectures Software Developer's Manual, volume 2, TDPBF16PS: of each pair of the summed axis
// the first and the second products have a sum of their own, both are added, then C; numbers below
// the normal ones count as 0. So an element of C depends on nothing but its row of A and its column
// of B.
//
// Tests have a header of the same name with the same functions in C++.
#ifndef MLA_KERNELS_CPU_AMX_TILES_H_
#define MLA_KERNELS_CPU_AMX_TILES_H_

#include <cstdint>

#include "kernels/cpu/amx_config.h"

namespace mla::cpu::amx {

#define MLA_AMX_INLINE [[gnu::always_inline]] inline

// Gives the tiles of this thread these sizes, and zeros.
MLA_AMX_INLINE void Configure(const TileConfig& config) {
  __asm__ volatile("ldtilecfg %0" : : "m"(config));
}
// After use: a processor with tiles in use saves them at every change of threads.
MLA_AMX_INLINE void Release() { __asm__ volatile("tilerelease" : :); }

template <int kTile>
MLA_AMX_INLINE void Zero() {
  __asm__ volatile("tilezero %%tmm%c0" : : "i"(kTile));
}
// Rows lie `stride` bytes apart.
template <int kTile>
MLA_AMX_INLINE void Load(const void* from, int64_t stride) {
  __asm__ volatile("tileloadd (%0,%1,1), %%tmm%c2"
                   :
                   : "r"(from), "r"(stride), "i"(kTile)
                   : "memory");
}
template <int kTile>
MLA_AMX_INLINE void Store(void* to, int64_t stride) {
  __asm__ volatile("tilestored %%tmm%c2, (%0,%1,1)"
                   :
                   : "r"(to), "r"(stride), "i"(kTile)
                   : "memory");
}
template <int kC, int kA, int kB>
MLA_AMX_INLINE void DotBf16() {
  __asm__ volatile("tdpbf16ps %%tmm%c2, %%tmm%c1, %%tmm%c0" : : "i"(kC), "i"(kA), "i"(kB));
}

#undef MLA_AMX_INLINE

}  // namespace mla::cpu::amx

#endif  // MLA_KERNELS_CPU_AMX_TILES_H_
