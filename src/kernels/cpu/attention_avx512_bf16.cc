// The tile kernels of attention with AVX512_BF16 dot products: packed elements are bf16, two of
// the summed axis to a 32-bit lane, sums are fp32.
#include "kernels/cpu/attention_tile.h"

#if defined(__x86_64__)
#include "kernels/cpu/attention_avx512.h"
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

constexpr int kPanel = 32;                 // columns: two vectors of pairs
constexpr int kStepElements = 2 * kPanel;  // bf16 of a panel step
constexpr int kRows = 12;                  // rows of C in registers, two vectors each

void RoundRow(const float* src, int32_t n, void* dst) {
  auto* to = static_cast<uint16_t*>(dst);
  const int32_t padded = (n + 1) & ~1;
  for (int32_t i = 0; i < padded; i += kLanes) {
    const __m512 x = _mm512_maskz_loadu_ps(FirstOf16(n - i), src + i);
    const __m256i y = (__m256i)_mm512_cvtneps_pbh(x);
    _mm256_mask_storeu_epi16(to + i, FirstOf16(padded - i), y);
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

void DecodeLatents(const void* const* rows, int32_t num_rows, const Int8LatentLayout& layout,
                   void* to, int64_t stride) {
  const int32_t rank = layout.kv_lora_rank;
  for (int64_t i = 0; i < num_rows; ++i) {
    const auto* codes = static_cast<const int8_t*>(rows[i]);
    auto* out = static_cast<uint16_t*>(to) + i * stride;
    for (int32_t d = 0; d < rank; d += kLanes) {  // 16 codes have one scale: 128 is 8 times 16
      float scale;
      __builtin_memcpy(&scale, codes + layout.scales_offset() + d / layout.kGroup * sizeof(scale),
                       sizeof(scale));
      const __mmask16 mask = FirstOf16(rank - d);
      const __m512i wide = _mm512_cvtepi8_epi32(_mm_maskz_loadu_epi8(mask, codes + d));
      const __m512 x = _mm512_mul_ps(_mm512_cvtepi32_ps(wide), _mm512_set1_ps(scale));
      _mm256_mask_storeu_epi16(out + d, mask, (__m256i)_mm512_cvtneps_pbh(x));
    }
    __builtin_memcpy(out + rank, codes + layout.rope_offset(),
                     sizeof(uint16_t) * layout.qk_rope_head_dim);
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
  const auto* b = static_cast<const uint16_t*>(product.b.data);
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
    b += int64_t{product.b.steps} * kStepElements;
  }
}

void Softmax(const SoftmaxTile& tile) {
  const __m512 scale = _mm512_set1_ps(tile.scale_log2);
  const __m512 lowest = _mm512_set1_ps(kLowest);
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
    const float max = NextMax(old_max, tile_max, s, visible);
    tile.alpha[row] = 1.0f;
    __m512 sum = _mm512_setzero_ps();
    const __m512 shift = _mm512_set1_ps(max);
#pragma GCC unroll 4
    for (int i = 0; i < kKeyTile / kLanes; ++i) {
      __mmask16 seen = FirstOf16(visible - i * kLanes);
      if (max == kLowest) seen = 0;
      const __m512 weight = _mm512_maskz_mov_ps(seen, Exp2(_mm512_sub_ps(x[i], shift)));
      sum = _mm512_add_ps(sum, weight);
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(p + i * kLanes),
                          (__m256i)_mm512_cvtneps_pbh(weight));
    }
    if (max == kLowest) continue;
    if (old_max != max) {
      tile.alpha[row] =
          old_max == kLowest ? 0.0f : _mm512_cvtss_f32(Exp2(_mm512_set1_ps(old_max - max)));
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
  return TileKernels{kPanel,           2,
                     sizeof(uint16_t), DType::kBF16,
                     &RoundRow,        &DecodeLatents,
                     &PackTransposed,  &PackStraight,
                     &Multiply,        &Softmax};
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
