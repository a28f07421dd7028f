// Latent kernels for bf16 caches on AMX tiles: sums in fp32.
//
//   scores   [16 keys, 16 rows] += [16 keys, 32 elements] [16 pairs of elements, 16 rows]. Keys are
//            loaded from where they lie in the cache, if 16 of them are equally far apart.
//   outputs  [16 rows, 16 elements] += [16 rows, 32 keys] [16 pairs of keys, 16 elements]. Values
//            are put in pairs of keys 32 elements at a time, for all groups, one step ahead of the
//            products: they stay in the first-level cache, and need not wait for each other.
#include "kernels/cpu/attention_latents.h"

#if defined(__x86_64__)
#include "kernels/cpu/amx_tiles.h"
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
namespace latents_amx {
namespace {

using amx::kTileBytes;
using amx::kTileDepth;
using amx::kTileRowBytes;
using amx::kTileRows;
static_assert(kGroupRows == kTileRows && kGroupRows == amx::kTileColumns);

constexpr int kPanel = 32;                                 // elements of a value: two tiles
constexpr int kKeyChunks = kKeyTile / kTileDepth;          // of the products with values
constexpr int64_t kWeightBytes = kKeyChunks * kTileBytes;  // of a group
constexpr int64_t kColumnBytes = kKeyChunks * kTileBytes;  // of half a panel
constexpr int64_t kPanelBytes = 2 * kColumnBytes;

int32_t LatentDim(const Int8LatentLayout& dims) {
  return dims.kv_lora_rank + dims.qk_rope_head_dim;
}
int64_t DimChunks(const Int8LatentLayout& dims) {  // of the products with keys
  return (LatentDim(dims) + kTileDepth - 1) / kTileDepth;
}
int64_t RowBytes(const Int8LatentLayout& dims) { return int64_t{2} * LatentDim(dims); }
int64_t QueryBytes(const Int8LatentLayout& dims) { return DimChunks(dims) * kTileBytes; }
int64_t WeightBytes(const Int8LatentLayout&) { return kWeightBytes; }
int64_t KeyBlockBytes(const Int8LatentLayout& dims) { return DimChunks(dims) * kTileBytes; }
// Two panels of values, and copies of two blocks of keys.
int64_t ScratchBytes(const Int8LatentLayout& dims) {
  return 2 * kPanelBytes + 2 * KeyBlockBytes(dims);
}

// As tiles of B: [pairs, kGroupRows], zeros up to a whole tile.
void LoadQueries(const Int8LatentLayout& dims, const float* const* rows, int32_t count,
                 char* queries) {
  const int32_t dim = LatentDim(dims);
  PackPairs(rows, count, 0, dim, queries);
  for (int64_t at = (dim + 1) / 2 * kTileRowBytes; at < QueryBytes(dims); at += kTileRowBytes) {
    _mm512_store_si512(queries + at, _mm512_setzero_si512());
  }
}

// 16 keys, `stride` bytes apart, in whole chunks.
struct KeyBlock {
  const char* data;
  int64_t stride;
};

bool EquallySpaced(const char* const* rows) {
  const int64_t stride = rows[1] - rows[0];
  bool equal = true;
  for (int i = 2; i < kTileRows; ++i) equal &= rows[i] - rows[i - 1] == stride;
  return equal;
}

// The keys from `first` on. What the copy has in place of keys past the end reaches scores that
// nobody reads.
KeyBlock FindKeys(const Int8LatentLayout& dims, const void* const* latents, int32_t first,
                  int32_t keys, char* copy) {
  const auto* rows = reinterpret_cast<const char* const*>(latents) + first;
  const int32_t dim = LatentDim(dims);
  const bool whole = keys - first >= kTileRows && dim % kTileDepth == 0;
  if (whole && EquallySpaced(rows)) return {rows[0], rows[1] - rows[0]};
  const int64_t stride = DimChunks(dims) * kTileRowBytes;
  const int32_t count = keys - first < kTileRows ? keys - first : kTileRows;
  for (int32_t i = 0; i < count; ++i) {
    for (int32_t d = 0; d < dim; d += kTileDepth) {
      _mm512_store_si512(copy + i * stride + 2 * d,
                         _mm512_maskz_loadu_epi16(FirstOf32(dim - d), rows[i] + 2 * d));
    }
  }
  return {copy, stride};
}

// Tiles 0 and 1 are C of the first block of keys (below: of the first group), 2 and 3 of the
// second; 4 and 5 are A, 6 and 7 B.
void ConfigureTiles(int32_t first_rows, int32_t second_rows) {
  amx::TileConfig config;
  config.Set(0, first_rows, kTileRowBytes);
  config.Set(1, first_rows, kTileRowBytes);
  config.Set(2, second_rows, kTileRowBytes);
  config.Set(3, second_rows, kTileRowBytes);
  config.Set(4, first_rows, kTileRowBytes);
  config.Set(5, second_rows, kTileRowBytes);
  config.Set(6, kTileRows, kTileRowBytes);
  config.Set(7, kTileRows, kTileRowBytes);
  amx::Configure(config);
}

// Scores of kKeys blocks of keys with kGroups groups of rows, `query_bytes` apart.
template <int kKeys, int kGroups>
void ScoreBlock(const KeyBlock (&keys)[2], const char* query, int64_t query_bytes, int64_t chunks,
                float* scores, LinesAhead& ahead) {
  amx::Zero<0>();
  if constexpr (kGroups == 2) amx::Zero<1>();
  if constexpr (kKeys == 2) amx::Zero<2>();
  if constexpr (kKeys == 2 && kGroups == 2) amx::Zero<3>();
  for (int64_t k = 0; k < chunks; ++k, query += kTileBytes) {
    amx::Load<6>(query, kTileRowBytes);
    amx::Load<4>(keys[0].data + k * kTileRowBytes, keys[0].stride);
    amx::DotBf16<0, 4, 6>();
    if constexpr (kKeys == 2) {
      amx::Load<5>(keys[1].data + k * kTileRowBytes, keys[1].stride);
      amx::DotBf16<2, 5, 6>();
    }
    if constexpr (kGroups == 2) {
      amx::Load<7>(query + query_bytes, kTileRowBytes);
      amx::DotBf16<1, 4, 7>();
      if constexpr (kKeys == 2) amx::DotBf16<3, 5, 7>();
    }
    ahead.Ask();
  }
  constexpr int64_t kBlockScores = int64_t{kTileRows} * kGroupRows;
  amx::Store<0>(scores, kTileRowBytes);
  if constexpr (kGroups == 2) amx::Store<1>(scores + kScoresOfGroup, kTileRowBytes);
  if constexpr (kKeys == 2) amx::Store<2>(scores + kBlockScores, kTileRowBytes);
  if constexpr (kKeys == 2 && kGroups == 2) {
    amx::Store<3>(scores + kScoresOfGroup + kBlockScores, kTileRowBytes);
  }
}

void ScoreTile(const Int8LatentLayout& dims, const LatentTile& tile, const void* const* latents,
               int32_t keys, char* copies, LinesAhead& ahead) {
  const int64_t query_bytes = QueryBytes(dims);
  for (int32_t first = 0; first < keys; first += 2 * kTileRows) {
    const bool two = keys - first > kTileRows;
    KeyBlock blocks[2] = {FindKeys(dims, latents, first, keys, copies), {}};
    if (two) {
      blocks[1] = FindKeys(dims, latents, first + kTileRows, keys, copies + KeyBlockBytes(dims));
    }
    for (int32_t group = 0; group < tile.groups(); group += 2) {
      const auto score = group + 1 < tile.groups() ? two ? ScoreBlock<2, 2> : ScoreBlock<1, 2>
                         : two ? ScoreBlock<2, 1>
                                                   : ScoreBlock<1, 1>;
      score(blocks, tile.queries + group * query_bytes, query_bytes, DimChunks(dims),
            tile.scores + group * kScoresOfGroup + first * kGroupRows, ahead);
    }
  }
}

// Softmax weights of a group as tiles of A: [kGroupRows, 32 keys], 0 past the last key.
void PackWeights(const float* weights, int32_t keys, char* to) {
  alignas(64) uint16_t index[32];
  for (int i = 0; i < 32; ++i) index[i] = static_cast<uint16_t>(i / 2 + i % 2 * kLanes);
  const __m512i order = _mm512_load_si512(index);
  for (int32_t begin = 0; begin < keys; begin += kTileDepth, to += kTileBytes) {
    __m512i r[16];
#pragma GCC unroll 16
    for (int i = 0; i < 16; ++i) {
      const int32_t t = begin + 2 * i;
      if (t >= keys) {
        r[i] = _mm512_setzero_si512();
        continue;
      }
      const __m512bh pair = _mm512_cvtne2ps_pbh(_mm512_load_ps(weights + (t + 1) * kGroupRows),
                                                _mm512_load_ps(weights + t * kGroupRows));
      r[i] = _mm512_permutexvar_epi16(order, (__m512i)pair);
    }
    Transpose16(r);
    StoreColumns(r, kGroupRows, to, kTileRowBytes);
  }
}

// What a panel of values is computed from.
struct PanelSource {
  const char* const* rows;
  int32_t keys;
  int32_t dim;  // of a value
  const LatentTile* tile;
  const int32_t* changed;  // [num_changed]: rows of the tile whose alpha is not 1
  int32_t num_changed;
  __m512i low, high;  // lane i: elements i (and i + 16) of two rows
};

// Tiles of B, [half, pairs of keys, 16 elements], with zeros past the last key; and the outputs
// that the panel is added to, times alpha.
void PreparePanel(const PanelSource& source, int32_t panel, char* to) {
  const int64_t begin = int64_t{panel} * kPanel;
  const __mmask32 mask = FirstOf32(source.dim - begin);
  const __m512i zeros = _mm512_setzero_si512(), low = source.low, high = source.high;
  const char* const* rows = source.rows;
  const int32_t keys = source.keys;
  const auto value = [&](int32_t t) { return _mm512_maskz_loadu_epi16(mask, rows[t] + 2 * begin); };
  const auto store_pair = [&](__m512i x, __m512i y) {
    _mm512_store_si512(to, _mm512_permutex2var_epi16(x, low, y));
    _mm512_store_si512(to + kColumnBytes, _mm512_permutex2var_epi16(x, high, y));
    to += kTileRowBytes;
  };
  int32_t t = 0;
  for (; t + 2 <= keys; t += 2) store_pair(value(t), value(t + 1));
  for (; t < keys || t % kTileDepth != 0; t += 2) store_pair(t < keys ? value(t) : zeros, zeros);
  const LatentTile& tile = *source.tile;
  for (int32_t i = 0; i < source.num_changed; ++i) {
    const int32_t row = source.changed[i];
    const __m512 factor = _mm512_set1_ps(tile.alpha[row]);
    float* outputs = tile.outputs + row * tile.output_stride + begin;
    _mm512_store_ps(outputs, _mm512_mul_ps(factor, _mm512_load_ps(outputs)));
    _mm512_store_ps(outputs + kLanes, _mm512_mul_ps(factor, _mm512_load_ps(outputs + kLanes)));
  }
}

// kGroups groups of rows by a panel of values. Stride in bytes.
template <int kGroups>
void OutputBlock(const char* weights, const char* values, int32_t chunks, float* outputs,
                 int64_t stride, LinesAhead& ahead) {
  char* const first = reinterpret_cast<char*>(outputs);
  char* const second = first + kGroupRows * stride;
  amx::Load<0>(first, stride);
  amx::Load<1>(first + kTileRowBytes, stride);
  if constexpr (kGroups == 2) {
    amx::Load<2>(second, stride);
    amx::Load<3>(second + kTileRowBytes, stride);
  }
  for (int32_t k = 0; k < chunks; ++k, weights += kTileBytes, values += kTileBytes) {
    amx::Load<6>(values, kTileRowBytes);
    amx::Load<4>(weights, kTileRowBytes);
    amx::DotBf16<0, 4, 6>();
    amx::Load<7>(values + kColumnBytes, kTileRowBytes);
    amx::DotBf16<1, 4, 7>();
    if constexpr (kGroups == 2) {
      amx::Load<5>(weights + kWeightBytes, kTileRowBytes);
      amx::DotBf16<2, 5, 6>();
      amx::DotBf16<3, 5, 7>();
    }
    ahead.Ask();
  }
  amx::Store<0>(first, stride);
  amx::Store<1>(first + kTileRowBytes, stride);
  if constexpr (kGroups == 2) {
    amx::Store<2>(second, stride);
    amx::Store<3>(second + kTileRowBytes, stride);
  }
}

void AddOutputs(const Int8LatentLayout& dims, const LatentTile& tile, const void* const* latents,
                int32_t keys, char* panels, LinesAhead& ahead) {
  const int32_t num_panels = (dims.kv_lora_rank + kPanel - 1) / kPanel;
  const int32_t chunks = (keys + kTileDepth - 1) / kTileDepth;
  alignas(64) uint16_t low[32];
  for (int i = 0; i < 32; ++i) low[i] = static_cast<uint16_t>(i / 2 + 32 * (i % 2));
  int32_t changed[kRowTile];
  PanelSource source = {reinterpret_cast<const char* const*>(latents),
                        keys,
                        dims.kv_lora_rank,
                        &tile,
                        changed,
                        0,
                        _mm512_load_si512(low),
                        {}};
  source.high = _mm512_add_epi16(source.low, _mm512_set1_epi16(16));
  for (int32_t row = 0; row < tile.rows; ++row) {
    if (tile.alpha[row] != 1.0f) changed[source.num_changed++] = row;
  }
  PreparePanel(source, 0, panels);
  for (int32_t panel = 0; panel < num_panels; ++panel) {
    if (panel + 1 < num_panels) {
      PreparePanel(source, panel + 1, panels + (panel + 1) % 2 * kPanelBytes);
    }
    for (int32_t group = 0; group < tile.groups(); group += 2) {
      const auto add = group + 1 < tile.groups() ? OutputBlock<2> : OutputBlock<1>;
      add(tile.weights + group * kWeightBytes, panels + panel % 2 * kPanelBytes, chunks,
          tile.outputs + group * kGroupRows * tile.output_stride + panel * kPanel,
          tile.output_stride * int64_t{sizeof(float)}, ahead);
    }
  }
}

void Attend(const Int8LatentLayout& dims, const LatentTile& tile, const void* const* latents,
            int32_t keys, float scale_log2, const RowsAhead& rows_ahead) {
  const int32_t groups = tile.groups();
  const int32_t pairs = (groups + 1) / 2;
  const int32_t key_chunks = (keys + kTileDepth - 1) / kTileDepth;
  const int32_t panels = (dims.kv_lora_rank + kPanel - 1) / kPanel;
  LinesAhead ahead(rows_ahead,
                   pairs * key_chunks * (static_cast<int32_t>(DimChunks(dims)) + panels));
  ConfigureTiles(kTileRows, kTileRows);
  ScoreTile(dims, tile, latents, keys, tile.scratch + 2 * kPanelBytes, ahead);
  for (int32_t group = 0; group < groups; ++group) {
    SoftmaxOfGroup(tile, group, keys, scale_log2);
    PackWeights(tile.scores + group * kScoresOfGroup, keys, tile.weights + group * kWeightBytes);
  }
  // Fewer rows take less time. With more than one pair of groups the rows that do not exist are
  // computed: sizes would change from block to block.
  const int32_t last = RowsOfGroup(tile, groups - 1);
  if (pairs == 1 && last < kGroupRows) {
    ConfigureTiles(groups == 1 ? last : kTileRows, last);
  }
  AddOutputs(dims, tile, latents, keys, tile.scratch, ahead);
  amx::Release();
}

void WriteRow(const float* outputs, float factor, int32_t d_v, float* out) {
  const __m512 f = _mm512_set1_ps(factor);
  for (int32_t i = 0; i < d_v; i += kLanes) {
    _mm512_mask_storeu_ps(out + i, FirstOf16(d_v - i),
                          _mm512_mul_ps(_mm512_load_ps(outputs + i), f));
  }
}

}  // namespace
}  // namespace latents_amx
}  // namespace mla::cpu

#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif

namespace mla::cpu {

LatentKernels AmxLatentKernels() {
  using namespace latents_amx;  // NOLINT(google-build-using-namespace)
  return LatentKernels{kPanel,       kKeyTile, &QueryBytes, &WeightBytes, &RowBytes,
                       &LoadQueries, &Attend,  &WriteRow,   &ScratchBytes};
}

}  // namespace mla::cpu

#else  // not x86-64

namespace mla::cpu {

LatentKernels AmxLatentKernels() {
  MLA_CHECK(false, "no AMX on this architecture");
  return {};
}

}  // namespace mla::cpu

#endif
