// What an instruction set provides to the attention driver: packing of cached rows, one small
// matrix product, and the online softmax of a tile. Everything above a tile (which rows, which
// keys, threads, merging) is in attention_driver.cc and written once.
//
// The matrix product is C = A B with C in fp32. A is row-major. B is packed in panels: a panel
// holds `panel_cols` columns of B for all of the summed axis, as consecutive steps of `step`
// elements per column. Both products of attention have this form: scores have the keys as columns
// and d_k as the summed axis, outputs have d_v as columns and the keys as the summed axis.
#ifndef MLA_KERNELS_CPU_ATTENTION_TILE_H_
#define MLA_KERNELS_CPU_ATTENTION_TILE_H_

#include <cmath>
#include <cstdint>
#include <limits>

#include "mla/int8_latent.h"
#include "mla/tensor.h"

namespace mla::cpu {

inline constexpr int32_t kKeyTile = 64;    // keys of a tile; columns of a row of scores
inline constexpr int32_t kColumnPad = 32;  // every panel_cols divides it

// Rows somewhere in memory, `dim` contiguous elements each; nothing else is read.
struct SourceRows {
  const void* const* rows;  // [num_rows]
  int32_t num_rows;
  int32_t dim;
  DType dtype;
};

// A packed B operand. Panel p begins at data + p * steps * panel_cols * step * element_bytes.
struct Panels {
  void* data;      // 64-byte aligned
  int32_t steps;   // of a whole panel: the distance from one panel to the next
  int32_t offset;  // the step where a pack begins to write; products read from step 0
};

// Rows that will be packed next, to be on their way from memory while a product computes.
struct RowsAhead {
  const void* const* rows = nullptr;  // [num_rows]
  int32_t num_rows = 0;
  int32_t bytes = 0;  // of a row
};

// Asks for part `part` of `parts` of the rows' cache lines. Parts should be small and apart: more
// requests at a time than the processor tracks hold up the loads that follow.
inline void PrefetchPart(const RowsAhead& ahead, int32_t part, int32_t parts) {
  constexpr int32_t kLineBytes = 64;
  const int32_t row_lines = (ahead.bytes + kLineBytes - 1) / kLineBytes;
  const int32_t lines = ahead.num_rows * row_lines;
  const int32_t begin = static_cast<int32_t>(int64_t{lines} * part / parts);
  const int32_t end = static_cast<int32_t>(int64_t{lines} * (part + 1) / parts);
  if (begin == end) return;
  int32_t row = begin / row_lines, line = begin % row_lines;
  for (int32_t i = begin; i < end; ++i) {
    const char* address = static_cast<const char*>(ahead.rows[row]) + line * kLineBytes;
    __builtin_prefetch(address, 0, 2);
    // GCC takes a function that does nothing but prefetch for one without effect, and drops calls.
    __asm__ volatile("" : : "r"(address));
    if (++line == row_lines) {
      line = 0;
      ++row;
    }
  }
}

struct Product {
  const void* a;  // [rows, lda] packed elements; the last step of a row is read whole
  int64_t lda;    // in elements
  Panels b;
  float* c;     // [rows, ldc]; columns are written up to the next multiple of panel_cols
  int64_t ldc;  // in floats
  int32_t rows;
  int32_t cols;
  int32_t steps;       // of the summed axis
  const float* alpha;  // [rows]: C = alpha C + A B; null: C = A B
  RowsAhead ahead = {};
};

struct SoftmaxTile {
  const float* s;          // [rows, kKeyTile] unscaled scores
  const int32_t* visible;  // [rows]: the first keys of the tile that the row attends to, 0 to keys
  int32_t rows;
  int32_t keys;      // of the tile
  float scale_log2;  // scale * log2(e)
  float* max;        // [rows] in and out: running maximum of score * scale_log2; -inf at first
  float* sum;        // [rows] in and out: running sum of exp2(score * scale_log2 - max)
  float* alpha;      // [rows] out: factor for the outputs accumulated so far
  void* p;           // [rows, kKeyTile] packed elements out; 0 where not visible, up to whole steps
};

// The running maximum of a row after a tile with scores `s`, of which tile_max is the greatest but
// for NaNs, which may be left out. A row of nothing but NaNs gets 0, not the -inf of one that saw
// nothing: so its sum becomes NaN, and with it the output.
inline float NextMax(float max, float tile_max, const float* s, int32_t visible) {
  constexpr float kMinusInf = -std::numeric_limits<float>::infinity();
  if (tile_max > max) max = tile_max;
  for (int32_t j = 0; j < visible && max == kMinusInf; ++j) {
    if (std::isnan(s[j])) max = 0;
  }
  return max;
}

struct TileKernels {
  int32_t panel_cols;     // divides kColumnPad
  int32_t step;           // 1 for f32, 2 for pairs of bf16
  int32_t element_bytes;  // of a packed element
  DType element;          // f32 or bf16

  // f32 to packed elements, rounded as the compute mode says, zeros up to a whole step.
  void (*round_row)(const float* src, int32_t n, void* dst);
  // Row i of `to` becomes the numbers of the int8 latent at rows[i], as elements; rows are `stride`
  // elements apart. What follows a row's numbers is not written.
  void (*decode_latents)(const void* const* rows, int32_t num_rows, const Int8LatentLayout& layout,
                         void* to, int64_t stride);
  // B[j, i] = rows[i][j]: source rows become columns. `scratch` has TransposeScratchFloats(dim).
  // Columns up to a multiple of panel_cols, and the rest of the last step, are zeros.
  void (*pack_transposed)(const SourceRows& src, const Panels& dst, float* scratch);
  // B[i, j] = rows[i][j]. Padding as above.
  void (*pack_straight)(const SourceRows& src, const Panels& dst);
  // An element of C is a function of its own operands alone, whichever rows or columns are computed
  // with it: one chain of fused multiply-adds in the order of the summed axis, or of what AMX adds
  // up at a time (amx_tiles.h).
  void (*multiply)(const Product& product);
  void (*softmax)(const SoftmaxTile& tile);
};

inline int64_t TransposeScratchFloats(int64_t dim) { return 16 * ((dim + 15) / 16 * 16); }

// out[j] = sum of weights[i] * parts[i][j] over i in [0, count), j in [0, n).
void WeightedSum(const float* const* parts, const float* weights, int32_t count, int32_t n,
                 float* out);

// fp32 arithmetic for the instruction set in use. `round_to_bf16`: ComputeMode::kBF16.
TileKernels SimdTileKernels(bool round_to_bf16);
// Requires UsesAvx512Bf16(). Packs bf16 rows only.
TileKernels Avx512Bf16TileKernels();
// Requires UsesAmxBf16(). Packs bf16 rows only.
TileKernels AmxTileKernels();

}  // namespace mla::cpu

#endif  // MLA_KERNELS_CPU_ATTENTION_TILE_H_
