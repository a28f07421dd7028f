// The tile kernels of attention in fp32, for every instruction set Highway knows.
#include <cstdint>
#include <cstring>
#include <limits>

#include "kernels/cpu/attention_tile.h"
#include "kernels/cpu/simd_targets.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/attention_simd.cc"
// clang-format off
#include "hwy/foreach_target.h"
// After foreach_target.h.
#include "hwy/highway.h"
#include "kernels/cpu/simd-inl.h"
// clang-format on

HWY_BEFORE_NAMESPACE();
namespace mla::cpu::HWY_NAMESPACE {
namespace attention {

// Vectors of a length known when compiling, so that a tile of them lives in registers; targets of
// unknown length use 128 bits.
#if HWY_HAVE_SCALABLE
using DF = hn::FixedTag<float, 4>;
#else
using DF = hn::CappedTag<float, 16>;
#endif
using DI = hn::Rebind<int32_t, DF>;
using VF = hn::Vec<DF>;
constexpr int kLanes = hn::MaxLanes(DF());
constexpr int kPanel = 2 * kLanes;
// Rows of C held in registers, 2 vectors each: 24 of 32 registers or 12 of 16.
#if HWY_TARGET == HWY_AVX3 || HWY_ARCH_ARM_A64
constexpr int kRows = 12;
#else
constexpr int kRows = 6;
#endif

// 2^x for x <= 0, to about 1 ulp; 0 below 2^-126.
HWY_INLINE VF Exp2(VF x) {
  const DF df;
  const DI di;
  const VF clamped = hn::Max(x, hn::Set(df, -127.0f));
  const VF whole = hn::Round(clamped);
  const VF f = hn::Sub(clamped, whole);
  // Taylor series of 2^f on [-1/2, 1/2]: the term left out is below 1e-8.
  VF p = hn::Set(df, 1.52527338e-5f);
  p = hn::MulAdd(p, f, hn::Set(df, 1.54035304e-4f));
  p = hn::MulAdd(p, f, hn::Set(df, 1.33335581e-3f));
  p = hn::MulAdd(p, f, hn::Set(df, 9.61812911e-3f));
  p = hn::MulAdd(p, f, hn::Set(df, 5.55041087e-2f));
  p = hn::MulAdd(p, f, hn::Set(df, 0.240226507f));
  p = hn::MulAdd(p, f, hn::Set(df, 0.693147181f));
  p = hn::MulAdd(p, f, hn::Set(df, 1.0f));
  const auto exponent = hn::ShiftLeft<23>(hn::ConvertTo(di, whole));
  const VF scaled = hn::BitCast(df, hn::Add(hn::BitCast(di, p), exponent));
  const VF power = hn::IfThenElseZero(hn::Ge(x, hn::Set(df, -126.0f)), scaled);
  return hn::IfThenElse(hn::IsNaN(x), x, power);
}

template <bool kRound>
void RoundRow(const float* src, int32_t n, void* dst) {
  const DF df;
  float* to = static_cast<float*>(dst);
  if (!kRound) {
    if (n > 0) std::memcpy(to, src, n * sizeof(float));
    return;
  }
  int32_t i = 0;
  for (; i + kLanes <= n; i += kLanes) {
    hn::StoreU(RoundToBf16(df, LoadF32(df, src + i)), df, to + i);
  }
  if (i >= n) return;
  StoreF32N(df, RoundToBf16(df, LoadF32N(df, src + i, n - i)), to + i, n - i);
}

void DecodeLatents(const void* const* rows, int32_t num_rows, const Int8LatentLayout& layout,
                   void* to, int64_t stride) {
  const DF df;
  const hn::Rebind<int8_t, DF> d8;
  for (int64_t i = 0; i < num_rows; ++i) {
    const auto* codes = static_cast<const int8_t*>(rows[i]);
    float* out = static_cast<float*>(to) + i * stride;
    for (int64_t g = 0; g < layout.groups(); ++g) {
      float scale;
      std::memcpy(&scale, codes + layout.scales_offset() + g * sizeof(scale), sizeof(scale));
      int64_t d = g * Int8LatentLayout::kGroup;
      const int64_t end = HWY_MIN(d + Int8LatentLayout::kGroup, int64_t{layout.kv_lora_rank});
      for (; d + kLanes <= end; d += kLanes) {
        const auto wide = hn::PromoteTo(DI(), hn::LoadU(d8, codes + d));
        hn::StoreU(hn::Mul(hn::ConvertTo(df, wide), hn::Set(df, scale)), df, out + d);
      }
      for (; d < end; ++d) out[d] = static_cast<float>(codes[d]) * scale;
    }
    const auto* rope = reinterpret_cast<const Bf16Bits*>(codes + layout.rope_offset());
    out += layout.kv_lora_rank;
    int64_t d = 0;
    for (; d + kLanes <= layout.qk_rope_head_dim; d += kLanes) {
      hn::StoreU(LoadF32(df, rope + d), df, out + d);
    }
    const int64_t left = layout.qk_rope_head_dim - d;
    if (left > 0) StoreF32N(df, LoadF32N(df, rope + d, left), out + d, left);
  }
}

#if HWY_TARGET == HWY_SCALAR

// Writes columns [0, kLanes) of steps [0, steps) at dst, from kLanes rows of `stride` floats.
HWY_INLINE void TransposeRows(const float* rows, int64_t, int64_t steps, float* dst) {
  for (int64_t d = 0; d < steps; ++d) dst[d * kPanel] = rows[d];
}

#else

// Four floats of kLanes / 4 rows that are four rows apart, one row to a 128-bit block.
template <int kCount>
HWY_INLINE auto LoadBlocks(const float* row, int64_t stride) {
  if constexpr (kCount == 4) {
    return hn::LoadU(hn::FixedTag<float, 4>(), row);
  } else {
    return hn::Combine(hn::FixedTag<float, kCount>(),
                       LoadBlocks<kCount / 2>(row + kCount / 2 * stride, stride),
                       LoadBlocks<kCount / 2>(row, stride));
  }
}

// As above, by 4 x 4 transposes within the blocks.
HWY_INLINE void TransposeRows(const float* rows, int64_t stride, int64_t steps, float* dst) {
  const DF df;
  for (int64_t d = 0; d < steps; d += 4) {
    const VF r0 = LoadBlocks<kLanes>(rows + d, stride);
    const VF r1 = LoadBlocks<kLanes>(rows + stride + d, stride);
    const VF r2 = LoadBlocks<kLanes>(rows + 2 * stride + d, stride);
    const VF r3 = LoadBlocks<kLanes>(rows + 3 * stride + d, stride);
    const VF a = hn::InterleaveLower(df, r0, r2);
    const VF b = hn::InterleaveLower(df, r1, r3);
    const VF c = hn::InterleaveUpper(df, r0, r2);
    const VF e = hn::InterleaveUpper(df, r1, r3);
    const VF columns[4] = {hn::InterleaveLower(df, a, b), hn::InterleaveUpper(df, a, b),
                           hn::InterleaveLower(df, c, e), hn::InterleaveUpper(df, c, e)};
    const int64_t n = HWY_MIN(steps - d, 4);
    for (int64_t i = 0; i < n; ++i) hn::Store(columns[i], df, dst + (d + i) * kPanel);
  }
}

#endif

template <typename T>
void PackTransposedAs(const SourceRows& src, const Panels& dst, float* scratch) {
  const DF df;
  const int64_t stride = (src.dim + 15) / 16 * 16;
  const int64_t columns = (src.num_rows + kPanel - 1) / kPanel * kPanel;
  for (int64_t first = 0; first < columns; first += kLanes) {
    for (int64_t i = 0; i < kLanes; ++i) {
      float* to = scratch + i * stride;
      if (first + i >= src.num_rows) {
        std::memset(to, 0, stride * sizeof(float));
        continue;
      }
      const T* from = static_cast<const T*>(src.rows[first + i]);
      int64_t d = 0;
      for (; d + kLanes <= src.dim; d += kLanes) hn::Store(LoadF32(df, from + d), df, to + d);
      if (d < src.dim) hn::Store(LoadF32N(df, from + d, src.dim - d), df, to + d);
    }
    float* panel = static_cast<float*>(dst.data) +
                   (first / kPanel * dst.steps + dst.offset) * kPanel + first % kPanel;
    TransposeRows(scratch, stride, src.dim, panel);
  }
}

template <typename T>
void PackStraightAs(const SourceRows& src, const Panels& dst) {
  const DF df;
  // Panel by panel: panels are often 4 KiB apart, and stores to many of them would evict each
  // other.
  for (int64_t col = 0; col < src.dim; col += kPanel) {
    float* to =
        static_cast<float*>(dst.data) + (col / kPanel * int64_t{dst.steps} + dst.offset) * kPanel;
    for (int64_t i = 0; i < src.num_rows; ++i, to += kPanel) {
      const T* from = static_cast<const T*>(src.rows[i]) + col;
      for (int64_t half = 0; half < kPanel; half += kLanes) {
        const int64_t left = src.dim - col - half;
        const VF x = left >= kLanes ? LoadF32(df, from + half)
                     : left > 0     ? LoadF32N(df, from + half, left)
                                    : hn::Zero(df);
        hn::Store(x, df, to + half);
      }
    }
  }
}

void PackTransposed(const SourceRows& src, const Panels& dst, float* scratch) {
  switch (src.dtype) {
    case DType::kF16: return PackTransposedAs<F16Bits>(src, dst, scratch);
    case DType::kBF16: return PackTransposedAs<Bf16Bits>(src, dst, scratch);
    default: return PackTransposedAs<float>(src, dst, scratch);
  }
}

void PackStraight(const SourceRows& src, const Panels& dst) {
  switch (src.dtype) {
    case DType::kF16: return PackStraightAs<F16Bits>(src, dst);
    case DType::kBF16: return PackStraightAs<Bf16Bits>(src, dst);
    default: return PackStraightAs<float>(src, dst);
  }
}

// R rows of C by one panel. The accumulators stay in registers over all steps.
template <int R>
HWY_NOINLINE void MultiplyBlock(const float* HWY_RESTRICT a, int64_t lda,
                                const float* HWY_RESTRICT b, int64_t steps, float* HWY_RESTRICT c,
                                int64_t ldc, const float* alpha) {
  const DF df;
  VF acc0[R], acc1[R];
  for (int r = 0; r < R; ++r) {
    if (alpha == nullptr) {
      acc0[r] = acc1[r] = hn::Zero(df);
    } else {
      const VF factor = hn::Set(df, alpha[r]);
      acc0[r] = hn::Mul(factor, hn::LoadU(df, c + r * ldc));
      acc1[r] = hn::Mul(factor, hn::LoadU(df, c + r * ldc + kLanes));
    }
  }
  for (int64_t k = 0; k < steps; ++k) {
    const VF b0 = hn::Load(df, b + k * kPanel);
    const VF b1 = hn::Load(df, b + k * kPanel + kLanes);
    for (int r = 0; r < R; ++r) {
      const VF x = hn::Set(df, a[r * lda + k]);
      acc0[r] = hn::MulAdd(x, b0, acc0[r]);
      acc1[r] = hn::MulAdd(x, b1, acc1[r]);
    }
  }
  for (int r = 0; r < R; ++r) {
    hn::StoreU(acc0[r], df, c + r * ldc);
    hn::StoreU(acc1[r], df, c + r * ldc + kLanes);
  }
}

template <int R>
HWY_INLINE void MultiplyRows(int rows, const float* a, int64_t lda, const float* b, int64_t steps,
                             float* c, int64_t ldc, const float* alpha) {
  if constexpr (R > 0) {
    if (rows == R) {
      MultiplyBlock<R>(a, lda, b, steps, c, ldc, alpha);
    } else {
      MultiplyRows<R - 1>(rows, a, lda, b, steps, c, ldc, alpha);
    }
  }
}

void Multiply(const Product& product) {
  const float* a = static_cast<const float*>(product.a);
  const auto* b = static_cast<const float*>(product.b.data);
  const int32_t blocks = (product.rows + kRows - 1) / kRows;
  const int32_t panels = (product.cols + kPanel - 1) / kPanel;
  for (int32_t col = 0; col < product.cols; col += kPanel) {
    for (int32_t block = 0; block < blocks; ++block) {
      // Blocks of nearly equal height: 16 rows are 8 + 8, not 12 + 4.
      const int32_t row = block * product.rows / blocks;
      const int32_t next = (block + 1) * product.rows / blocks;
      MultiplyRows<kRows>(next - row, a + row * product.lda, product.lda, b, product.steps,
                          product.c + row * product.ldc + col, product.ldc,
                          product.alpha == nullptr ? nullptr : product.alpha + row);
      PrefetchPart(product.ahead, col / kPanel * blocks + block, panels * blocks);
    }
    b += int64_t{product.b.steps} * kPanel;
  }
}

template <bool kRound>
void Softmax(const SoftmaxTile& tile) {
  const DF df;
  constexpr float kMinusInf = -std::numeric_limits<float>::infinity();
  const VF scale = hn::Set(df, tile.scale_log2);
  for (int32_t row = 0; row < tile.rows; ++row) {
    const float* s = tile.s + int64_t{row} * kKeyTile;
    float* p = static_cast<float*>(tile.p) + int64_t{row} * kKeyTile;
    const int32_t visible = tile.visible[row];
    VF max_v = hn::Set(df, kMinusInf);
    for (int32_t j = 0; j < visible; j += kLanes) {
      const auto seen = hn::FirstN(df, visible - j);
      const VF x = hn::Mul(hn::LoadU(df, s + j), scale);
      max_v = hn::Max(max_v, hn::IfThenElse(seen, x, hn::Set(df, kMinusInf)));
    }
    // Not asked of no scores at all: Highway's emulated targets would say -FLT_MAX.
    const float tile_max = visible > 0 ? hn::GetLane(hn::MaxOfLanes(df, max_v)) : kMinusInf;
    const float max = NextMax(tile.max[row], tile_max, s, visible);
    tile.alpha[row] = 1.0f;
    VF sum = hn::Zero(df);
    const VF shift = hn::Set(df, max);
    for (int32_t j = 0; j < tile.keys; j += kLanes) {
      VF weight = hn::Zero(df);
      if (j < visible && max != kMinusInf) {
        const VF x = hn::Sub(hn::Mul(hn::LoadU(df, s + j), scale), shift);
        weight = hn::IfThenElseZero(hn::FirstN(df, visible - j), Exp2(x));
      }
      sum = hn::Add(sum, weight);
      hn::StoreU(kRound ? RoundToBf16(df, weight) : weight, df, p + j);
    }
    if (max == kMinusInf) continue;
    if (tile.max[row] != max) {
      const VF alpha = Exp2(hn::Set(df, tile.max[row] - max));
      tile.alpha[row] = hn::GetLane(alpha);
    }
    tile.sum[row] = tile.sum[row] * tile.alpha[row] + hn::GetLane(hn::SumOfLanes(df, sum));
    tile.max[row] = max;
  }
}

void WeightedSum(const float* const* parts, const float* weights, int32_t count, int32_t n,
                 float* out) {
  const DF df;
  int32_t j = 0;
  for (; j + 4 * kLanes <= n; j += 4 * kLanes) {
    VF sum[4] = {hn::Zero(df), hn::Zero(df), hn::Zero(df), hn::Zero(df)};
    for (int32_t i = 0; i < count; ++i) {
      const VF weight = hn::Set(df, weights[i]);
      for (int k = 0; k < 4; ++k) {
        sum[k] = hn::MulAdd(weight, hn::LoadU(df, parts[i] + j + k * kLanes), sum[k]);
      }
    }
    for (int k = 0; k < 4; ++k) hn::StoreU(sum[k], df, out + j + k * kLanes);
  }
  for (; j < n; ++j) {
    float sum = 0;
    for (int32_t i = 0; i < count; ++i) sum += weights[i] * parts[i][j];
    out[j] = sum;
  }
}

TileKernels GetTileKernels(bool round_to_bf16) {
  return TileKernels{kPanel,
                     1,
                     sizeof(float),
                     DType::kF32,
                     round_to_bf16 ? &RoundRow<true> : &RoundRow<false>,
                     &DecodeLatents,
                     &PackTransposed,
                     &PackStraight,
                     &Multiply,
                     round_to_bf16 ? &Softmax<true> : &Softmax<false>};
}

}  // namespace attention

void WeightedSumOfTarget(const float* const* parts, const float* weights, int32_t count, int32_t n,
                         float* out) {
  attention::WeightedSum(parts, weights, count, n, out);
}
TileKernels GetAttentionTileKernels(bool round_to_bf16) {
  return attention::GetTileKernels(round_to_bf16);
}

}  // namespace mla::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace mla::cpu {

HWY_EXPORT(GetAttentionTileKernels);
HWY_EXPORT(WeightedSumOfTarget);

void WeightedSum(const float* const* parts, const float* weights, int32_t count, int32_t n,
                 float* out) {
  HWY_DYNAMIC_DISPATCH(WeightedSumOfTarget)(parts, weights, count, n, out);
}

TileKernels SimdTileKernels(bool round_to_bf16) {
  return HWY_DYNAMIC_DISPATCH(GetAttentionTileKernels)(round_to_bf16);
}

}  // namespace mla::cpu
#endif  // HWY_ONCE
