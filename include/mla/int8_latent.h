// The int8 latent: how a cache of DType::kI8 holds a token's [c_kv ; k_pe].
//
// A row is kv_lora_rank signed codes, an f32 scale for each group of 128 of them (the last group
// may have fewer), and k_pe in bf16; codes and k_pe are padded to multiples of 4 bytes. For 512 +
// 64 that is 656 bytes, where bf16 takes 1,152. Element i of c_kv is code[i] * scale[i / 128].
//
// Quantisation is symmetric, per token and group: with m the largest magnitude of the group,
//   scale = m / 127,  code = x * (127 / m) rounded to nearest, ties to even, products in fp32.
// A group whose m is below 2^-100 becomes zeros with scale 0. A group with an infinity or a NaN
// gets codes 0 and scale NaN: what attends to it is NaN, as with any other cache.
#ifndef MLA_INT8_LATENT_H_
#define MLA_INT8_LATENT_H_

#include <cstdint>

namespace mla {

struct Int8LatentLayout {
  static constexpr int32_t kGroup = 128;               // codes that share a scale
  static constexpr int64_t kAlignment = 4;             // of a row, in bytes
  static constexpr float kLeastMagnitude = 0x1p-100F;  // smaller groups are zeros

  int32_t kv_lora_rank = 0;
  int32_t qk_rope_head_dim = 0;

  constexpr int32_t groups() const { return (kv_lora_rank + kGroup - 1) / kGroup; }
  // Offsets in bytes from the beginning of a row, where the codes are.
  constexpr int64_t scales_offset() const { return (int64_t{kv_lora_rank} + 3) / 4 * 4; }
  constexpr int64_t rope_offset() const { return scales_offset() + 4 * int64_t{groups()}; }
  constexpr int64_t bytes() const {
    return rope_offset() + (int64_t{qk_rope_head_dim} + 1) / 2 * 4;
  }
};

static_assert(Int8LatentLayout{512, 64}.bytes() == 656);

}  // namespace mla

#endif  // MLA_INT8_LATENT_H_
