#include "ceilings/loops.h"

#include "kernels/cpu/simd_targets.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "ceilings/loops.cc"
// clang-format off
#include "hwy/foreach_target.h"
// After foreach_target.h.
#include "hwy/highway.h"
// clang-format on

#ifndef MLA_CHAINS
// Independent chains, which begin with different numbers: equal ones would become one. More than
// latency times units on any current core, few enough for 16 registers with the two factors.
#define MLA_CHAINS(X) X(0) X(1) X(2) X(3) X(4) X(5) X(6) X(7) X(8) X(9) X(10) X(11)
#endif

HWY_BEFORE_NAMESPACE();
namespace mla::HWY_NAMESPACE {
namespace {
constexpr int kChains = 12;  // of MLA_CHAINS
namespace hn = hwy::HWY_NAMESPACE;

double RunFma(int64_t turns) {
  const hn::ScalableTag<float> d;
  const auto a = hn::Set(d, 0.999F), b = hn::Set(d, 0.001F);
#define MLA_DECLARE(i) auto sum##i = hn::Set(d, 1.0F + (i));
#define MLA_TURN(i) sum##i = hn::MulAdd(sum##i, a, b);
#define MLA_ADD(i) all = hn::Add(all, sum##i);
  MLA_CHAINS(MLA_DECLARE)
  for (int64_t i = 0; i < turns; ++i) {
    MLA_CHAINS(MLA_TURN)
  }
  auto all = hn::Zero(d);
  MLA_CHAINS(MLA_ADD)
#undef MLA_DECLARE
#undef MLA_TURN
#undef MLA_ADD
  volatile float keep = hn::GetLane(all);
  (void)keep;
  return 2.0 * kChains * static_cast<double>(turns) * static_cast<double>(hn::Lanes(d));
}

template <int kStreams>
uint64_t Read(const uint64_t* data, size_t count) {
  const hn::ScalableTag<uint64_t> d;
  const size_t lanes = hn::Lanes(d);
  const size_t stride = count / kStreams;
  hn::Vec<decltype(d)> even[kStreams], odd[kStreams];
  for (int s = 0; s < kStreams; ++s) even[s] = odd[s] = hn::Zero(d);
  for (size_t i = 0; i < stride; i += 2 * lanes) {
    for (int s = 0; s < kStreams; ++s) {
      even[s] = hn::Xor(even[s], hn::Load(d, data + s * stride + i));
      odd[s] = hn::Xor(odd[s], hn::Load(d, data + s * stride + i + lanes));
    }
  }
  auto all = hn::Zero(d);
  for (int s = 0; s < kStreams; ++s) all = hn::Xor(all, hn::Xor(even[s], odd[s]));
  return hn::GetLane(hn::SumOfLanes(d, all));
}

uint64_t ReadAny(const uint64_t* data, size_t count, int streams) {
  switch (streams) {
    case 1: return Read<1>(data, count);
    case 2: return Read<2>(data, count);
    case 4: return Read<4>(data, count);
    default: return Read<8>(data, count);
  }
}

}  // namespace
}  // namespace mla::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE

#if HWY_ARCH_X86_64
#include <immintrin.h>

#include "kernels/cpu/amx.h"
#include "kernels/cpu/amx_tiles.h"
#endif

namespace mla {
namespace {

HWY_EXPORT(RunFma);
HWY_EXPORT(ReadAny);

double RunBestFma(int64_t turns) { return HWY_DYNAMIC_DISPATCH(RunFma)(turns); }

#if HWY_ARCH_X86_64

constexpr int kChains = 12;  // of MLA_CHAINS

__attribute__((target("avx512f,avx512bf16"))) double RunBf16(int64_t turns) {
  const auto a = (__m512bh)_mm512_set1_epi16(0x3f80), b = (__m512bh)_mm512_set1_epi16(0x3880);
#define MLA_DECLARE(i) __m512 sum##i = _mm512_set1_ps(i);
#define MLA_TURN(i) sum##i = _mm512_dpbf16_ps(sum##i, a, b);
#define MLA_ADD(i) all = _mm512_add_ps(all, sum##i);
  MLA_CHAINS(MLA_DECLARE)
  for (int64_t i = 0; i < turns; ++i) {
    MLA_CHAINS(MLA_TURN)
  }
  __m512 all = _mm512_setzero_ps();
  MLA_CHAINS(MLA_ADD)
#undef MLA_DECLARE
#undef MLA_TURN
#undef MLA_ADD
  volatile float keep = _mm512_cvtss_f32(all);
  (void)keep;
  return 64.0 * kChains * static_cast<double>(turns);
}

__attribute__((target("avx512f,avx512vnni"))) double RunInt8(int64_t turns) {
  const __m512i a = _mm512_set1_epi8(3), b = _mm512_set1_epi8(-5);
#define MLA_DECLARE(i) __m512i sum##i = _mm512_set1_epi32(i);
#define MLA_TURN(i) sum##i = _mm512_dpbusd_epi32(sum##i, a, b);
#define MLA_ADD(i) all = _mm512_xor_si512(all, sum##i);
  MLA_CHAINS(MLA_DECLARE)
  for (int64_t i = 0; i < turns; ++i) {
    MLA_CHAINS(MLA_TURN)
  }
  __m512i all = _mm512_setzero_si512();
  MLA_CHAINS(MLA_ADD)
#undef MLA_DECLARE
#undef MLA_TURN
#undef MLA_ADD
  volatile int keep = _mm512_cvtsi512_si32(all);
  (void)keep;
  return 128.0 * kChains * static_cast<double>(turns);
}

// Four sums from two tiles and two: all eight tiles.
double RunTiles(int64_t turns) {
  using namespace cpu;
  amx::TileConfig config;
  for (int tile = 0; tile < 8; ++tile) config.Set(tile, amx::kTileRows, amx::kTileRowBytes);
  amx::Configure(config);
  for (int64_t i = 0; i < turns; ++i) {
    amx::DotBf16<0, 4, 6>();
    amx::DotBf16<1, 4, 7>();
    amx::DotBf16<2, 5, 6>();
    amx::DotBf16<3, 5, 7>();
  }
  amx::Release();
  return 2.0 * 4 * amx::kTileRows * amx::kTileColumns * amx::kTileDepth *
         static_cast<double>(turns);
}

#endif

}  // namespace

std::vector<ArithmeticLoop> ArithmeticLoops() {
  std::vector<ArithmeticLoop> loops = {{"fp32 FMA", "GFLOP/s", RunBestFma}};
#if HWY_ARCH_X86_64
  __builtin_cpu_init();
  const bool avx512 = (hwy::SupportedTargets() & HWY_AVX3) != 0;
  if (avx512 && __builtin_cpu_supports("avx512bf16")) {
    loops.push_back({"vdpbf16ps", "GFLOP/s", RunBf16});
  }
  if (avx512 && __builtin_cpu_supports("avx512vnni")) {
    loops.push_back({"vpdpbusd", "GOP/s", RunInt8});
  }
  if (cpu::HasAmxBf16()) loops.push_back({"tdpbf16ps", "GFLOP/s", RunTiles});
#endif
  return loops;
}

uint64_t ReadStreams(const void* data, size_t bytes, int streams) {
  return HWY_DYNAMIC_DISPATCH(ReadAny)(static_cast<const uint64_t*>(data), bytes / 8, streams);
}

}  // namespace mla

#endif  // HWY_ONCE
