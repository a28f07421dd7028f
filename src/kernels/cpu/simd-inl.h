// Loads and rounding shared by the Highway kernels. Included once per target; see the Highway
// documentation on foreach_target.h.
#if defined(MLA_KERNELS_CPU_SIMD_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef MLA_KERNELS_CPU_SIMD_INL_H_
#undef MLA_KERNELS_CPU_SIMD_INL_H_
#else
#define MLA_KERNELS_CPU_SIMD_INL_H_
#endif

#include <cstdint>
#include <cstring>
#include <limits>

#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace mla::cpu::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

// Element types of stored tensors, for overloads of LoadF32.
struct F16Bits {
  uint16_t bits;
};
struct Bf16Bits {
  uint16_t bits;
};

// Lanes(d) stored numbers as f32. Reads exactly those.
template <class D>
HWY_INLINE hn::Vec<D> LoadF32(D d, const float* from) {
  return hn::LoadU(d, from);
}
template <class D>
HWY_INLINE hn::Vec<D> LoadF32(D d, const Bf16Bits* from) {
  const hn::RebindToUnsigned<D> du;
  const hn::Rebind<uint16_t, D> d16;
  const auto bits = hn::LoadU(d16, reinterpret_cast<const uint16_t*>(from));
  return hn::BitCast(d, hn::ShiftLeft<16>(hn::PromoteTo(du, bits)));
}
template <class D>
HWY_INLINE hn::Vec<D> LoadF32(D d, const F16Bits* from) {
  const hn::Rebind<hwy::float16_t, D> d16;
  const auto v = hn::PromoteTo(d, hn::LoadU(d16, reinterpret_cast<const hwy::float16_t*>(from)));
#if HWY_ARCH_ARM || (HWY_ARCH_X86 && HWY_TARGET <= HWY_AVX2)
  return v;
#else
  // Highway's own conversion reads infinities and NaNs as numbers from 65,536 on.
  const auto most = hn::Set(d, 65536.0f);
  const auto special = hn::And(hn::VecFromMask(d, hn::Ge(hn::Abs(v), most)),
                               hn::Set(d, std::numeric_limits<float>::infinity()));
  return hn::Or(v, special);
#endif
}

// The first `count` < Lanes(d) numbers, then zeros. Reads exactly `count`: what follows may be
// another thread's memory, a NaN, or the end of a mapped file.
template <class D, typename T>
HWY_INLINE hn::Vec<D> LoadF32N(D d, const T* from, size_t count) {
  HWY_ALIGN T lanes[hn::MaxLanes(D())];
  std::memset(static_cast<void*>(lanes), 0, sizeof(lanes));
  std::memcpy(static_cast<void*>(lanes), from, count * sizeof(T));
  return LoadF32(d, lanes);
}

// Writes the first `count` <= Lanes(d) lanes.
template <class D>
HWY_INLINE void StoreF32N(D d, hn::Vec<D> v, float* to, size_t count) {
  if (count == hn::Lanes(d)) {
    hn::StoreU(v, d, to);
    return;
  }
  HWY_ALIGN float lanes[hn::MaxLanes(D())];
  hn::Store(v, d, lanes);
  std::memcpy(to, lanes, count * sizeof(float));
}

// f32 rounded to the nearest bf16, ties to even; NaN stays NaN.
template <class D>
HWY_INLINE hn::Vec<D> RoundToBf16(D d, hn::Vec<D> v) {
  const hn::RebindToUnsigned<D> du;
  const auto bits = hn::BitCast(du, v);
  const auto odd = hn::And(hn::ShiftRight<16>(bits), hn::Set(du, 1u));
  const auto rounded =
      hn::And(hn::Add(bits, hn::Add(odd, hn::Set(du, 0x7fffu))), hn::Set(du, 0xffff0000u));
  return hn::IfThenElse(hn::IsNaN(v), v, hn::BitCast(d, rounded));
}

}  // namespace mla::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // MLA_KERNELS_CPU_SIMD_INL_H_
