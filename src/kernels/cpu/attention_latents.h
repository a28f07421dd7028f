// Absorbed attention over cached latents, with query rows as the lanes of a vector.
//
// A latent is key and value of every head, so many rows (query tokens x heads) meet it: 16 of them
// are a group, one to a lane. Nothing of the cache is packed or transposed for it:
//   scores   Sums over steps of packed queries times a few elements of a key, broadcast from where
//            they lie in the cache. The online softmax of a group needs no sums across lanes.
//   outputs  Have the latent's elements as lanes. Two rows of bf16, or four of codes, are put in
//            pairs or fours in registers, before the dot products that add up over tokens.
#ifndef MLA_KERNELS_CPU_ATTENTION_LATENTS_H_
#define MLA_KERNELS_CPU_ATTENTION_LATENTS_H_

#include <cstdint>

#include "kernels/cpu/attention_driver.h"
#include "kernels/cpu/attention_tile.h"
#include "mla/int8_latent.h"

namespace mla::cpu {

inline constexpr int32_t kGroupRows = 16;                      // query rows of a group
inline constexpr int32_t kTileGroups = kRowTile / kGroupRows;  // groups of a tile

// A tile of up to kRowTile query rows, in memory of one thread. Groups are packed one after the
// other, each in as many bytes as LatentKernels say.
struct LatentTile {
  int32_t rows;
  char* queries;   // [groups] packed
  float* scores;   // [groups, kKeyTile, kGroupRows]: scores, then softmax weights
  char* weights;   // [groups] packed
  char* scratch;   // as many bytes as LatentKernels say
  float* outputs;  // [rows, output_stride] in the kernels' order; not yet divided by the sum. There
                   // is memory for whole groups, whose further rows may be written to
  int64_t output_stride;
  float* max;        // [kRowTile] of score * scale * log2(e); -inf at first
  float* sum;        // [kRowTile]
  float* alpha;      // [kRowTile]: factor of a tile of keys for the outputs so far
  int32_t* visible;  // [kRowTile]: the first keys of a tile that the row sees; 0 past `rows`

  int32_t groups() const { return (rows + kGroupRows - 1) / kGroupRows; }
};

// What an instruction set provides for one type of cache. `dims` has the sizes of a latent, in
// whatever type it is cached.
struct LatentKernels {
  int32_t output_pad;  // outputs of a row are padded to a multiple of it
  // How many keys are asked for during the tile before them. With those of two tiles each is asked
  // for twice: the processor drops a request now and then.
  int32_t keys_ahead;
  // Of a packed group: multiples of 64.
  int64_t (*query_bytes)(const Int8LatentLayout& dims);
  int64_t (*weight_bytes)(const Int8LatentLayout& dims);
  int64_t (*row_bytes)(const Int8LatentLayout& dims);  // of a latent
  // Packs a group; rows[i] has kv_lora_rank + qk_rope_head_dim floats. Lanes past `count` are 0.
  void (*load_queries)(const Int8LatentLayout& dims, const float* const* rows, int32_t count,
                       char* queries);
  // Attends with the tile to latents[0, keys), keys in 1 to kKeyTile. Reads nothing past the
  // latents. Asks for `ahead` on the way.
  void (*attend)(const Int8LatentLayout& dims, const LatentTile& tile, const void* const* latents,
                 int32_t keys, float scale_log2, const RowsAhead& ahead);
  // The outputs of a row times `factor`, in their natural order.
  void (*write_row)(const float* outputs, float factor, int32_t d_v, float* out);
  // Memory that attend() may write to, of a thread: a multiple of 64. Null: none.
  int64_t (*scratch_bytes)(const Int8LatentLayout& dims) = nullptr;
};

// Scratch memory: per thread about kRowTile * (2 d_k + 4 d_v) bytes, 40 KiB and what the kernels
// ask for; beside it the partial results of AttendPaged. kv_heads of the problem is 1, values are
// the first d_v = kv_lora_rank elements.
void AttendLatents(const LatentKernels& kernels, const AttentionProblem& problem,
                   const CacheRows& cache, const Context& context);

// Requires UsesAvx512Bf16() and a bf16 cache.
LatentKernels Bf16LatentKernels();
// As AttendLatents, with these kernels or, for an int8 cache, those of Avx512Bf16TileKernels().
void AttendLatentsInBf16(const AttentionProblem& problem, const CacheRows& cache,
                         const Context& context);

// Requires UsesAmxBf16() and a bf16 cache. Scratch memory: 64 d_k + 8 KiB.
LatentKernels AmxLatentKernels();

// Requires UsesAvx512Vnni() and a cache of int8 latents.
//
// The codes are used as they lie in the cache. What meets them is quantised too, by the tile:
//   scores   q of a row and group of 128 channels: signed bytes, the largest of magnitude 127.
//            Codes have 128 added, as the instruction multiplies unsigned by signed bytes, and 128
//            * (sum of q) is taken off again: exact in 32 bits. This adds as much to the error as
//            the codes of the keys do; a second byte would double the products. The rope part is a
//            bf16 dot product.
//   outputs  softmax weight * scale of the value's group, relative to the largest of the row, group
//            and tile: unsigned bytes (SageAttention, arXiv:2410.02367, section 4.3, has signed
//            ones relative to 1). The largest of 64 keys is seldom far above the others, so this
//            adds less to the error than the cache's own codes do; a second byte would take it away
//            at the cost of all that is gained over bf16 (bench/NOTES.md).
LatentKernels Int8LatentKernels();

}  // namespace mla::cpu

#endif  // MLA_KERNELS_CPU_ATTENTION_LATENTS_H_
