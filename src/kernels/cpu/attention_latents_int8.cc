// Latent kernels for int8 caches: AVX512_VNNI for codes, AVX512_BF16 for k_pe.
#include "kernels/cpu/attention_latents.h"

#if defined(__x86_64__)
#include "kernels/cpu/attention_latents_avx512.h"
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
namespace latents_int8 {
namespace {

constexpr int32_t kGroup = Int8LatentLayout::kGroup;
constexpr int kGroupSteps = kGroup / 4;
constexpr int64_t kVectorBytes = 64;  // a word of every row of a group
constexpr int kValueRows = 6;         // rows whose outputs are in registers at a time
constexpr int kValueColumns = 64;     // of these rows: four vectors
constexpr int kQuads = kKeyTile / 4;
constexpr int kKeysPerAsk = 32;  // whose values meet rows between two Ask()
// The largest quantised numbers.
constexpr float kQueryTop = 127.0f;
constexpr float kWeightTop = 255.0f;
// Products of weight and scale up to this are 0: kWeightTop divided by more is finite.
constexpr float kLeastProduct = 0x1p-118f;

int32_t CodeSteps(const Int8LatentLayout& dims) { return (dims.kv_lora_rank + 3) / 4; }
int32_t RopeSteps(const Int8LatentLayout& dims) { return (dims.qk_rope_head_dim + 1) / 2; }

// Bytes of the parts of a packed group of queries, in the order in which they lie in memory.
struct QuerySizes {
  explicit QuerySizes(const Int8LatentLayout& dims)
      : groups(dims.groups() * kVectorBytes),
        rope(RopeSteps(dims) * kVectorBytes),
        codes(CodeSteps(dims) * kVectorBytes) {}
  int64_t groups, rope, codes;
  int64_t all() const { return 2 * groups + rope + codes; }
};

struct Queries {
  Queries(const QuerySizes& sizes, char* data)
      : scales(data),
        offsets(scales + sizes.groups),
        rope(offsets + sizes.groups),
        codes(rope + sizes.rope) {}
  char* scales;   // [groups] f32 vectors
  char* offsets;  // [groups] i32 vectors: -128 * (sum of the codes)
  char* rope;     // [rope steps] pairs of bf16
  char* codes;    // [code steps] vectors of four bytes
};

// The packed softmax weights of a group.
struct Weights {
  Weights(const Int8LatentLayout& dims, char* data)
      : scales(data), bytes(data + dims.groups() * kVectorBytes) {}
  char* scales;  // [groups] f32 vectors
  char* bytes;   // [groups, kQuads] vectors of the weights of four tokens
};

int64_t RowBytes(const Int8LatentLayout& dims) { return dims.bytes(); }
int64_t QueryBytes(const Int8LatentLayout& dims) { return QuerySizes(dims).all(); }
int64_t WeightBytes(const Int8LatentLayout& dims) {
  return dims.groups() * (kQuads + 1) * kVectorBytes;
}

inline void DotBytes(__m512i& acc, __m512i unsigned_bytes, __m512i signed_bytes) {
  __asm__("vpdpbusd %2, %1, %0" : "+v"(acc) : "v"(unsigned_bytes), "v"(signed_bytes));
}
inline void DotBytes(__m256i& acc, __m256i unsigned_bytes, __m256i signed_bytes) {
  __asm__("vpdpbusd %2, %1, %0" : "+v"(acc) : "v"(unsigned_bytes), "v"(signed_bytes));
}
// Four codes of a key, with 128 added.
inline __m512i BroadcastCodes(WholeGroup, const char* p) {
  return _mm512_xor_si512(WholeGroup::Broadcast(p), _mm512_set1_epi8(-128));
}
inline __m256i BroadcastCodes(HalfGroup, const char* p) {
  return _mm256_xor_si256(HalfGroup::Broadcast(p), _mm256_set1_epi8(-128));
}

// The codes of `count` numbers of x times `factor`; returns their sum.
inline int32_t QuantiseGroup(const float* x, int32_t count, float factor, int8_t* codes) {
  __m512i sum = _mm512_setzero_si512();
  for (int32_t i = 0; i < count; i += kLanes) {
    const __m512 v = _mm512_maskz_loadu_ps(FirstOf16(count - i), x + i);
    const __m512i n = _mm512_cvtps_epi32(_mm512_mul_ps(v, _mm512_set1_ps(factor)));
    sum = _mm512_add_epi32(sum, n);
    _mm_storeu_si128(reinterpret_cast<__m128i*>(codes + i), _mm512_cvtepi32_epi8(n));
  }
  return _mm512_reduce_add_epi32(sum);
}

void LoadQueries(const Int8LatentLayout& dims, const float* const* rows, int32_t count,
                 char* queries) {
  const Queries to(QuerySizes(dims), queries);
  PackPairs(rows, count, dims.kv_lora_rank, dims.qk_rope_head_dim, to.rope);
  for (int32_t g = 0; g < dims.groups(); ++g) {
    const int32_t begin = g * kGroup;
    const int32_t left = dims.kv_lora_rank - begin;
    const int32_t n = left < kGroup ? left : kGroup;
    alignas(64) int8_t codes[kGroupRows][kGroup] = {};
    alignas(64) float scales[kGroupRows] = {};
    alignas(64) int32_t offsets[kGroupRows] = {};
    for (int32_t i = 0; i < count; ++i) {
      const float* q = rows[i] + begin;
      // Magnitudes in the order of their bits, in which infinities and NaNs are the greatest.
      __m512i most_bits = _mm512_setzero_si512();
      for (int32_t d = 0; d < n; d += kLanes) {
        const __m512i bits = _mm512_maskz_loadu_epi32(FirstOf16(n - d), q + d);
        most_bits =
            _mm512_max_epi32(most_bits, _mm512_and_si512(bits, _mm512_set1_epi32(0x7fffffff)));
      }
      const int32_t bits = _mm512_reduce_max_epi32(most_bits);
      float most;
      __builtin_memcpy(&most, &bits, sizeof(most));
      const bool finite = bits < 0x7f800000;
      const bool zero = most < Int8LatentLayout::kLeastMagnitude;
      if (finite) {
        const float factor = zero ? 0 : kQueryTop / most;
        offsets[i] = -128 * QuantiseGroup(q, n, factor, codes[i]);
      }
      scales[i] = !finite ? __builtin_nanf("") : zero ? 0 : most / kQueryTop;
    }
    _mm512_store_ps(to.scales + g * kVectorBytes, _mm512_load_ps(scales));
    _mm512_store_si512(to.offsets + g * kVectorBytes, _mm512_load_si512(offsets));
    const int32_t steps = (n + 3) / 4;
    for (int32_t first = 0; first < steps; first += kLanes) {
      __m512i r[16];
#pragma GCC unroll 16
      for (int i = 0; i < 16; ++i) r[i] = _mm512_load_si512(codes[i] + 4 * first);
      Transpose16(r);
      StoreColumns(r, steps - first, to.codes + (int64_t{g} * kGroupSteps + first) * kVectorBytes,
                   kVectorBytes);
    }
  }
}

// Scores of kKeyBlock keys with kGroups groups of rows, `apart` bytes apart: first the rope part,
// then the groups of codes, each scaled.
template <typename Group, int kGroups>
__attribute__((noinline)) void ScoreBlock(const Int8LatentLayout& dims, const Queries& queries,
                                          int64_t apart, const char* const* keys, float* scores,
                                          LinesAhead& ahead) {
  {
    typename Group::Float acc[kKeyBlock][kGroups];
#pragma GCC unroll 8
    for (int t = 0; t < kKeyBlock; ++t) {
#pragma GCC unroll 2
      for (int i = 0; i < kGroups; ++i) acc[t][i] = Group::Zero();
    }
    const char* query = queries.rope;
    int64_t at = dims.rope_offset();
    const int64_t end = at + 4 * int64_t{dims.qk_rope_head_dim / 2};
    for (; at < end; at += 4, query += kVectorBytes) {
      typename Group::Int q[kGroups];
#pragma GCC unroll 2
      for (int i = 0; i < kGroups; ++i) q[i] = Group::Load(query + i * apart);
#pragma GCC unroll 8
      for (int t = 0; t < kKeyBlock; ++t) {
        const typename Group::Int x = Group::Broadcast(keys[t] + at);
#pragma GCC unroll 2
        for (int i = 0; i < kGroups; ++i) DotPairs(acc[t][i], q[i], x);
      }
    }
    if (dims.qk_rope_head_dim % 2 != 0) {
#pragma GCC unroll 8
      for (int t = 0; t < kKeyBlock; ++t) {
        const typename Group::Int x = Group::BroadcastHalf(keys[t] + at);
#pragma GCC unroll 2
        for (int i = 0; i < kGroups; ++i) DotPairs(acc[t][i], Group::Load(query + i * apart), x);
      }
    }
#pragma GCC unroll 8
    for (int t = 0; t < kKeyBlock; ++t) {
#pragma GCC unroll 2
      for (int i = 0; i < kGroups; ++i) {
        _mm512_store_ps(scores + i * kScoresOfGroup + t * kGroupRows, Group::Widen(acc[t][i]));
      }
    }
  }
  const int64_t codes = 4 * int64_t{CodeSteps(dims)};
  const char* query = queries.codes;
  for (int32_t g = 0; g < dims.groups(); ++g) {
    typename Group::Int acc[kKeyBlock][kGroups];
#pragma GCC unroll 8
    for (int t = 0; t < kKeyBlock; ++t) {
#pragma GCC unroll 2
      for (int i = 0; i < kGroups; ++i) {
        acc[t][i] = Group::Load(queries.offsets + i * apart + g * kVectorBytes);
      }
    }
    const int64_t begin = int64_t{g} * kGroup;
    const int64_t end = begin + kGroup < codes ? begin + kGroup : codes;
    for (int64_t at = begin; at < end;) {
      const int64_t next = at + 4 * kStepsPerAsk < end ? at + 4 * kStepsPerAsk : end;
      for (; at < next; at += 4, query += kVectorBytes) {
        typename Group::Int q[kGroups];
#pragma GCC unroll 2
        for (int i = 0; i < kGroups; ++i) q[i] = Group::Load(query + i * apart);
#pragma GCC unroll 8
        for (int t = 0; t < kKeyBlock; ++t) {
          const typename Group::Int x = BroadcastCodes(Group(), keys[t] + at);
#pragma GCC unroll 2
          for (int i = 0; i < kGroups; ++i) DotBytes(acc[t][i], x, q[i]);
        }
      }
      ahead.Ask();
    }
    const int64_t scale_at = dims.scales_offset() + 4 * int64_t{g};
#pragma GCC unroll 8
    for (int t = 0; t < kKeyBlock; ++t) {
      float k_scale;
      __builtin_memcpy(&k_scale, keys[t] + scale_at, sizeof(k_scale));
#pragma GCC unroll 2
      for (int i = 0; i < kGroups; ++i) {
        const __m512 q_scale = _mm512_load_ps(queries.scales + i * apart + g * kVectorBytes);
        float* to = scores + i * kScoresOfGroup + t * kGroupRows;
        _mm512_store_ps(to, _mm512_fmadd_ps(_mm512_cvtepi32_ps(Group::Widen(acc[t][i])),
                                            _mm512_mul_ps(q_scale, _mm512_set1_ps(k_scale)),
                                            _mm512_load_ps(to)));
      }
    }
  }
}

// The bytes of a group's softmax weights times the scales of the values.
inline void QuantiseWeights(const Int8LatentLayout& dims, const float* weights,
                            const void* const* latents, int32_t keys, const Weights& to) {
  for (int32_t g = 0; g < dims.groups(); ++g) {
    const int64_t scale_at = dims.scales_offset() + 4 * int64_t{g};
    alignas(64) float scales[kKeyTile];
    for (int32_t t = 0; t < keys; ++t) {
      __builtin_memcpy(scales + t, static_cast<const char*>(latents[t]) + scale_at, sizeof(float));
    }
    for (int32_t t = keys; t % 4 != 0; ++t) scales[t] = 0;
    __m512 most = _mm512_setzero_ps();
    for (int32_t t = 0; t < keys; ++t) {
      // In this order a NaN, the product of 0 and the scale of a key that is not visible, is not
      // taken.
      most = _mm512_max_ps(
          _mm512_mul_ps(_mm512_load_ps(weights + t * kGroupRows), _mm512_set1_ps(scales[t])), most);
    }
    const __mmask16 some = _mm512_cmp_ps_mask(most, _mm512_set1_ps(kLeastProduct), _CMP_GT_OQ);
    const __m512 factor = _mm512_maskz_div_ps(some, _mm512_set1_ps(kWeightTop), most);
    _mm512_store_ps(to.scales + g * kVectorBytes,
                    _mm512_maskz_mul_ps(some, most, _mm512_set1_ps(1 / kWeightTop)));
    char* bytes = to.bytes + int64_t{g} * kQuads * kVectorBytes;
    for (int32_t t = 0; t < keys; t += 4, bytes += kVectorBytes) {
      __m512i n[4];
#pragma GCC unroll 4
      for (int i = 0; i < 4; ++i) {
        const __m512 x = _mm512_mul_ps(_mm512_load_ps(weights + (t + i) * kGroupRows),
                                       _mm512_set1_ps(scales[t + i]));
        // A NaN becomes 0: as an integer it would change the bytes beside it.
        n[i] = _mm512_cvtps_epi32(_mm512_max_ps(_mm512_mul_ps(x, factor), _mm512_setzero_ps()));
      }
      const __m512i low = _mm512_or_si512(n[0], _mm512_slli_epi32(n[1], 8));
      const __m512i high = _mm512_or_si512(n[2], _mm512_slli_epi32(n[3], 8));
      _mm512_store_si512(bytes, _mm512_or_si512(low, _mm512_slli_epi32(high, 16)));
    }
  }
}

// Adds the values x of four tokens times their weights.
template <int kRows>
__attribute__((always_inline)) inline void AddQuad(const __m512i (&x)[4], const char* weights,
                                                   __m512i (&acc)[kRows][4]) {
  const __m512i a = _mm512_unpacklo_epi8(x[0], x[1]), b = _mm512_unpackhi_epi8(x[0], x[1]);
  const __m512i c = _mm512_unpacklo_epi8(x[2], x[3]), d = _mm512_unpackhi_epi8(x[2], x[3]);
  const __m512i v[4] = {_mm512_unpacklo_epi16(a, c), _mm512_unpackhi_epi16(a, c),
                        _mm512_unpacklo_epi16(b, d), _mm512_unpackhi_epi16(b, d)};
#pragma GCC unroll 6
  for (int r = 0; r < kRows; ++r) {
    const __m512i w = WholeGroup::Broadcast(weights + 4 * r);
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) DotBytes(acc[r][i], w, v[i]);
  }
}

// kRows rows by kValueColumns elements of the latents from byte `offset` on, `mask` of them there.
// Vector i of outputs holds elements 4 i to 4 i + 3 of every 16.
template <int kRows>
__attribute__((noinline)) void OutputBlock(const char* weights, const float* scales,
                                           const void* const* latents, int32_t keys, int64_t offset,
                                           __mmask64 mask, const float* alpha, float* outputs,
                                           int64_t stride, LinesAhead& ahead) {
  __m512i acc[kRows][4];
#pragma GCC unroll 6
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) acc[r][i] = _mm512_setzero_si512();
  }
  const auto* rows = reinterpret_cast<const char* const*>(latents);
  int32_t t = 0;
  while (t + 4 <= keys) {
    const int32_t next = t + kKeysPerAsk < keys ? t + kKeysPerAsk : keys;
    for (; t + 4 <= next; t += 4, weights += kVectorBytes) {
      __m512i x[4];
#pragma GCC unroll 4
      for (int i = 0; i < 4; ++i) x[i] = _mm512_maskz_loadu_epi8(mask, rows[t + i] + offset);
      AddQuad<kRows>(x, weights, acc);
    }
    ahead.Ask();
  }
  if (t < keys) {
    __m512i x[4];
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) {
      x[i] = t + i < keys ? _mm512_maskz_loadu_epi8(mask, rows[t + i] + offset)
                          : _mm512_setzero_si512();
    }
    AddQuad<kRows>(x, weights, acc);
  }
#pragma GCC unroll 6
  for (int r = 0; r < kRows; ++r) {
    const __m512 factor = _mm512_set1_ps(alpha[r]);
    const __m512 scale = _mm512_set1_ps(scales[r]);
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) {
      float* to = outputs + r * stride + i * kLanes;
      _mm512_store_ps(to, _mm512_fmadd_ps(_mm512_cvtepi32_ps(acc[r][i]), scale,
                                          _mm512_mul_ps(factor, _mm512_load_ps(to))));
    }
  }
}

template <int kRows>
inline void OutputRows(int32_t rows, const char* weights, const float* scales,
                       const void* const* latents, int32_t keys, int64_t offset, __mmask64 mask,
                       const float* alpha, float* outputs, int64_t stride, LinesAhead& ahead) {
  if constexpr (kRows > 0) {
    if (rows == kRows) {
      OutputBlock<kRows>(weights, scales, latents, keys, offset, mask, alpha, outputs, stride,
                         ahead);
    } else {
      OutputRows<kRows - 1>(rows, weights, scales, latents, keys, offset, mask, alpha, outputs,
                            stride, ahead);
    }
  }
}

void Attend(const Int8LatentLayout& dims, const LatentTile& tile, const void* const* latents,
            int32_t keys, float scale_log2, const RowsAhead& rows_ahead) {
  const int32_t groups = tile.groups();
  const QuerySizes query_sizes(dims);
  const int64_t weight_bytes = WeightBytes(dims);
  const int32_t panels = (dims.kv_lora_rank + kValueColumns - 1) / kValueColumns;
  const int32_t key_blocks = (keys + kKeyBlock - 1) / kKeyBlock;
  const int32_t row_blocks = tile.rows / kValueRows + 1;
  const int32_t score_asks = dims.groups() * kGroupSteps / kStepsPerAsk;
  LinesAhead ahead(rows_ahead,
                   key_blocks * score_asks * ((groups + 1) / 2) + 2 * row_blocks * panels);

  for (int32_t group = 0; group < groups; group += 2) {
    const Queries queries(query_sizes, tile.queries + group * query_sizes.all());
    const bool two = group + 1 < groups;
    float* scores = tile.scores + group * kScoresOfGroup;
    for (int32_t first = 0; first < keys; first += kKeyBlock) {
      const char* key[kKeyBlock];
      KeysOfBlock(latents, first, keys, key);
      const auto score = two                                     ? ScoreBlock<WholeGroup, 2>
                         : RowsOfGroup(tile, group) > kHalfGroup ? ScoreBlock<WholeGroup, 1>
                                                                 : ScoreBlock<HalfGroup, 1>;
      score(dims, queries, query_sizes.all(), key, scores + first * kGroupRows, ahead);
    }
  }
  for (int32_t group = 0; group < groups; ++group) {
    SoftmaxOfGroup(tile, group, keys, scale_log2);
    QuantiseWeights(dims, tile.scores + group * kScoresOfGroup, latents, keys,
                    Weights(dims, tile.weights + group * weight_bytes));
  }
  for (int32_t panel = 0; panel < panels; ++panel) {
    const int32_t column = panel * kValueColumns;
    const __mmask64 mask = FirstOf64(dims.kv_lora_rank - column);
    const int32_t g = column / kGroup;
    for (int32_t group = 0; group < groups; ++group) {
      const Weights weights(dims, tile.weights + group * weight_bytes);
      const int32_t rows = RowsOfGroup(tile, group);
      const int32_t blocks = (rows + kValueRows - 1) / kValueRows;
      for (int32_t block = 0; block < blocks; ++block) {  // of nearly equal height
        const int32_t begin = block * rows / blocks, end = (block + 1) * rows / blocks;
        const int32_t row = group * kGroupRows + begin;
        OutputRows<kValueRows>(
            end - begin, weights.bytes + int64_t{g} * kQuads * kVectorBytes + 4 * begin,
            reinterpret_cast<const float*>(weights.scales + g * kVectorBytes) + begin, latents,
            keys, column, mask, tile.alpha + row, tile.outputs + row * tile.output_stride + column,
            tile.output_stride, ahead);
      }
    }
  }
}

void WriteRow(const float* outputs, float factor, int32_t d_v, float* out) {
  const __m512 f = _mm512_set1_ps(factor);
  for (int32_t i = 0; i < d_v; i += kValueColumns) {
    __m512 x[4];
#pragma GCC unroll 4
    for (int j = 0; j < 4; ++j) x[j] = _mm512_mul_ps(_mm512_load_ps(outputs + i + j * kLanes), f);
    // A 4 x 4 transpose of blocks of four.
    const __m512 a = _mm512_shuffle_f32x4(x[0], x[1], 0x44);
    const __m512 b = _mm512_shuffle_f32x4(x[0], x[1], 0xee);
    const __m512 c = _mm512_shuffle_f32x4(x[2], x[3], 0x44);
    const __m512 d = _mm512_shuffle_f32x4(x[2], x[3], 0xee);
    const __m512 y[4] = {_mm512_shuffle_f32x4(a, c, 0x88), _mm512_shuffle_f32x4(a, c, 0xdd),
                         _mm512_shuffle_f32x4(b, d, 0x88), _mm512_shuffle_f32x4(b, d, 0xdd)};
#pragma GCC unroll 4
    for (int j = 0; j < 4; ++j) {
      _mm512_mask_storeu_ps(out + i + j * kLanes, FirstOf16(d_v - i - j * kLanes), y[j]);
    }
  }
}

}  // namespace
}  // namespace latents_int8
}  // namespace mla::cpu

#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif

namespace mla::cpu {

LatentKernels Int8LatentKernels() {
  using namespace latents_int8;  // NOLINT(google-build-using-namespace)
  return LatentKernels{kValueColumns, 2 * kKeyTile, &QueryBytes, &WeightBytes,
                       &RowBytes,     &LoadQueries, &Attend,     &WriteRow};
}

}  // namespace mla::cpu

#else  // not x86-64

namespace mla::cpu {

LatentKernels Int8LatentKernels() {
  MLA_CHECK(false, "no AVX512_VNNI on this architecture");
  return {};
}

}  // namespace mla::cpu

#endif
