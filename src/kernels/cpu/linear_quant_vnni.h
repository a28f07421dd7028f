// Matrix products with block-quantised weights in integers: the part of the quantised AVX-512
// kernels that deals with Q8_0, Q4_0, Q5_0, Q4_K, Q5_K and Q6_K. For x86-64 with AVX512_VNNI,
// AVX512_VBMI, AVX512_BF16 and GFNI only.
//
// Activations are rounded to bf16, and each group of 32 to 16-bit integers times a power of two:
// numbers down to 2^-7 of the group's largest exactly, smaller ones to 2^-15 of it. The product of
// a group is then an exact integer, whatever the order of its additions; it is scaled in fp32. So a
// kernel for one row of x, whose lanes run along `in`, and one for many, whose lanes are outputs,
// give the same bits as long as they add the groups in one order: groups g, g + 16, g + 32, ...
// form a chain for each g < 16, and the 16 sums are added in turn.
#ifndef MLA_KERNELS_CPU_LINEAR_QUANT_VNNI_H_
#define MLA_KERNELS_CPU_LINEAR_QUANT_VNNI_H_

#include <cstdint>

#include "kernels/cpu/linear_plan.h"

namespace mla::cpu {

// Where the forms of a packed row of x lie, in bytes from its begin. `stride`: its elements, whole
// groups. Integer i of group g is words[32 p + i] = 256 high[32 g + i] + low[32 g + i], where p is
// the group's place in the order of additions (see ChainOrder).
struct PackedQuantRow {
  static constexpr int64_t kElementSize = 7;  // half a byte is left over

  explicit PackedQuantRow(int64_t elements) : stride(elements) {}
  int64_t stride;

  int64_t bytes() const { return kElementSize * stride; }
  int64_t words() const { return 0; }            // int16_t [stride]
  int64_t high() const { return 2 * stride; }    // int8_t [stride]
  int64_t low() const { return 3 * stride; }     // int8_t [stride]
  int64_t scales() const { return 4 * stride; }  // float [groups]; NaN if x is not finite
  // The sums of each group: integers times the scale; integers; integers of its first half.
  int64_t sums() const { return scales() + stride / 8; }        // float [groups]
  int64_t integer_sums() const { return sums() + stride / 8; }  // int32_t [groups]
  int64_t first_sums() const { return integer_sums() + stride / 8; }
  // The bytes once more, by pieces (see Piece).
  int64_t high_pieces() const { return first_sums() + stride / 8; }  // int8_t [stride]
  int64_t low_pieces() const { return high_pieces() + stride; }      // int8_t [stride]

  // Where half `half` of a group lies among the pieces, which are 16 elements each. Of every eight
  // groups the first halves of those with even numbers come first, then their second halves, then
  // the same of the others: a vector holds what meets the low or the high halves of 64 bytes.
  int64_t Piece(int64_t group, int half) const {
    const int64_t begin = group / 8 * 8, left = stride / 32 - begin, count = left < 8 ? left : 8;
    const int64_t even = (count + 1) / 2, of_one_half = group % 2 == 0 ? even : count / 2;
    return 32 * begin + 16 * (group % 2 * 2 * even + half * of_one_half + group % 8 / 2);
  }
};

// The place of each group in the order of additions: the chain of g < 16 begins at Begin(g).
struct ChainOrder {
  explicit ChainOrder(int64_t groups) : each(groups / 16), longer(groups % 16) {}
  int64_t each, longer;  // the first `longer` chains have one group more

  int64_t Begin(int64_t chain) const { return chain * each + (chain < longer ? chain : longer); }
  int64_t Of(int64_t group) const { return Begin(group % 16) + group / 16; }
};

// LinearBackend::pack_rows of PackedQuantRow.
void PackQuantRows(const float* x, int64_t x_stride, int64_t rows, int64_t in, bool round,
                   void* packed, int64_t packed_stride);

// A block of a product whose weights are of a block type. `scratch`: 64-byte aligned.
void RunIntegerBlock(const ProductBlock& block, float* scratch);
int64_t IntegerScratchFloats(int64_t packed_stride, int64_t block_rows);

}  // namespace mla::cpu

#endif  // MLA_KERNELS_CPU_LINEAR_QUANT_VNNI_H_
