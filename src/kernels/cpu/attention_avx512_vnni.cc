// The tile kernels of attention over int8 latents: AVX512_VNNI for codes, AVX512_BF16 for k_pe.
#include "kernels/cpu/attention_int8.h"

#if defined(__x86_64__)
#include "kernels/cpu/attention_avx512.h"
#endif

#include "base/check.h"

#if defined(__x86_64__)

#if defined(__clang__)
#pragma clang attribute push(                                                                     \
    __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,avx512vnni,avx2,fma"))), \
    apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,avx512vnni,avx2,fma")
#endif

namespace mla::cpu {
namespace avx512_vnni {
namespace {

constexpr int64_t kStepBytes = Int8Shape::kStepBytes;
constexpr int kGroupSteps = Int8LatentLayout::kGroup / 4;
constexpr int kTileSteps = kKeyTile / 4;
constexpr int kKeyPanels = kKeyTile / kPanel;
// The largest quantised numbers: both bytes of a query stay in [-128, 127].
constexpr float kQueryTop = 127.0f * 256;
constexpr float kWeightTop = 255.0f;
// Products of weight and scale up to this are 0: kWeightTop divided by more is finite.
constexpr float kLeastProduct = 0x1p-118f;

// How the products of a tile are divided: blocks of rows of nearly equal height (16 rows are 8 + 8,
// not 12 + 4), and with them the requests for the next tile.
struct Parts {
  Parts(const Int8Shape& shape, int32_t rows)
      : blocks((rows + kRows - 1) / kRows),
        panels((shape.layout.kv_lora_rank + kPanel - 1) / kPanel),
        scores(kKeyPanels * blocks * shape.groups),
        all(scores + panels * blocks) {}
  int32_t blocks;
  int32_t panels;  // of the outputs
  int32_t scores;  // parts that Int8Scores asks for
  int32_t all;
};

inline __m512i BroadcastQuad(const void* p) {
  int32_t quad;
  __builtin_memcpy(&quad, p, sizeof(quad));
  return _mm512_set1_epi32(quad);
}

// The digits of one group, `count` numbers of x times `factor`; returns the sum of the numbers.
inline int32_t QuantiseGroup(const float* x, int32_t count, float factor, int8_t* high,
                             int8_t* low) {
  __m512i sum = _mm512_setzero_si512();
  for (int32_t i = 0; i < count; i += kLanes) {
    const __m512 v = _mm512_maskz_loadu_ps(FirstOf16(count - i), x + i);
    const __m512i n = _mm512_cvtps_epi32(_mm512_mul_ps(v, _mm512_set1_ps(factor)));
    sum = _mm512_add_epi32(sum, n);
    // n = 256 h + l with l in [-128, 127].
    const __m512i h = _mm512_srai_epi32(_mm512_add_epi32(n, _mm512_set1_epi32(128)), 8);
    _mm_storeu_si128(reinterpret_cast<__m128i*>(high + i), _mm512_cvtepi32_epi8(h));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(low + i), _mm512_cvtepi32_epi8(n));
  }
  return _mm512_reduce_add_epi32(sum);
}

// R rows by one panel: first the rope part, then the groups of codes, each scaled into s.
// Asks for `ahead` in parts: those of a block begin at `part`, one to a group.
template <int R>
__attribute__((noinline)) void ScoreBlock(const Int8Shape& shape, const Int8Queries& q, int64_t row,
                                          const Int8Keys& keys, int64_t panel, float* __restrict s,
                                          const RowsAhead& ahead, int32_t part, int32_t parts) {
  {
    __m512 f0[R], f1[R];
#pragma GCC unroll 12
    for (int r = 0; r < R; ++r) f0[r] = f1[r] = _mm512_setzero_ps();
    const uint16_t* a = q.rope + row * shape.rope_stride;
    const uint16_t* b = keys.rope + panel * shape.rope_steps * kStepElements;
    for (int64_t k = 0; k < shape.rope_steps; ++k, b += kStepElements) {
      const __m512bh b0 = (__m512bh)_mm512_load_si512(b);
      const __m512bh b1 = (__m512bh)_mm512_load_si512(b + kPanel);
#pragma GCC unroll 12
      for (int r = 0; r < R; ++r) {
        const __m512bh x = BroadcastPair(a + r * shape.rope_stride + 2 * k);
        f0[r] = _mm512_dpbf16_ps(f0[r], x, b0);
        f1[r] = _mm512_dpbf16_ps(f1[r], x, b1);
      }
    }
#pragma GCC unroll 12
    for (int r = 0; r < R; ++r) {
      _mm512_storeu_ps(s + r * kKeyTile, f0[r]);
      _mm512_storeu_ps(s + r * kKeyTile + kLanes, f1[r]);
    }
  }
  const uint8_t* codes = keys.codes + panel * shape.code_steps * kStepBytes;
  for (int64_t g = 0; g < shape.groups; ++g, codes += kGroupSteps * kStepBytes) {
    PrefetchPart(ahead, part++, parts);
    const int64_t left = shape.code_steps - g * kGroupSteps;
    const int64_t steps = left < kGroupSteps ? left : kGroupSteps;
    __m512i i0[R], i1[R];
#pragma GCC unroll 12
    for (int r = 0; r < R; ++r) i0[r] = i1[r] = _mm512_setzero_si512();
    for (int digit = 0; digit < kQueryDigits; ++digit) {
      if (digit > 0) {
#pragma GCC unroll 12
        for (int r = 0; r < R; ++r) {
          i0[r] = _mm512_slli_epi32(i0[r], 8);
          i1[r] = _mm512_slli_epi32(i1[r], 8);
        }
      }
      const int8_t* a =
          q.digits + (digit * kRowTile + row) * shape.code_stride + g * Int8LatentLayout::kGroup;
      for (int64_t k = 0; k < steps; ++k) {
        const __m512i b0 = _mm512_load_si512(codes + k * kStepBytes);
        const __m512i b1 = _mm512_load_si512(codes + k * kStepBytes + 64);
#pragma GCC unroll 12
        for (int r = 0; r < R; ++r) {
          const __m512i x = BroadcastQuad(a + r * shape.code_stride + 4 * k);
          i0[r] = _mm512_dpbusd_epi32(i0[r], b0, x);
          i1[r] = _mm512_dpbusd_epi32(i1[r], b1, x);
        }
      }
    }
    const float* scales = keys.scales + g * kKeyTile + panel * kPanel;
    const __m512 k0 = _mm512_load_ps(scales), k1 = _mm512_load_ps(scales + kLanes);
#pragma GCC unroll 12
    for (int r = 0; r < R; ++r) {
      const __m512i offset = _mm512_set1_epi32(q.offsets[(row + r) * shape.groups + g]);
      const __m512 scale = _mm512_set1_ps(q.scales[(row + r) * shape.groups + g]);
      float* to = s + r * kKeyTile;
      const __m512 x0 = _mm512_cvtepi32_ps(_mm512_add_epi32(i0[r], offset));
      const __m512 x1 = _mm512_cvtepi32_ps(_mm512_add_epi32(i1[r], offset));
      _mm512_storeu_ps(to, _mm512_fmadd_ps(x0, _mm512_mul_ps(scale, k0), _mm512_loadu_ps(to)));
      _mm512_storeu_ps(to + kLanes,
                       _mm512_fmadd_ps(x1, _mm512_mul_ps(scale, k1), _mm512_loadu_ps(to + kLanes)));
    }
  }
}

// R rows by one panel of values. p: the group's weights of the first row. scales: of the first row.
template <int R>
__attribute__((noinline)) void OutputBlock(const uint8_t* __restrict p, const int8_t* __restrict v,
                                           const float* scales, int64_t scale_stride,
                                           const float* alpha, float* __restrict o,
                                           int64_t o_stride) {
  __m512i i0[R], i1[R];
#pragma GCC unroll 12
  for (int r = 0; r < R; ++r) i0[r] = i1[r] = _mm512_setzero_si512();
  for (int k = 0; k < kTileSteps; ++k) {
    const __m512i b0 = _mm512_load_si512(v + k * kStepBytes);
    const __m512i b1 = _mm512_load_si512(v + k * kStepBytes + 64);
#pragma GCC unroll 12
    for (int r = 0; r < R; ++r) {
      const __m512i x = BroadcastQuad(p + r * kKeyTile + 4 * k);
      i0[r] = _mm512_dpbusd_epi32(i0[r], x, b0);
      i1[r] = _mm512_dpbusd_epi32(i1[r], x, b1);
    }
  }
#pragma GCC unroll 12
  for (int r = 0; r < R; ++r) {
    const __m512 factor = _mm512_set1_ps(alpha[r]);
    const __m512 scale = _mm512_set1_ps(scales[r * scale_stride]);
    float* to = o + r * o_stride;
    const __m512 o0 = _mm512_mul_ps(factor, _mm512_loadu_ps(to));
    const __m512 o1 = _mm512_mul_ps(factor, _mm512_loadu_ps(to + kLanes));
    _mm512_storeu_ps(to, _mm512_fmadd_ps(_mm512_cvtepi32_ps(i0[r]), scale, o0));
    _mm512_storeu_ps(to + kLanes, _mm512_fmadd_ps(_mm512_cvtepi32_ps(i1[r]), scale, o1));
  }
}

template <int R>
inline void ScoreRows(int rows, const Int8Shape& shape, const Int8Queries& q, int64_t row,
                      const Int8Keys& keys, int64_t panel, float* s, const RowsAhead& ahead,
                      int32_t part, int32_t parts) {
  if constexpr (R > 0) {
    if (rows == R) {
      ScoreBlock<R>(shape, q, row, keys, panel, s, ahead, part, parts);
    } else {
      ScoreRows<R - 1>(rows, shape, q, row, keys, panel, s, ahead, part, parts);
    }
  }
}

template <int R>
inline void OutputRows(int rows, const uint8_t* p, const int8_t* v, const float* scales,
                       int64_t scale_stride, const float* alpha, float* o, int64_t o_stride) {
  if constexpr (R > 0) {
    if (rows == R) {
      OutputBlock<R>(p, v, scales, scale_stride, alpha, o, o_stride);
    } else {
      OutputRows<R - 1>(rows, p, v, scales, scale_stride, alpha, o, o_stride);
    }
  }
}

// 16 keys as columns: 16 x 16 transposes of four codes at a time.
inline void PackCodes(const Int8Shape& shape, const void* const* rows, int32_t num_rows,
                      uint8_t* to) {
  const __m512i flip = _mm512_set1_epi8(-128);
  for (int32_t step = 0; step < shape.code_steps; step += kLanes) {
    const __mmask64 mask = FirstOf64(shape.layout.kv_lora_rank - 4 * step);
    __m512i r[16];
#pragma GCC unroll 16
    for (int i = 0; i < 16; ++i) {
      const __m512i x =
          i < num_rows ? _mm512_maskz_loadu_epi8(mask, static_cast<const char*>(rows[i]) + 4 * step)
                       : _mm512_setzero_si512();
      r[i] = _mm512_xor_si512(x, flip);
    }
    Transpose16(r);
    const int32_t n = shape.code_steps - step;
#pragma GCC unroll 16
    for (int i = 0; i < 16; ++i) {
      if (i < n) _mm512_store_si512(to + (step + i) * kStepBytes, r[i]);
    }
  }
}

// 16 keys, four to a lane: steps 0, 4, 8 and 12 from `to` on. With keys 16 m and up beginning at
// step m, step 4 L + m holds keys 16 m + 4 L to 16 m + 4 L + 3: the order in which QuantiseWeights
// leaves them.
inline void PackValues(const Int8Shape& shape, const void* const* rows, int32_t num_rows,
                       int8_t* to) {
  // The 4-byte elements of a row of 64, as a transposed 4 x 4 matrix: undone by the interleaving.
  const __m512i order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
  constexpr int64_t kPanelBytes = kTileSteps * kStepBytes;
  for (int64_t col = 0; col < shape.code_stride; col += 64, to += 2 * kPanelBytes) {
    const __mmask64 mask = FirstOf64(shape.layout.kv_lora_rank - col);
#pragma GCC unroll 4
    for (int key = 0; key < kLanes; key += 4) {
      __m512i x[4];
#pragma GCC unroll 4
      for (int i = 0; i < 4; ++i) {
        x[i] = key + i < num_rows
                   ? _mm512_permutexvar_epi32(
                         order, _mm512_maskz_loadu_epi8(
                                    mask, static_cast<const char*>(rows[key + i]) + col))
                   : _mm512_setzero_si512();
      }
      const __m512i a = _mm512_unpacklo_epi8(x[0], x[1]), b = _mm512_unpackhi_epi8(x[0], x[1]);
      const __m512i c = _mm512_unpacklo_epi8(x[2], x[3]), d = _mm512_unpackhi_epi8(x[2], x[3]);
      int8_t* step = to + key * kStepBytes;
      _mm512_store_si512(step, _mm512_unpacklo_epi16(a, c));
      _mm512_store_si512(step + 64, _mm512_unpackhi_epi16(a, c));
      _mm512_store_si512(step + kPanelBytes, _mm512_unpacklo_epi16(b, d));
      _mm512_store_si512(step + kPanelBytes + 64, _mm512_unpackhi_epi16(b, d));
    }
  }
}

// Scales of 16 keys at a time, groups as rows.
void PackScales(const Int8Shape& shape, const void* const* rows, int32_t num_rows,
                const Int8Keys& keys) {
  for (int32_t g = 0; g < shape.groups; g += kLanes) {
    const __mmask16 mask = FirstOf16(shape.groups - g);
    const int64_t offset = shape.layout.scales_offset() + 4 * g;
    for (int32_t first = 0; first < kKeyTile; first += kLanes) {
      __m512i r[16];
#pragma GCC unroll 16
      for (int i = 0; i < 16; ++i) {
        r[i] = first + i < num_rows ? _mm512_maskz_loadu_epi32(
                                          mask, static_cast<const char*>(rows[first + i]) + offset)
                                    : _mm512_setzero_si512();
      }
      Transpose16(r);
#pragma GCC unroll 16
      for (int i = 0; i < 16; ++i) {
        if (g + i < shape.groups)
          _mm512_store_si512(keys.scales + (g + i) * kKeyTile + first, r[i]);
      }
    }
  }
}

// The bytes of a row's weights for one group, keys in the order of the values; returns their scale.
inline float QuantiseWeights(const __m512 (&weight)[4], const float* scales, uint8_t* to) {
  __m512 x[4], most_v = _mm512_setzero_ps();
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {
    x[i] = _mm512_mul_ps(weight[i], _mm512_load_ps(scales + i * kLanes));
    // In this order a NaN, the product of 0 and the scale of a key that is not visible, is not
    // taken.
    most_v = _mm512_max_ps(x[i], most_v);
  }
  const float most = _mm512_reduce_max_ps(most_v);
  const bool none = most <= kLeastProduct;
  const __m512 factor = _mm512_set1_ps(none ? 0 : kWeightTop / most);
  __m512i n[4];
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) n[i] = _mm512_cvtps_epi32(_mm512_mul_ps(x[i], factor));
  _mm512_store_si512(
      to, _mm512_packus_epi16(_mm512_packus_epi32(n[0], n[1]), _mm512_packus_epi32(n[2], n[3])));
  return none ? 0 : most / kWeightTop;
}

}  // namespace
}  // namespace avx512_vnni

using namespace avx512_vnni;  // NOLINT(google-build-using-namespace)

void Int8LoadQuery(const Int8Shape& shape, const float* q, int32_t row,
                   const Int8Queries& queries) {
  const int32_t rank = shape.layout.kv_lora_rank;
  int8_t* high = queries.digits + row * shape.code_stride;
  int8_t* low = high + kRowTile * shape.code_stride;
  for (int32_t g = 0; g < shape.groups; ++g) {
    const int32_t begin = g * Int8LatentLayout::kGroup;
    const int32_t end = rank - begin < Int8LatentLayout::kGroup ? rank : begin + 128;
    // Magnitudes in the order of their bits, in which infinities and NaNs are the greatest.
    __m512i most_bits = _mm512_setzero_si512();
    for (int32_t i = begin; i < end; i += kLanes) {
      const __m512i bits = _mm512_maskz_loadu_epi32(FirstOf16(end - i), q + i);
      most_bits =
          _mm512_max_epi32(most_bits, _mm512_and_si512(bits, _mm512_set1_epi32(0x7fffffff)));
    }
    const int32_t bits = _mm512_reduce_max_epi32(most_bits);
    float most;
    __builtin_memcpy(&most, &bits, sizeof(most));
    const bool finite = bits < 0x7f800000;
    const bool zero = most < Int8LatentLayout::kLeastMagnitude;
    const float factor = finite && !zero ? kQueryTop / most : 0;
    const int32_t sum =
        finite ? QuantiseGroup(q + begin, end - begin, factor, high + begin, low + begin) : 0;
    queries.offsets[row * shape.groups + g] = -128 * sum;
    queries.scales[row * shape.groups + g] = !finite ? __builtin_nanf("")
                                             : zero  ? 0
                                                     : most / kQueryTop;
  }
  if (shape.rope_steps > 0) {
    RoundRow(q + rank, shape.layout.qk_rope_head_dim, queries.rope + row * shape.rope_stride);
  }
}

void Int8PackKeys(const Int8Shape& shape, const void* const* rows, int32_t num_rows,
                  const Int8Keys& keys) {
  // 16 rows at a time, which stay in the first-level cache between the two.
  for (int32_t first = 0; first < kKeyTile; first += kLanes) {
    PackCodes(shape, rows + first, num_rows - first,
              keys.codes + first / kPanel * shape.code_steps * kStepBytes + first % kPanel * 4);
    PackValues(shape, rows + first, num_rows - first, keys.values + first / kLanes * kStepBytes);
  }
  PackScales(shape, rows, num_rows, keys);
  if (shape.rope_steps == 0) return;
  const void* rope[kKeyTile];
  for (int32_t i = 0; i < num_rows; ++i) {
    rope[i] = static_cast<const char*>(rows[i]) + shape.layout.rope_offset();
  }
  PackTransposed({rope, num_rows, shape.layout.qk_rope_head_dim, DType::kBF16},
                 Panels{keys.rope, shape.rope_steps, 0}, nullptr);
}

void Int8Scores(const Int8Shape& shape, const Int8Queries& queries, const Int8Keys& keys,
                int32_t rows, float* s, const RowsAhead& ahead) {
  const Parts parts(shape, rows);
  int32_t part = 0;
  for (int64_t panel = 0; panel < kKeyPanels; ++panel) {
    for (int32_t block = 0; block < parts.blocks; ++block, part += shape.groups) {
      const int32_t row = block * rows / parts.blocks, next = (block + 1) * rows / parts.blocks;
      ScoreRows<kRows>(next - row, shape, queries, row, keys, panel,
                       s + row * kKeyTile + panel * kPanel, ahead, part, parts.all);
    }
  }
}

void Int8Softmax(const Int8Shape& shape, const SoftmaxTile& tile, const Int8Keys& keys,
                 const Int8Weights& weights) {
  const __m512 scale = _mm512_set1_ps(tile.scale_log2);
  const __m512 lowest = _mm512_set1_ps(kLowest);
  for (int32_t row = 0; row < tile.rows; ++row) {
    const float* s = tile.s + int64_t{row} * kKeyTile;
    __m512 x[4], weight[4];
    __m512 max_v = lowest;
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) {
      const __mmask16 seen = FirstOf16(tile.visible[row] - i * kLanes);
      x[i] = _mm512_mask_mul_ps(lowest, seen, _mm512_maskz_loadu_ps(seen, s + i * kLanes), scale);
      max_v = _mm512_max_ps(max_v, x[i]);
    }
    const float tile_max = _mm512_reduce_max_ps(max_v);
    const float old_max = tile.max[row];
    const float max = NextMax(old_max, tile_max, s, tile.visible[row]);
    tile.alpha[row] = 1.0f;
    __m512 sum = _mm512_setzero_ps();
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) {
      __mmask16 seen = FirstOf16(tile.visible[row] - i * kLanes);
      if (max == kLowest) seen = 0;
      weight[i] = _mm512_maskz_mov_ps(seen, Exp2(_mm512_sub_ps(x[i], _mm512_set1_ps(max))));
      sum = _mm512_add_ps(sum, weight[i]);
    }
    for (int32_t g = 0; g < shape.groups; ++g) {
      weights.scales[row * shape.groups + g] =
          QuantiseWeights(weight, keys.scales + g * kKeyTile,
                          weights.bytes + (int64_t{g} * kRowTile + row) * kKeyTile);
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

void Int8Outputs(const Int8Shape& shape, const Int8Weights& weights, const Int8Keys& keys,
                 int32_t rows, const float* alpha, float* o, const RowsAhead& ahead) {
  const Parts parts(shape, rows);
  int32_t part = parts.scores;
  for (int32_t panel = 0; panel < parts.panels; ++panel) {
    const int64_t g = panel * kPanel / Int8LatentLayout::kGroup;
    for (int32_t block = 0; block < parts.blocks; ++block) {
      const int32_t row = block * rows / parts.blocks, next = (block + 1) * rows / parts.blocks;
      OutputRows<kRows>(next - row, weights.bytes + (g * kRowTile + row) * kKeyTile,
                        keys.values + panel * kTileSteps * kStepBytes,
                        weights.scales + row * shape.groups + g, shape.groups, alpha + row,
                        o + row * shape.code_stride + panel * kPanel, shape.code_stride);
      PrefetchPart(ahead, part++, parts.all);
    }
  }
}

}  // namespace mla::cpu

#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif

#else  // not x86-64

namespace mla::cpu {

void Int8LoadQuery(const Int8Shape&, const float*, int32_t, const Int8Queries&) {
  MLA_CHECK(false, "no AVX512_VNNI on this architecture");
}
void Int8PackKeys(const Int8Shape&, const void* const*, int32_t, const Int8Keys&) {
  MLA_CHECK(false, "no AVX512_VNNI on this architecture");
}
void Int8Scores(const Int8Shape&, const Int8Queries&, const Int8Keys&, int32_t, float*,
                const RowsAhead&) {
  MLA_CHECK(false, "no AVX512_VNNI on this architecture");
}
void Int8Softmax(const Int8Shape&, const SoftmaxTile&, const Int8Keys&, const Int8Weights&) {
  MLA_CHECK(false, "no AVX512_VNNI on this architecture");
}
void Int8Outputs(const Int8Shape&, const Int8Weights&, const Int8Keys&, int32_t, const float*,
                 float*, const RowsAhead&) {
  MLA_CHECK(false, "no AVX512_VNNI on this architecture");
}

}  // namespace mla::cpu

#endif
