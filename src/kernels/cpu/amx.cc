#include "kernels/cpu/amx.h"

#if defined(__x86_64__) && defined(__linux__)

#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cstdint>

namespace mla::cpu {
namespace {

// Of leaf 7 of CPUID, in EDX.
constexpr uint32_t kAmxBf16 = 1u << 22, kAmxTile = 1u << 24;
constexpr uint32_t kOsXsave = 1u << 27;  // of leaf 1, in ECX
// Parts of the processor's state: tile configuration and tile data.
constexpr uint32_t kTileConfigPart = 17, kTileDataPart = 18;
constexpr int kRequestPermission = 0x1023;  // ARCH_REQ_XCOMP_PERM of <asm/prctl.h>

bool ProcessorHasIt() {
  uint32_t a, b, c, d;
  if (__get_cpuid(1, &a, &b, &c, &d) == 0 || (c & kOsXsave) == 0) return false;
  if (__get_cpuid_count(7, 0, &a, &b, &c, &d) == 0) return false;
  return (d & kAmxBf16) != 0 && (d & kAmxTile) != 0;
}

bool SystemSavesTiles() {
  uint32_t low, high;
  __asm__("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  constexpr uint32_t kBoth = 1u << kTileConfigPart | 1u << kTileDataPart;
  return (low & kBoth) == kBoth;
}

}  // namespace

bool HasAmxBf16() {
  static const bool has_it = ProcessorHasIt() && SystemSavesTiles() &&
                             syscall(SYS_arch_prctl, kRequestPermission, kTileDataPart) == 0;
  return has_it;
}

}  // namespace mla::cpu

#else

namespace mla::cpu {

bool HasAmxBf16() { return false; }

}  // namespace mla::cpu

#endif
