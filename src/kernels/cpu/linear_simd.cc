// Matrix products in fp32 through Highway, weights converted as they are loaded; quantised weights
// are decoded by rows.
//
// The two forms are those of linear_avx512_bf16.cc: dot (weights contiguous along `in`) and axpy
// (along `out`). In both an output is summed in one order whatever the tile it falls into.
#include "kernels/cpu/linear.h"
#include "kernels/cpu/linear_driver.h"
#include "kernels/cpu/simd_targets.h"
#include "tensor/quant_blocks.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/linear_simd.cc"
// clang-format off
#include "hwy/foreach_target.h"
// After foreach_target.h.
#include "hwy/highway.h"
#include "kernels/cpu/simd-inl.h"
// clang-format on

HWY_BEFORE_NAMESPACE();
namespace mla::cpu::HWY_NAMESPACE {
namespace {

using D = hn::ScalableTag<float>;
using V = hn::Vec<D>;
constexpr D kD;
constexpr int64_t kLanes = hn::MaxLanes(kD);

// Rows of a register tile: with four outputs, four where there are 32 registers.
#if HWY_TARGET == HWY_AVX3 || HWY_TARGET == HWY_NEON
constexpr int kTileRows = 4;
#else
constexpr int kTileRows = 2;
#endif
// Four rows of weights are converted to f32 once for a block of at least this many rows of x.
constexpr int64_t kMinRowsToConvert = 2 * kTileRows;

inline int64_t Min(int64_t a, int64_t b) { return a < b ? a : b; }

void PackRows(const float* x, int64_t x_stride, int64_t rows, int64_t in, bool round, void* packed,
              int64_t packed_stride) {
  const auto pack = [round](V v) HWY_ATTR { return round ? RoundToBf16(kD, v) : v; };
  for (int64_t row = 0; row < rows; ++row) {
    const float* from = x + row * x_stride;
    float* to = static_cast<float*>(packed) + row * packed_stride;
    int64_t k = 0;
    for (; k + kLanes <= in; k += kLanes) hn::StoreU(pack(hn::LoadU(kD, from + k)), kD, to + k);
    if (k < in) {
      hn::StoreU(pack(LoadF32N(kD, from + k, in - k)), kD, to + k);
      k += kLanes;
    }
    for (; k < packed_stride; k += kLanes) hn::StoreU(hn::Zero(kD), kD, to + k);
  }
}

#if HWY_TARGET == HWY_SCALAR
HWY_INLINE void SumLanes4(V a, V b, V c, V d, float* sums) {
  sums[0] = hn::GetLane(a);
  sums[1] = hn::GetLane(b);
  sums[2] = hn::GetLane(c);
  sums[3] = hn::GetLane(d);
}
#else
template <class DV>
HWY_INLINE auto FoldBlocks(DV d, hn::Vec<DV> v) {
  if constexpr (hn::MaxLanes(DV()) > 4) {
    const hn::Half<DV> half;
    return FoldBlocks(half, hn::Add(hn::LowerHalf(half, v), hn::UpperHalf(half, v)));
  } else {
    return v;
  }
}

// sums[i]: the lanes of the i-th argument, added by the same tree for each.
HWY_INLINE void SumLanes4(V a, V b, V c, V d, float* sums) {
  const V ac = hn::Add(hn::InterleaveLower(kD, a, c), hn::InterleaveUpper(kD, a, c));
  const V bd = hn::Add(hn::InterleaveLower(kD, b, d), hn::InterleaveUpper(kD, b, d));
  const V abcd = hn::Add(hn::InterleaveLower(kD, ac, bd), hn::InterleaveUpper(kD, ac, bd));
  hn::StoreU(FoldBlocks(kD, abcd), hn::FixedTag<float, 4>(), sums);
}
#endif

// sums[m * kOuts + n]: the dot product of x row m and w row n. x is padded with zeros.
template <int kRows, int kOuts, typename W>
HWY_INLINE void DotTile(const float* x, int64_t x_stride, const W* const* w, int64_t in,
                        float* sums) {
  static_assert(kOuts % 4 == 0);
  V acc[kRows * kOuts];
  for (int i = 0; i < kRows * kOuts; ++i) acc[i] = hn::Zero(kD);
  int64_t k = 0;
  for (; k + kLanes <= in; k += kLanes) {
    V xk[kRows];
    for (int m = 0; m < kRows; ++m) xk[m] = hn::LoadU(kD, x + m * x_stride + k);
    for (int n = 0; n < kOuts; ++n) {
      const V wk = LoadF32(kD, w[n] + k);
      for (int m = 0; m < kRows; ++m) {
        acc[m * kOuts + n] = hn::MulAdd(xk[m], wk, acc[m * kOuts + n]);
      }
    }
  }
  if (k < in) {
    for (int n = 0; n < kOuts; ++n) {
      const V wk = LoadF32N(kD, w[n] + k, in - k);
      for (int m = 0; m < kRows; ++m) {
        const V xk = hn::LoadU(kD, x + m * x_stride + k);
        acc[m * kOuts + n] = hn::MulAdd(xk, wk, acc[m * kOuts + n]);
      }
    }
  }
  for (int i = 0; i < kRows * kOuts; i += 4) {
    SumLanes4(acc[i], acc[i + 1], acc[i + 2], acc[i + 3], sums + i);
  }
}

// Outputs [o, o + outs) of kRows rows; past the end, w[n] is the last row once more.
template <int kRows, int kOuts, typename W>
HWY_INLINE void DotStore(const Product& p, int64_t row, int64_t o, int64_t outs, const W* const* w,
                         const float* bias) {
  float sums[kRows * kOuts];
  DotTile<kRows, kOuts>(static_cast<const float*>(p.x) + row * p.x_stride, p.x_stride, w, p.in,
                        sums);
  for (int m = 0; m < kRows; ++m) {
    float* y = p.y + (row + m) * p.y_stride + o;
    for (int64_t n = 0; n < outs; ++n) {
      float sum = sums[m * kOuts + n];
      if (p.bias != nullptr) sum += bias[n];
      y[n] = p.accumulate ? y[n] + sum : sum;
    }
  }
}

template <typename W>
void DotRows(const ProductBlock& block, int64_t o, int64_t outs, const W* const* w,
             const float* bias) {
  const Product& p = *block.product;
  int64_t row = block.row_begin;
  for (; row + kTileRows <= block.row_end; row += kTileRows) {
    DotStore<kTileRows, 4>(p, row, o, outs, w, bias);
  }
  for (; row + 2 <= block.row_end; row += 2) DotStore<2, 4>(p, row, o, outs, w, bias);
  if (row < block.row_end) DotStore<1, 4>(p, row, o, outs, w, bias);
}

template <typename W>
void ConvertRow(const W* from, int64_t count, float* to) {
  int64_t k = 0;
  for (; k + kLanes <= count; k += kLanes) hn::StoreU(LoadF32(kD, from + k), kD, to + k);
  if (k < count) hn::StoreU(LoadF32N(kD, from + k, count - k), kD, to + k);
}

using DU = hn::Rebind<uint32_t, D>;
using VU = hn::Vec<DU>;
constexpr DU kDU;

HWY_INLINE VU LoadBytes(const uint8_t* from) {
  return hn::PromoteTo(kDU, hn::LoadU(hn::Rebind<uint8_t, D>(), from));
}
HWY_INLINE VU Half(VU bytes, int shift) {
  return hn::And(hn::ShiftRightSame(bytes, shift), hn::Set(kDU, 15u));
}
// scale * code - min; the product is exact.
HWY_INLINE void StoreCodes(VU codes, float scale, float min, float* to) {
  const V v = hn::ConvertTo(kD, hn::BitCast(hn::Rebind<int32_t, D>(), codes));
  hn::StoreU(hn::Sub(hn::Mul(v, hn::Set(kD, scale)), hn::Set(kD, min)), kD, to);
}

// The same values as DecodeBlock. Groups of 16 elements are whole vectors on every target.
template <typename Block>
HWY_INLINE void Decode(const Block& b, float* to) {
  DecodeBlock(b, to);
}
HWY_INLINE void Decode(const Q8_0Block& b, float* to) {
  const hn::Rebind<int32_t, D> d32;
  const V d = hn::Set(kD, F16ToF32(b.d));
  for (int i = 0; i < 32; i += kLanes) {
    const auto codes = hn::PromoteTo(d32, hn::LoadU(hn::Rebind<int8_t, D>(), b.codes + i));
    hn::StoreU(hn::Mul(d, hn::ConvertTo(kD, codes)), kD, to + i);
  }
}
HWY_INLINE void Decode(const Q4_0Block& b, float* to) {
  const float d = F16ToF32(b.d);
  for (int i = 0; i < 16; i += kLanes) {
    const VU bytes = LoadBytes(b.codes + i);
    StoreCodes(Half(bytes, 0), d, 8 * d, to + i);
    StoreCodes(Half(bytes, 4), d, 8 * d, to + 16 + i);
  }
}
HWY_INLINE void Decode(const Q4_KBlock& b, float* to) {
  const float d = F16ToF32(b.d), d_min = F16ToF32(b.d_min);
  const KScales s = UnpackKScales(b.scales);
  for (int r = 0; r < 8; ++r) {
    for (int i = 0; i < 32; i += kLanes) {
      StoreCodes(Half(LoadBytes(b.codes + r / 2 * 32 + i), r % 2 * 4), d * s.scale[r],
                 d_min * s.min[r], to + r * 32 + i);
    }
  }
}
HWY_INLINE void Decode(const Q5_KBlock& b, float* to) {
  const float d = F16ToF32(b.d), d_min = F16ToF32(b.d_min);
  const KScales s = UnpackKScales(b.scales);
  for (int r = 0; r < 8; ++r) {
    for (int i = 0; i < 32; i += kLanes) {
      const VU low = Half(LoadBytes(b.codes + r / 2 * 32 + i), r % 2 * 4);
      const VU bit = hn::And(hn::ShiftRightSame(LoadBytes(b.high + i), r), hn::Set(kDU, 1u));
      StoreCodes(hn::Or(low, hn::ShiftLeft<4>(bit)), d * s.scale[r], d_min * s.min[r],
                 to + r * 32 + i);
    }
  }
}
HWY_INLINE void Decode(const Q6_KBlock& b, float* to) {
  const float d = F16ToF32(b.d);
  for (int r = 0; r < 8; ++r) {
    for (int i = 0; i < 32; i += kLanes) {
      const VU low = Half(LoadBytes(b.low + r / 4 * 64 + r % 2 * 32 + i), r % 4 / 2 * 4);
      const VU high = hn::And(hn::ShiftRightSame(LoadBytes(b.high + r / 4 * 32 + i), r % 4 * 2),
                              hn::Set(kDU, 3u));
      const int8_t small = b.scales[2 * r + i / 16];
      const float scale = d * static_cast<float>(small);
      StoreCodes(hn::Or(low, hn::ShiftLeft<4>(high)), scale, 32 * scale, to + r * 32 + i);
    }
  }
}

// The first `count` elements of a row of codes.
template <typename Block>
void DecodeRow(const void* from, int64_t count, float* to) {
  const auto* blocks = static_cast<const Block*>(from);
  for (int64_t i = 0; i < count / Block::kElements; ++i) {
    Decode(blocks[i], to + i * Block::kElements);
  }
}

// Lanes(d) numbers in e4m3. As f16 the bits stand for 2^-8 times the value, but for NaN.
HWY_INLINE V LoadF8E4M3(const uint8_t* from) {
  const hn::Rebind<uint8_t, D> d8;
  const hn::Rebind<uint16_t, D> d16;
  const hn::Rebind<hwy::float16_t, D> df16;
  const auto bits = hn::PromoteTo(d16, hn::LoadU(d8, from));
  const auto magnitude = hn::And(bits, hn::Set(d16, uint16_t{0x7f}));
  const auto sign = hn::ShiftLeft<8>(hn::AndNot(hn::Set(d16, uint16_t{0x7f}), bits));
  const auto nan = hn::Set(d16, uint16_t{0x7e00});
  const auto f16 = hn::IfThenElse(hn::Eq(magnitude, hn::Set(d16, uint16_t{0x7f})), nan,
                                  hn::ShiftLeft<7>(magnitude));
  const V v = hn::PromoteTo(kD, hn::BitCast(df16, hn::Or(f16, sign)));
  return hn::Mul(v, hn::Set(kD, 256.0f));
}

void DecodeF8(const Product& p, int64_t o, int64_t k, int64_t count, float* to) {
  const uint8_t* from = static_cast<const uint8_t*>(p.w) + o * p.w_stride + k;
  const BlockScales& s = p.w_scales;
  for (int64_t i = 0; i < count;) {
    const int64_t end = Min(count, ((s.col0 + k + i) / s.cols + 1) * s.cols - s.col0 - k);
    const float scale = s.At(o, k + i);
    for (; i + kLanes <= end; i += kLanes) {
      hn::StoreU(hn::Mul(LoadF8E4M3(from + i), hn::Set(kD, scale)), kD, to + i);
    }
    for (; i < end; ++i) to[i] = F8E4M3ToF32(from[i]) * scale;
  }
}

// Elements [k, k + count) of row o of a quantised weight; of a block type, whole blocks.
void DecodeWeights(const Product& p, int64_t o, int64_t k, int64_t count, float* to) {
  if (p.w_dtype == DType::kF8E4M3) return DecodeF8(p, o, k, count, to);
  const void* from = static_cast<const char*>(p.w) + RowBytes(p.w_dtype, o * p.w_stride + k);
  switch (p.w_dtype) {
    case DType::kQ8_0: return DecodeRow<Q8_0Block>(from, count, to);
    case DType::kQ4_0: return DecodeRow<Q4_0Block>(from, count, to);
    case DType::kQ5_0: return DecodeRow<Q5_0Block>(from, count, to);
    case DType::kQ4_K: return DecodeRow<Q4_KBlock>(from, count, to);
    case DType::kQ5_K: return DecodeRow<Q5_KBlock>(from, count, to);
    case DType::kQ6_K: return DecodeRow<Q6_KBlock>(from, count, to);
    default: break;
  }
}

// One row of x: each part of the weights is used while it is in the L1 cache. The order of
// additions is that of DotTile.
constexpr int64_t kPartElements = 256;
void QuantisedDotRow(const ProductBlock& block, float* scratch) {
  const Product& p = *block.product;
  const float* x = static_cast<const float*>(p.x) + block.row_begin * p.x_stride;
  float* y = p.y + block.row_begin * p.y_stride;
  for (int64_t o = block.out_begin; o < block.out_end; o += 4) {
    const int64_t outs = Min(4, block.out_end - o);
    V acc[4] = {hn::Zero(kD), hn::Zero(kD), hn::Zero(kD), hn::Zero(kD)};
    for (int64_t part = 0; part < p.in; part += kPartElements) {
      const int64_t count = Min(kPartElements, p.in - part);
      for (int64_t n = 0; n < outs; ++n) {
        float* w = scratch + n * kPartElements;
        DecodeWeights(p, o + n, part, count, w);
        int64_t k = 0;
        for (; k + kLanes <= count; k += kLanes) {
          acc[n] = hn::MulAdd(hn::LoadU(kD, x + part + k), hn::LoadU(kD, w + k), acc[n]);
        }
        if (k < count) {
          const V wk = LoadF32N(kD, w + k, count - k);
          acc[n] = hn::MulAdd(hn::LoadU(kD, x + part + k), wk, acc[n]);
        }
      }
    }
    float sums[4];
    SumLanes4(acc[0], acc[1], acc[2], acc[3], sums);
    for (int64_t n = 0; n < outs; ++n) {
      if (p.bias != nullptr) sums[n] += BiasAt(p, o + n);
      y[o + n] = p.accumulate ? y[o + n] + sums[n] : sums[n];
    }
  }
}

// As DotBlock, for weights that are decoded four rows at a time whatever the rows of x.
void QuantisedDotBlock(const ProductBlock& block, float* scratch) {
  const Product& p = *block.product;
  if (block.row_end - block.row_begin == 1) return QuantisedDotRow(block, scratch);
  for (int64_t o = block.out_begin; o < block.out_end; o += 4) {
    const int64_t outs = Min(4, block.out_end - o);
    const float* w[4];
    float bias[4];
    for (int64_t n = 0; n < 4; ++n) {
      const int64_t row = o + Min(n, outs - 1);
      float* to = scratch + Min(n, outs - 1) * p.x_stride;
      if (n < outs) DecodeWeights(p, row, 0, p.in, to);
      w[n] = to;
      bias[n] = p.bias != nullptr ? BiasAt(p, row) : 0;
    }
    DotRows(block, o, outs, w, bias);
  }
}

template <typename W>
void DotBlock(const ProductBlock& block, float* scratch) {
  const Product& p = *block.product;
  const int64_t rows = block.row_end - block.row_begin;
  const int64_t step = rows == 1 ? 8 : 4;
  const bool convert = sizeof(W) != sizeof(float) && rows >= kMinRowsToConvert;
  for (int64_t o = block.out_begin; o < block.out_end; o += step) {
    const int64_t outs = Min(step, block.out_end - o);
    const W* w[8];
    const float* converted[4];
    float bias[8];
    for (int64_t n = 0; n < step; ++n) {
      const int64_t row = o + Min(n, outs - 1);
      w[n] = static_cast<const W*>(p.w) + row * p.w_stride;
      bias[n] = p.bias != nullptr ? BiasAt(p, row) : 0;
    }
    if (rows == 1) {
      DotStore<1, 8>(p, block.row_begin, o, outs, w, bias);
    } else if (convert) {
      for (int n = 0; n < 4; ++n) {
        float* to = scratch + n * p.x_stride;
        ConvertRow(w[n], p.in, to);
        converted[n] = to;
      }
      DotRows(block, o, outs, converted, bias);
    } else {
      DotRows(block, o, outs, w, bias);
    }
  }
}

// Outputs [o, o + kVectors * kLanes) of kRows rows; kPartial: [o, o + count), and kVectors is 1.
template <int kRows, int kVectors, bool kPartial, typename W>
HWY_INLINE void AxpyTile(const Product& p, int64_t row, int64_t o, int64_t count) {
  static_assert(!kPartial || kVectors == 1);
  const float* x = static_cast<const float*>(p.x) + row * p.x_stride;
  V acc[kRows][kVectors];
  for (int m = 0; m < kRows; ++m) {
    for (int j = 0; j < kVectors; ++j) acc[m][j] = hn::Zero(kD);
  }
  for (int64_t k = 0; k < p.in; ++k) {
    const W* from = static_cast<const W*>(p.w) + k * p.w_stride + o;
    for (int j = 0; j < kVectors; ++j) {
      V wk;
      if constexpr (kPartial) {
        wk = LoadF32N(kD, from, count);
      } else {
        wk = LoadF32(kD, from + j * kLanes);
      }
      for (int m = 0; m < kRows; ++m) {
        acc[m][j] = hn::MulAdd(hn::Set(kD, x[m * p.x_stride + k]), wk, acc[m][j]);
      }
    }
  }
  for (int m = 0; m < kRows; ++m) {
    float* y = p.y + (row + m) * p.y_stride + o;
    for (int j = 0; j < kVectors; ++j) {
      StoreF32N(kD, acc[m][j], y + j * kLanes, kPartial ? count : kLanes);
    }
  }
}

template <int kVectors, bool kPartial, typename W>
void AxpyColumns(const ProductBlock& block, int64_t o, int64_t count) {
  const Product& p = *block.product;
  int64_t row = block.row_begin;
  if constexpr (kVectors <= 2) {
    for (; row + 4 <= block.row_end; row += 4) {
      AxpyTile<4, kVectors, kPartial, W>(p, row, o, count);
    }
  }
  for (; row < block.row_end; ++row) AxpyTile<1, kVectors, kPartial, W>(p, row, o, count);
}

template <typename W>
void AxpyBlock(const ProductBlock& block) {
  int64_t o = block.out_begin;
  if (block.row_end - block.row_begin < 4) {
    for (; o + 4 * kLanes <= block.out_end; o += 4 * kLanes) AxpyColumns<4, false, W>(block, o, 0);
  }
  for (; o + 2 * kLanes <= block.out_end; o += 2 * kLanes) AxpyColumns<2, false, W>(block, o, 0);
  for (; o + kLanes <= block.out_end; o += kLanes) AxpyColumns<1, false, W>(block, o, 0);
  if (o < block.out_end) AxpyColumns<1, true, W>(block, o, block.out_end - o);
}

template <typename W>
void RunBlockOf(const ProductBlock& block, float* scratch) {
  if (block.product->w_out_unit) {
    AxpyBlock<W>(block);
  } else {
    DotBlock<W>(block, scratch);
  }
}

void RunBlock(const ProductBlock& block, float* scratch) {
  switch (block.product->w_dtype) {
    case DType::kF32: return RunBlockOf<float>(block, scratch);
    case DType::kF16: return RunBlockOf<F16Bits>(block, scratch);
    case DType::kBF16: return RunBlockOf<Bf16Bits>(block, scratch);
    default: return QuantisedDotBlock(block, scratch);
  }
}

// Four rows of weights, or parts of them, converted.
int64_t ScratchFloats(int64_t packed_stride, int64_t /*block_rows*/) {
  return 4 * (packed_stride > kPartElements ? packed_stride : kPartElements);
}

constexpr int64_t kWholeRows = INT64_MAX;
constexpr LinearBackend kBackend = {sizeof(float), kWholeRows, ScratchFloats, PackRows, RunBlock};

}  // namespace

const LinearBackend* LinearBackendOfTarget() { return &kBackend; }

}  // namespace mla::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE

namespace mla::cpu {
namespace {

HWY_EXPORT(LinearBackendOfTarget);
const LinearBackend& Backend() { return *HWY_DYNAMIC_DISPATCH(LinearBackendOfTarget)(); }

}  // namespace

std::string_view SimdRefusesLinear(const LinearArgs&, const Context&) { return {}; }
std::string_view SimdRefusesGroupedLinear(const GroupedLinearArgs&, const Context&) { return {}; }
std::string_view SimdRefusesHeadLinear(const HeadLinearArgs&, const Context&) { return {}; }

Status RunSimdLinear(const LinearArgs& args, const Context& context) {
  return RunLinear(Backend(), args, context);
}

Status RunSimdGroupedLinear(const GroupedLinearArgs& args, const Context& context) {
  return RunGroupedLinear(Backend(), args, context);
}

Status RunSimdHeadLinear(const HeadLinearArgs& args, const Context& context) {
  return RunHeadLinear(Backend(), args, context);
}

}  // namespace mla::cpu

#endif  // HWY_ONCE
