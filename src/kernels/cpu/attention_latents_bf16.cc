// Latent kernels for bf16 caches: AVX512_BF16 dot products, sums in fp32.
#include "kernels/cpu/attention_latents.h"

#if defined(__x86_64__)
#include "kernels/cpu/attention_latents_avx512.h"
#endif

#include "base/check.h"

#if defined(__x86_64__)

#if defined(__clang__)
#pragma clang attribute push(                                                          \
    __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,avx2,fma"))), \
    apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,avx2,fma")
#endif

namespace mla::cpu {
namespace latents_bf16 {
namespace {

constexpr int64_t kStepBytes = 4 * kGroupRows;  // of a packed group: a pair of bf16 per row
constexpr int kValueRows = 8;                   // rows whose outputs are in registers at a time
constexpr int kValueColumns = 32;               // of these rows: two vectors
constexpr int kKeysPerAsk = 16;                 // whose values meet them between two Ask()

int32_t LatentDim(const Int8LatentLayout& dims) {
  return dims.kv_lora_rank + dims.qk_rope_head_dim;
}
int64_t RowBytes(const Int8LatentLayout& dims) { return int64_t{2} * LatentDim(dims); }
int64_t QueryBytes(const Int8LatentLayout& dims) { return (LatentDim(dims) + 1) / 2 * kStepBytes; }
int64_t WeightBytes(const Int8LatentLayout&) { return kKeyTile / 2 * kStepBytes; }

void LoadQueries(const Int8LatentLayout& dims, const float* const* rows, int32_t count,
                 char* queries) {
  PackPairs(rows, count, 0, LatentDim(dims), queries);
}

// Scores of kKeyBlock keys of `dim` elements with kGroups groups of rows, `apart` bytes apart.
template <typename Group, int kGroups>
__attribute__((noinline)) void ScoreBlock(const char* query, int64_t apart, const char* const* keys,
                                          int32_t dim, float* scores, LinesAhead& ahead) {
  typename Group::Float acc[kKeyBlock][kGroups];
  const char* key[kKeyBlock];
#pragma GCC unroll 8
  for (int t = 0; t < kKeyBlock; ++t) {
    key[t] = keys[t];
#pragma GCC unroll 2
    for (int g = 0; g < kGroups; ++g) acc[t][g] = Group::Zero();
  }
  const int64_t steps = dim / 2;
  for (int64_t k = 0; k < steps;) {
    const int64_t next = k + kStepsPerAsk < steps ? k + kStepsPerAsk : steps;
    for (; k < next; ++k, query += kStepBytes) {
      typename Group::Int q[kGroups];
#pragma GCC unroll 2
      for (int g = 0; g < kGroups; ++g) q[g] = Group::Load(query + g * apart);
#pragma GCC unroll 8
      for (int t = 0; t < kKeyBlock; ++t) {
        const typename Group::Int x = Group::Broadcast(key[t] + 4 * k);
#pragma GCC unroll 2
        for (int g = 0; g < kGroups; ++g) DotPairs(acc[t][g], q[g], x);
      }
    }
    ahead.Ask();
  }
  if (dim % 2 != 0) {
#pragma GCC unroll 8
    for (int t = 0; t < kKeyBlock; ++t) {
      const typename Group::Int x = Group::BroadcastHalf(key[t] + 4 * steps);
#pragma GCC unroll 2
      for (int g = 0; g < kGroups; ++g) DotPairs(acc[t][g], Group::Load(query + g * apart), x);
    }
  }
#pragma GCC unroll 8
  for (int t = 0; t < kKeyBlock; ++t) {
#pragma GCC unroll 2
    for (int g = 0; g < kGroups; ++g) {
      _mm512_store_ps(scores + g * kScoresOfGroup + t * kGroupRows, Group::Widen(acc[t][g]));
    }
  }
}

// Softmax weights of a group as pairs of tokens.
void PackWeights(const float* weights, int32_t keys, char* to) {
  alignas(64) uint16_t index[32];
  for (int i = 0; i < 32; ++i) index[i] = static_cast<uint16_t>(i / 2 + i % 2 * kLanes);
  const __m512i order = _mm512_load_si512(index);
  for (int32_t t = 0; t < keys; t += 2, to += kStepBytes) {
    const __m512bh pair = _mm512_cvtne2ps_pbh(_mm512_load_ps(weights + (t + 1) * kGroupRows),
                                              _mm512_load_ps(weights + t * kGroupRows));
    _mm512_store_si512(to, _mm512_permutexvar_epi16(order, (__m512i)pair));
  }
}

// Adds the values x and y of two tokens times their weights.
template <int kRows>
__attribute__((always_inline)) inline void AddPair(__m512i x, __m512i y, const char* weights,
                                                   __m512 (&low)[kRows], __m512 (&high)[kRows]) {
  const __m512i v_low = _mm512_unpacklo_epi16(x, y), v_high = _mm512_unpackhi_epi16(x, y);
#pragma GCC unroll 8
  for (int r = 0; r < kRows; ++r) {
    const __m512i w = WholeGroup::Broadcast(weights + 4 * r);
    DotPairs(low[r], w, v_low);
    DotPairs(high[r], w, v_high);
  }
}

// kRows rows by kValueColumns elements of the latents from byte `offset` on, `mask` of them there.
// The vectors of outputs hold the first and the second four of every eight columns.
template <int kRows>
__attribute__((noinline)) void OutputBlock(const char* weights, const void* const* latents,
                                           int32_t keys, int64_t offset, __mmask32 mask,
                                           const float* alpha, float* outputs, int64_t stride,
                                           LinesAhead& ahead) {
  __m512 low[kRows], high[kRows];
#pragma GCC unroll 8
  for (int r = 0; r < kRows; ++r) {
    const __m512 factor = _mm512_set1_ps(alpha[r]);
    low[r] = _mm512_mul_ps(factor, _mm512_load_ps(outputs + r * stride));
    high[r] = _mm512_mul_ps(factor, _mm512_load_ps(outputs + r * stride + kLanes));
  }
  const auto* rows = reinterpret_cast<const char* const*>(latents);
  int32_t t = 0;
  while (t + 2 <= keys) {
    const int32_t next = t + kKeysPerAsk < keys ? t + kKeysPerAsk : keys;
    for (; t + 2 <= next; t += 2, weights += kStepBytes) {
      AddPair<kRows>(_mm512_maskz_loadu_epi16(mask, rows[t] + offset),
                     _mm512_maskz_loadu_epi16(mask, rows[t + 1] + offset), weights, low, high);
    }
    ahead.Ask();
  }
  if (t < keys) {
    AddPair<kRows>(_mm512_maskz_loadu_epi16(mask, rows[t] + offset), _mm512_setzero_si512(),
                   weights, low, high);
  }
#pragma GCC unroll 8
  for (int r = 0; r < kRows; ++r) {
    _mm512_store_ps(outputs + r * stride, low[r]);
    _mm512_store_ps(outputs + r * stride + kLanes, high[r]);
  }
}

template <int kRows>
inline void OutputRows(int32_t rows, const char* weights, const void* const* latents, int32_t keys,
                       int64_t offset, __mmask32 mask, const float* alpha, float* outputs,
                       int64_t stride, LinesAhead& ahead) {
  if constexpr (kRows > 0) {
    if (rows == kRows) {
      OutputBlock<kRows>(weights, latents, keys, offset, mask, alpha, outputs, stride, ahead);
    } else {
      OutputRows<kRows - 1>(rows, weights, latents, keys, offset, mask, alpha, outputs, stride,
                            ahead);
    }
  }
}

void Attend(const Int8LatentLayout& dims, const LatentTile& tile, const void* const* latents,
            int32_t keys, float scale_log2, const RowsAhead& rows_ahead) {
  const int32_t groups = tile.groups();
  const int32_t dim = LatentDim(dims);
  const int64_t query_bytes = QueryBytes(dims);
  const int64_t weight_bytes = WeightBytes(dims);
  const int32_t row_blocks = (tile.rows + kValueRows - 1) / kValueRows;
  const int32_t panels = (dims.kv_lora_rank + kValueColumns - 1) / kValueColumns;
  const int32_t key_blocks = (keys + kKeyBlock - 1) / kKeyBlock;
  const int32_t score_asks = (dim / 2 + kStepsPerAsk - 1) / kStepsPerAsk;
  const int32_t output_asks = (keys + kKeysPerAsk - 1) / kKeysPerAsk;
  LinesAhead ahead(
      rows_ahead, key_blocks * ((groups + 1) / 2) * score_asks + panels * row_blocks * output_asks);

  for (int32_t group = 0; group < groups; group += 2) {
    const char* query = tile.queries + group * query_bytes;
    float* scores = tile.scores + group * kScoresOfGroup;
    for (int32_t first = 0; first < keys; first += kKeyBlock) {
      const char* key[kKeyBlock];
      KeysOfBlock(latents, first, keys, key);
      const auto score = group + 1 < groups                      ? ScoreBlock<WholeGroup, 2>
                         : RowsOfGroup(tile, group) > kHalfGroup ? ScoreBlock<WholeGroup, 1>
                                                                 : ScoreBlock<HalfGroup, 1>;
      score(query, query_bytes, key, dim, scores + first * kGroupRows, ahead);
    }
  }
  for (int32_t group = 0; group < groups; ++group) {
    SoftmaxOfGroup(tile, group, keys, scale_log2);
    PackWeights(tile.scores + group * kScoresOfGroup, keys, tile.weights + group * weight_bytes);
  }
  for (int32_t panel = 0; panel < panels; ++panel) {
    const __mmask32 mask = FirstOf32(dims.kv_lora_rank - panel * kValueColumns);
    for (int32_t row = 0; row < tile.rows; row += kValueRows) {
      const int32_t count = tile.rows - row < kValueRows ? tile.rows - row : kValueRows;
      OutputRows<kValueRows>(
          count, tile.weights + row / kGroupRows * weight_bytes + row % kGroupRows * 4, latents,
          keys, int64_t{2} * panel * kValueColumns, mask, tile.alpha + row,
          tile.outputs + row * tile.output_stride + panel * kValueColumns, tile.output_stride,
          ahead);
    }
  }
}

void WriteRow(const float* outputs, float factor, int32_t d_v, float* out) {
  const __m512i first = _mm512_setr_epi32(0, 1, 2, 3, 16, 17, 18, 19, 4, 5, 6, 7, 20, 21, 22, 23);
  const __m512i second = _mm512_add_epi32(first, _mm512_set1_epi32(8));
  const __m512 f = _mm512_set1_ps(factor);
  for (int32_t i = 0; i < d_v; i += kValueColumns) {
    const __m512 low = _mm512_mul_ps(_mm512_load_ps(outputs + i), f);
    const __m512 high = _mm512_mul_ps(_mm512_load_ps(outputs + i + kLanes), f);
    _mm512_mask_storeu_ps(out + i, FirstOf16(d_v - i), _mm512_permutex2var_ps(low, first, high));
    _mm512_mask_storeu_ps(out + i + kLanes, FirstOf16(d_v - i - kLanes),
                          _mm512_permutex2var_ps(low, second, high));
  }
}

}  // namespace
}  // namespace latents_bf16
}  // namespace mla::cpu

#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif

namespace mla::cpu {

LatentKernels Bf16LatentKernels() {
  using namespace latents_bf16;  // NOLINT(google-build-using-namespace)
  return LatentKernels{kValueColumns, kKeyTile,     &QueryBytes, &WeightBytes,
                       &RowBytes,     &LoadQueries, &Attend,     &WriteRow};
}

}  // namespace mla::cpu

#else  // not x86-64

namespace mla::cpu {

LatentKernels Bf16LatentKernels() {
  MLA_CHECK(false, "no AVX512_BF16 on this architecture");
  return {};
}

}  // namespace mla::cpu

#endif
