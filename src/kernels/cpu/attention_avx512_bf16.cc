// The tile kernels of attention with AVX512_BF16 dot products: packed elements are bf16, two of
// the summed axis to a 32-bit lane, sums are fp32.
#include "kernels/cpu/attention_tile.h"

#if defined(__x86_64__)
#if !defined(__clang__)
// GCC 12 takes the deliberately undefined operands in its own header for mistakes.
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif
#include <immintrin.h>
#endif

#include "base/check.h"

#if defined(__x86_64__)

// Highway 1.0.3 has no target with bf16 dot products, hence intrinsics. Nothing of the standard
// library may be instantiated between push and pop: the linker could keep that copy of it for code
// that runs on other machines.
#if defined(__clang__)
#pragma clang attribute push(                                                          \
    __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,avx2,fma"))), \
    apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,avx2,fma")
#endif

namespace mla::cpu {
namespace avx512_bf16 {
namespace {

constexpr int kLanes = 16;
constexpr int kPanel = 32;                 // columns: two vectors of pairs
constexpr int kStepElements = 2 * kPanel;  // bf16 of a panel step
constexpr int kRows = 12;                  // rows of C in registers, two vectors each
constexpr float kMinusInf = -__builtin_inff();

inline __mmask32 FirstOf32(int64_t n) {
  return n >= 32 ? 0xffffffffu : n <= 0 ? 0u : (1u << n) - 1u;
}
inline __mmask16 FirstOf16(int64_t n) {
  return static_cast<__mmask16>(n >= 16 ? 0xffffu : n <= 0 ? 0u : (1u << n) - 1u);
}

void RoundRow(const float* src, int32_t n, void* dst) {
  auto* to = static_cast<uint16_t*>(dst);
  const int32_t padded = (n + 1) & ~1;
  for (int32_t i = 0; i < padded; i += kLanes) {
    const __m512 x = _mm512_maskz_loadu_ps(FirstOf16(n - i), src + i);
    const __m256i y = (__m256i)_mm512_cvtneps_pbh(x);
    _mm256_mask_storeu_epi16(to + i, FirstOf16(padded - i), y);
  }
}

// 16 x 16 transpose of 32-bit lanes.
inline void Transpose16(__m512i (&r)[16]) {
  __m512i t[16];
#pragma GCC unroll 4
  for (int i = 0; i < 16; i += 4) {
    const __m512i a = _mm512_unpacklo_epi32(r[i], r[i + 1]);
    const __m512i b = _mm512_unpackhi_epi32(r[i], r[i + 1]);
    const __m512i c = _mm512_unpacklo_epi32(r[i + 2], r[i + 3]);
    const __m512i d = _mm512_unpackhi_epi32(r[i + 2], r[i + 3]);
    t[i] = _mm512_unpacklo_epi64(a, c);
    t[i + 1] = _mm512_unpackhi_epi64(a, c);
    t[i + 2] = _mm512_unpacklo_epi64(b, d);
    t[i + 3] = _mm512_unpackhi_epi64(b, d);
  }
  // t[4 i + j] holds, in block k, column 4 k + j of rows 4 i to 4 i + 3: a 4 x 4 transpose of
  // blocks over (i, k) remains.
#pragma GCC unroll 4
  for (int j = 0; j < 4; ++j) {
    const __m512i a = _mm512_shuffle_i32x4(t[j], t[j + 4], 0x44);
    const __m512i b = _mm512_shuffle_i32x4(t[j], t[j + 4], 0xee);
    const __m512i c = _mm512_shuffle_i32x4(t[j + 8], t[j + 12], 0x44);
    const __m512i d = _mm512_shuffle_i32x4(t[j + 8], t[j + 12], 0xee);
    r[j] = _mm512_shuffle_i32x4(a, c, 0x88);
    r[j + 4] = _mm512_shuffle_i32x4(a, c, 0xdd);
    r[j + 8] = _mm512_shuffle_i32x4(b, d, 0x88);
    r[j + 12] = _mm512_shuffle_i32x4(b, d, 0xdd);
  }
}

void PackTransposed(const SourceRows& src, const Panels& dst, float*) {
  const int32_t columns = (src.num_rows + kPanel - 1) / kPanel * kPanel;
  const int64_t steps = (src.dim + 1) / 2;
  for (int32_t first = 0; first < columns; first += kLanes) {
    uint16_t* panel = static_cast<uint16_t*>(dst.data) +
                      (first / kPanel * int64_t{dst.steps} + dst.offset) * kStepElements +
                      first % kPanel * 2;
    for (int64_t step = 0; step < steps; step += kLanes) {
      const __mmask32 mask = FirstOf32(src.dim - 2 * step);
      __m512i r[16];
#pragma GCC unroll 16
      for (int i = 0; i < 16; ++i) {
        r[i] = first + i < src.num_rows
                   ? _mm512_maskz_loadu_epi16(
                         mask, static_cast<const uint16_t*>(src.rows[first + i]) + 2 * step)
                   : _mm512_setzero_si512();
      }
      Transpose16(r);
      const int64_t n = steps - step;
#pragma GCC unroll 16
      for (int i = 0; i < 16; ++i) {
        if (i < n) _mm512_store_si512(panel + (step + i) * kStepElements, r[i]);
      }
    }
  }
}

void PackStraight(const SourceRows& src, const Panels& dst) {
  // Interleaves two rows: lane i of the results is (a[i], b[i]) for i < 16 and i >= 16.
  alignas(64) uint16_t low_index[32], high_index[32];
  for (int i = 0; i < 32; ++i) {
    low_index[i] = static_cast<uint16_t>(i / 2 + 32 * (i % 2));
    high_index[i] = static_cast<uint16_t>(low_index[i] + 16);
  }
  const __m512i low = _mm512_load_si512(low_index);
  const __m512i high = _mm512_load_si512(high_index);
  // Panel by panel: panels are often 4 KiB apart, and stores to many of them would evict each
  // other.
  for (int64_t col = 0; col < src.dim; col += kPanel) {
    const __mmask32 mask = FirstOf32(src.dim - col);
    uint16_t* to = static_cast<uint16_t*>(dst.data) +
                   (col / kPanel * int64_t{dst.steps} + dst.offset) * kStepElements;
    for (int32_t i = 0; i < src.num_rows; i += 2, to += kStepElements) {
      const auto* a = static_cast<const uint16_t*>(src.rows[i]);
      const bool pair = i + 1 < src.num_rows;
      const auto* b = pair ? static_cast<const uint16_t*>(src.rows[i + 1]) : a;
      const __m512i x = _mm512_maskz_loadu_epi16(mask, a + col);
      const __m512i y = _mm512_maskz_loadu_epi16(pair ? mask : 0, b + col);
      _mm512_store_si512(to, _mm512_permutex2var_epi16(x, low, y));
      _mm512_store_si512(to + kPanel, _mm512_permutex2var_epi16(x, high, y));
    }
  }
}

inline __m512bh BroadcastPair(const uint16_t* p) {
  int32_t pair;
  __builtin_memcpy(&pair, p, sizeof(pair));
  return (__m512bh)_mm512_set1_epi32(pair);
}

// R rows of C by one panel. The accumulators stay in registers over all steps.
template <int R>
__attribute__((noinline)) void MultiplyBlock(const uint16_t* __restrict a, int64_t lda,
                                             const uint16_t* __restrict b, int64_t steps,
                                             float* __restrict c, int64_t ldc, const float* alpha) {
  __m512 acc0[R], acc1[R];
#pragma GCC unroll 12
  for (int r = 0; r < R; ++r) {
    if (alpha == nullptr) {
      acc0[r] = acc1[r] = _mm512_setzero_ps();
    } else {
      const __m512 factor = _mm512_set1_ps(alpha[r]);
      acc0[r] = _mm512_mul_ps(factor, _mm512_loadu_ps(c + r * ldc));
      acc1[r] = _mm512_mul_ps(factor, _mm512_loadu_ps(c + r * ldc + kLanes));
    }
  }
  for (int64_t k = 0; k < steps; ++k) {
    const __m512bh b0 = (__m512bh)_mm512_load_si512(b + k * kStepElements);
    const __m512bh b1 = (__m512bh)_mm512_load_si512(b + k * kStepElements + kPanel);
#pragma GCC unroll 12
    for (int r = 0; r < R; ++r) {
      const __m512bh x = BroadcastPair(a + r * lda + 2 * k);
      acc0[r] = _mm512_dpbf16_ps(acc0[r], x, b0);
      acc1[r] = _mm512_dpbf16_ps(acc1[r], x, b1);
    }
  }
#pragma GCC unroll 12
  for (int r = 0; r < R; ++r) {
    _mm512_storeu_ps(c + r * ldc, acc0[r]);
    _mm512_storeu_ps(c + r * ldc + kLanes, acc1[r]);
  }
}

template <int R>
inline void MultiplyRows(int rows, const uint16_t* a, int64_t lda, const uint16_t* b, int64_t steps,
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
  const auto* a = static_cast<const uint16_t*>(product.a);
  const uint16_t* b =
      static_cast<const uint16_t*>(product.b.data) + int64_t{product.b.offset} * kStepElements;
  const int32_t blocks = (product.rows + kRows - 1) / kRows;
  for (int32_t col = 0; col < product.cols; col += kPanel) {
    for (int32_t block = 0; block < blocks; ++block) {
      // Blocks of nearly equal height: 16 rows are 8 + 8, not 12 + 4.
      const int32_t row = block * product.rows / blocks;
      const int32_t next = (block + 1) * product.rows / blocks;
      MultiplyRows<kRows>(next - row, a + row * product.lda, product.lda, b, product.steps,
                          product.c + row * product.ldc + col, product.ldc,
                          product.alpha == nullptr ? nullptr : product.alpha + row);
    }
    PrefetchPart(product.ahead, col / kPanel, (product.cols + kPanel - 1) / kPanel);
    b += int64_t{product.b.steps} * kStepElements;
  }
}

// 2^x for x <= 0, to about 3e-7.
inline __m512 Exp2(__m512 x) {
  const __m512 whole = _mm512_roundscale_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  const __m512 f = _mm512_sub_ps(x, whole);
  __m512 p = _mm512_set1_ps(1.54035304e-4f);
  p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(1.33335581e-3f));
  p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(9.61812911e-3f));
  p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(5.55041087e-2f));
  p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(0.240226507f));
  p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(0.693147181f));
  p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(1.0f));
  return _mm512_scalef_ps(p, whole);
}

void Softmax(const SoftmaxTile& tile) {
  const __m512 scale = _mm512_set1_ps(tile.scale_log2);
  const __m512 lowest = _mm512_set1_ps(kMinusInf);
  for (int32_t row = 0; row < tile.rows; ++row) {
    const float* s = tile.s + int64_t{row} * kKeyTile;
    uint16_t* p = static_cast<uint16_t*>(tile.p) + int64_t{row} * kKeyTile;
    const int32_t visible = tile.visible[row];
    __m512 x[kKeyTile / kLanes];
    __m512 max_v = lowest;
#pragma GCC unroll 4
    for (int i = 0; i < kKeyTile / kLanes; ++i) {
      const __mmask16 seen = FirstOf16(visible - i * kLanes);
      x[i] = _mm512_mask_mul_ps(lowest, seen, _mm512_maskz_loadu_ps(seen, s + i * kLanes), scale);
      max_v = _mm512_max_ps(max_v, x[i]);
    }
    const float tile_max = _mm512_reduce_max_ps(max_v);
    const float old_max = tile.max[row];
    const float max = tile_max > old_max ? tile_max : old_max;
    tile.alpha[row] = 1.0f;
    __m512 sum = _mm512_setzero_ps();
    const __m512 shift = _mm512_set1_ps(max);
#pragma GCC unroll 4
    for (int i = 0; i < kKeyTile / kLanes; ++i) {
      __mmask16 seen = FirstOf16(visible - i * kLanes);
      if (max == kMinusInf) seen = 0;
      const __m512 weight = _mm512_maskz_mov_ps(seen, Exp2(_mm512_sub_ps(x[i], shift)));
      sum = _mm512_add_ps(sum, weight);
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(p + i * kLanes),
                          (__m256i)_mm512_cvtneps_pbh(weight));
    }
    if (max == kMinusInf) continue;
    if (old_max != max) {
      tile.alpha[row] =
          old_max == kMinusInf ? 0.0f : _mm512_cvtss_f32(Exp2(_mm512_set1_ps(old_max - max)));
    }
    tile.sum[row] = tile.sum[row] * tile.alpha[row] + _mm512_reduce_add_ps(sum);
    tile.max[row] = max;
  }
}

}  // namespace
}  // namespace avx512_bf16
}  // namespace mla::cpu

#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif

namespace mla::cpu {

TileKernels Avx512Bf16TileKernels() {
  using namespace avx512_bf16;
  return TileKernels{kPanel,        2,         sizeof(uint16_t),
                     DType::kBF16,  &RoundRow, &PackTransposed,
                     &PackStraight, &Multiply, &Softmax};
}

}  // namespace mla::cpu

#else  // not x86-64

namespace mla::cpu {

TileKernels Avx512Bf16TileKernels() {
  MLA_CHECK(false, "no AVX512_BF16 on this architecture");
  return {};
}

}  // namespace mla::cpu

#endif
