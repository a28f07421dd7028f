// Absorbed attention over int8 latents with integer dot products (AVX512_VNNI).
//
// The codes are used as they lie in the cache. What meets them is quantised too, by the tile:
//   scores   q of a row and group of 128 channels: signed numbers of 15 bits and a sign, hi * 256 +
//            lo. Their products with codes are a sum over the high bytes, shifted, then over the
//            low ones: exact in 32 bits. Codes have 128 added, as the instruction multiplies
//            unsigned by signed bytes; 128 * (sum of q) is taken off again. The rope part is a
//            bf16 dot product.
//   outputs  softmax weight * scale of the value's group, relative to the largest of the row, group
//            and tile: unsigned bytes (SageAttention, arXiv:2410.02367, section 4.3, has signed
//            ones relative to 1). The largest of 64 keys is seldom far above the others, so this
//            adds less to the error than the cache's own codes do; a second byte would take it away
//            at the cost of all that is gained over bf16 (bench/NOTES.md).
#ifndef MLA_KERNELS_CPU_ATTENTION_INT8_H_
#define MLA_KERNELS_CPU_ATTENTION_INT8_H_

#include <cstdint>

#include "kernels/cpu/attention_driver.h"
#include "kernels/cpu/attention_tile.h"
#include "mla/int8_latent.h"

namespace mla::cpu {

inline constexpr int kQueryDigits = 2;  // bytes of a quantised query

// The sizes of packed operands. A step of a product is 4 bytes of the summed axis for the codes, 2
// bf16 for the rope part; panels have 32 columns, so that a step of a panel has 128 bytes.
struct Int8Shape {
  static constexpr int64_t kPanel = 32;
  static constexpr int64_t kStepBytes = 4 * kPanel;

  explicit Int8Shape(const Int8LatentLayout& latent)
      : layout(latent),
        groups(latent.groups()),
        code_steps((latent.kv_lora_rank + 3) / 4),
        rope_steps((latent.qk_rope_head_dim + 1) / 2),
        code_stride((int64_t{latent.kv_lora_rank} + 63) / 64 * 64),
        rope_stride((int64_t{latent.qk_rope_head_dim} + 31) / 32 * 32) {}

  Int8LatentLayout layout;
  int32_t groups;
  int32_t code_steps;
  int32_t rope_steps;
  int64_t code_stride;  // bytes of a row of query digits; floats of a row of outputs
  int64_t rope_stride;  // bf16 of a row of q_pe
};

// A tile of query rows.
struct Int8Queries {
  int8_t* digits;    // [kQueryDigits, kRowTile, code_stride], high bytes first
  int32_t* offsets;  // [kRowTile, groups]: -128 * (sum of the quantised numbers)
  float* scales;     // [kRowTile, groups]
  uint16_t* rope;    // [kRowTile, rope_stride]
};

// A tile of keys, which are the values too.
struct Int8Keys {
  uint8_t* codes;  // for the scores: 2 panels of code_steps steps; codes + 128
  uint16_t* rope;  // 2 panels of rope_steps steps
  int8_t* values;  // for the outputs: code_stride / 32 panels of kKeyTile / 4 steps
  float* scales;   // [groups, kKeyTile]; 0 past the last key
};

// The softmax weights of a tile.
struct Int8Weights {
  uint8_t* bytes;  // [groups, kRowTile, kKeyTile]
  float* scales;   // [kRowTile, groups]
};

// Row `row` of the tile from kv_lora_rank + qk_rope_head_dim floats. A group that is not finite
// gets a scale of NaN.
void Int8LoadQuery(const Int8Shape& shape, const float* q, int32_t row, const Int8Queries& queries);
// rows[i]: int8 latents, num_rows <= kKeyTile.
void Int8PackKeys(const Int8Shape& shape, const void* const* rows, int32_t num_rows,
                  const Int8Keys& keys);
// s[i, j] = q_i . k_j; s is [kRowTile, kKeyTile]. The first part of `ahead` is asked for here, the
// rest by Int8Outputs.
void Int8Scores(const Int8Shape& shape, const Int8Queries& queries, const Int8Keys& keys,
                int32_t rows, float* s, const RowsAhead& ahead);
// The online softmax; tile.p is not used.
void Int8Softmax(const Int8Shape& shape, const SoftmaxTile& tile, const Int8Keys& keys,
                 const Int8Weights& weights);
// o = alpha o + weights * values; o is [kRowTile, code_stride].
void Int8Outputs(const Int8Shape& shape, const Int8Weights& weights, const Int8Keys& keys,
                 int32_t rows, const float* alpha, float* o, const RowsAhead& ahead);

// Requires UsesAvx512Vnni() and a cache of int8 latents with d_v of problem as their kv_lora_rank.
// Scratch memory: per thread about kRowTile * (2 d_k + 6 d_v) + 2 kKeyTile * d_k bytes; beside it
// the partial results of AttendPaged.
void AttendInt8(const AttentionProblem& problem, const CacheRows& cache, const Context& context);

}  // namespace mla::cpu

#endif  // MLA_KERNELS_CPU_ATTENTION_INT8_H_
