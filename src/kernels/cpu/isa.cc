#include "kernels/cpu/isa.h"

#include <cstdlib>
#include <string>

#include "kernels/cpu/amx.h"
#include "kernels/cpu/simd_targets.h"
// After simd_targets.h.
#include "hwy/targets.h"

namespace mla::cpu {
namespace {

constexpr std::string_view kAmxBf16 = "amx_bf16", kAvx512Bf16 = "avx512_bf16";

struct Isa {
  std::string_view name;
  int64_t target;  // of Highway; 0: beyond its targets
};

// Best first. An entry allows all that come after it.
constexpr Isa kIsas[] = {
#if HWY_ARCH_X86
    {kAmxBf16, 0},      {kAvx512Bf16, 0},   {"avx512", HWY_AVX3},
    {"avx2", HWY_AVX2}, {"sse4", HWY_SSE4}, {"baseline", HWY_STATIC_TARGET},
#elif HWY_ARCH_ARM
    {"neon", HWY_STATIC_TARGET},
#else
    {"baseline", HWY_STATIC_TARGET},
#endif
};

// True if the processor has AVX512_BF16 and the operating system saves the AVX-512 registers.
bool HasAvx512Bf16() {
#if HWY_ARCH_X86_64
  __builtin_cpu_init();
  return __builtin_cpu_supports("avx512bf16") && __builtin_cpu_supports("avx512f") &&
         __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
         __builtin_cpu_supports("avx512vl");
#else
  return false;
#endif
}

bool HasAvx512Vnni() {
#if HWY_ARCH_X86_64
  __builtin_cpu_init();
  return __builtin_cpu_supports("avx512vnni");
#else
  return false;
#endif
}

std::string Join(const std::vector<Isa>& isas) {
  std::string text;
  for (const Isa& isa : isas) {
    if (!text.empty()) text += ", ";
    text += isa.name;
  }
  return text;
}

class IsaState {
 public:
  IsaState() {
    const int64_t detected = hwy::SupportedTargets();
    for (const Isa& isa : kIsas) {
      const bool baseline = isa.target == HWY_STATIC_TARGET;
      bool usable = isa.target == 0 ? (detected & HWY_AVX3) != 0 && HasAvx512Bf16()
                                    : (detected & isa.target & HWY_TARGETS) != 0;
      if (isa.name == kAmxBf16) usable = usable && HasAmxBf16();
      if (usable || baseline) supported_.push_back(isa);
    }
    SetCurrent(supported_.front().name);
    if (const char* wanted = std::getenv("MLA_ISA"); wanted != nullptr && *wanted != '\0') {
      if (Status status = Limit(wanted); !status.ok()) {
        error_ = InvalidArgument("environment variable MLA_ISA: ", status.error().message);
      }
    }
  }

  Status Limit(std::string_view name) {
    int64_t targets = 0;
    bool found = false;
    for (const Isa& isa : supported_) {
      found = found || isa.name == name;
      if (!found) continue;
      if (targets == 0) SetCurrent(isa.name);
      targets |= isa.target == 0 ? HWY_STATIC_TARGET : isa.target;
    }
    if (!found) {
      return InvalidArgument("instruction set '", name,
                             "' is not one of this machine's: ", Join(supported_));
    }
    // 0: no limit.
    hwy::SetSupportedTargetsForTest(current_ == supported_.front().name ? 0 : targets);
    hwy::GetChosenTarget().Update(hwy::SupportedTargets());
    return {};
  }

  const std::vector<Isa>& supported() const { return supported_; }
  std::string_view current() const { return current_; }
  bool amx() const { return amx_; }
  bool bf16() const { return bf16_; }
  const Status& error() const { return error_; }

 private:
  void SetCurrent(std::string_view name) {
    current_ = name;
    amx_ = name == kAmxBf16;
    bf16_ = amx_ || name == kAvx512Bf16;
  }

  std::vector<Isa> supported_;
  std::string_view current_;
  bool amx_ = false, bf16_ = false;
  Status error_;
};

IsaState& State() {
  static IsaState state;
  return state;
}

// MLA_ISA takes effect before any kernel runs, also one that never asks about instruction sets.
[[maybe_unused]] const IsaState& initialized_at_start = State();

}  // namespace

std::vector<std::string_view> SupportedIsas() {
  std::vector<std::string_view> names;
  for (const Isa& isa : State().supported()) names.push_back(isa.name);
  return names;
}

std::string_view CurrentIsa() { return State().current(); }
Status LimitIsa(std::string_view isa) { return State().Limit(isa); }
Status CurrentIsaError() { return State().error(); }
bool UsesAvx512Bf16() { return State().bf16(); }
bool UsesAvx512Vnni() {
  static const bool has_vnni = HasAvx512Vnni();
  return has_vnni && UsesAvx512Bf16();
}
bool UsesAmxBf16() { return State().amx(); }

}  // namespace mla::cpu
