// Products of bf16 or FP8 weights with many rows of x. For x86-64 with AVX512_BF16 only.
//
// To the bit what the dot forms of linear_avx512_bf16.cc and, for FP8, linear_quant_avx512_bf16.cc
// compute for one row: 16 sums along k, the l-th over the pairs of elements l of every 32, added up
// by the tree of SumLanes. There the 16 are the lanes of a vector; here lanes are outputs and the
// 16 are computed one or two at a time, so that nothing is added across lanes. Both operands are
// copied first, ordered by sum: the weights of 32 outputs at a time, and the rows of the block.
#ifndef MLA_KERNELS_CPU_LINEAR_BF16_MANY_H_
#define MLA_KERNELS_CPU_LINEAR_BF16_MANY_H_

#include <cstdint>

#include "kernels/cpu/linear_plan.h"

namespace mla::cpu {

// The part of a row of FP8 weights whose products share a scale: a chain of dot products, whose 16
// sums are then scaled and added to those of the runs before. Begins at a multiple of 32.
struct ScaleRun {
  explicit ScaleRun(const Product& p)
      : cols(p.w_scales.cols), in(p.in), index(p.w_scales.col0 / cols) {
    end = EndOf((index + 1) * cols - p.w_scales.col0);
  }
  bool exists() const { return begin < in; }
  void Next() {
    begin = end;
    ++index;
    end = EndOf(begin + cols);
  }

  int64_t cols, in;
  int64_t begin = 0, end, index;  // `index`: of the scale, in a row of scales

 private:
  int64_t EndOf(int64_t k) const { return k < in ? k : in; }
};

// With fewer rows of bf16 the copies take longer than they save.
inline constexpr int64_t kMinManyRows = 24;
// Whether a product of bf16 weights has as many, and weights contiguous along `in`.
bool HasManyRowsBf16(const Product& product);

// LinearBackend::tile_rows and pack_tile for both; rows of x bf16, padded with zeros to a multiple
// of 32.
inline constexpr int64_t kManyTileRows = 12;
void PackManyRowsTile(const Product& product, int64_t tile, void* to);

// For products with x_tiles. `scratch`: ManyRowsScratchFloats(packed_stride), 64-byte aligned.
void RunManyRowsBf16(const ProductBlock& block, float* scratch);

// Writes elements [k, k + count) of rows [o, o + 16) as bf16 to `to`, [16, kDecodedColumns]. Of the
// rows `outs` exist; the last stands for the others.
using DecodeWeights = void (*)(const Product& product, int64_t o, int64_t outs, int64_t k,
                               int64_t count, uint16_t* to);
inline constexpr int64_t kDecodedColumns = 256;

// The same for weights that `decode` reads, with the scales of the product.
void RunManyRowsScaled(const ProductBlock& block, DecodeWeights decode, float* scratch);

int64_t ManyRowsScratchFloats(int64_t packed_stride);

}  // namespace mla::cpu

#endif  // MLA_KERNELS_CPU_LINEAR_BF16_MANY_H_
