// The inner loops that the ceilings of a machine are measured with: nothing but the instruction in
// question, as often as the units take it.
#ifndef MLA_BENCH_CEILINGS_LOOPS_H_
#define MLA_BENCH_CEILINGS_LOOPS_H_

#include <cstddef>
#include <cstdint>
#include <vector>

namespace mla {

struct ArithmeticLoop {
  const char* name;  // "fp32 FMA"
  const char* unit;  // "GFLOP/s"
  // Runs `turns` turns of the loop; returns the operations done, two for a multiplication with its
  // addition.
  double (*run)(int64_t turns);
};

// Those that this machine has: fp32 FMA through Highway, and on x86 vdpbf16ps, vpdpbusd and
// tdpbf16ps.
std::vector<ArithmeticLoop> ArithmeticLoops();

// Reads `bytes` (a multiple of 8 KiB) at `data` (64-byte aligned) with the widest loads, in 1, 2, 4
// or 8 streams side by side. Returns a number that depends on all of them.
uint64_t ReadStreams(const void* data, size_t bytes, int streams);

}  // namespace mla

#endif  // MLA_BENCH_CEILINGS_LOOPS_H_
