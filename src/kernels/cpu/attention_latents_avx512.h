// What the latent kernels in AVX-512 intrinsics share. For x86-64 only; call these from functions
// that are compiled for the same instructions.
#ifndef MLA_KERNELS_CPU_ATTENTION_LATENTS_AVX512_H_
#define MLA_KERNELS_CPU_ATTENTION_LATENTS_AVX512_H_

#include "kernels/cpu/attention_avx512.h"
// After attention_avx512.h.
#include "kernels/cpu/attention_latents.h"

namespace mla::cpu {
// Each file has its own copy: code for AVX-512 must not be shared through the linker.
namespace {  // NOLINT(google-build-namespaces)

#if defined(__clang__)
#pragma clang attribute push(                                                          \
    __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,avx2,fma"))), \
    apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,avx2,fma")
#endif

inline constexpr int kKeyBlock = 8;   // keys whose scores are in registers at a time
inline constexpr int kHalfGroup = 8;  // rows that half a vector holds
inline constexpr int64_t kScoresOfGroup = int64_t{kKeyTile} * kGroupRows;

// acc += a . b by pairs of bf16. Written in assembly, as are the other dot products: GCC 12 keeps
// many accumulators of the intrinsics in memory.
inline void DotPairs(__m512& acc, __m512i a, __m512i b) {
  __asm__("vdpbf16ps %2, %1, %0" : "+v"(acc) : "v"(a), "v"(b));
}
inline void DotPairs(__m256& acc, __m256i a, __m256i b) {
  __asm__("vdpbf16ps %2, %1, %0" : "+v"(acc) : "v"(a), "v"(b));
}

// Vectors of a group, and of half of one: where half the lanes would be empty.
struct WholeGroup {
  using Float = __m512;
  using Int = __m512i;
  static Float Zero() { return _mm512_setzero_ps(); }
  static Int Load(const void* p) { return _mm512_load_si512(p); }
  static Int Broadcast(const void* p) {
    int32_t word;
    __builtin_memcpy(&word, p, sizeof(word));
    return _mm512_set1_epi32(word);
  }
  static Int BroadcastHalf(const void* p) {  // one bf16 and 0
    uint16_t half;
    __builtin_memcpy(&half, p, sizeof(half));
    return _mm512_set1_epi32(half);
  }
  static __m512 Widen(Float x) { return x; }
  static __m512i Widen(Int x) { return x; }
};
struct HalfGroup {
  using Float = __m256;
  using Int = __m256i;
  static Float Zero() { return _mm256_setzero_ps(); }
  static Int Load(const void* p) { return _mm256_load_si256(static_cast<const __m256i*>(p)); }
  static Int Broadcast(const void* p) {
    int32_t word;
    __builtin_memcpy(&word, p, sizeof(word));
    return _mm256_set1_epi32(word);
  }
  static Int BroadcastHalf(const void* p) {
    uint16_t half;
    __builtin_memcpy(&half, p, sizeof(half));
    return _mm256_set1_epi32(half);
  }
  static __m512 Widen(Float x) { return _mm512_zextps256_ps512(x); }
  static __m512i Widen(Int x) { return _mm512_zextsi256_si512(x); }
};

// Stores columns [0, n) of a transposed block, `stride` bytes apart.
inline void StoreColumns(const __m512i (&r)[16], int32_t n, char* to, int64_t stride) {
#pragma GCC unroll 16
  for (int i = 0; i < 16; ++i) {
    if (i < n) _mm512_store_si512(to + i * stride, r[i]);
  }
}

// Packs `n` floats of each row as pairs of bf16, the last with a 0 if n is odd: [pairs,
// kGroupRows].
inline void PackPairs(const float* const* rows, int32_t count, int32_t offset, int32_t n,
                      char* to) {
  constexpr int64_t kBytes = sizeof(__m512i);
  for (int32_t begin = 0; begin < n; begin += 2 * kLanes, to += kLanes * kBytes) {
    const int32_t left = n - begin;
    __m512i r[16];
#pragma GCC unroll 16
    for (int i = 0; i < 16; ++i) {
      if (i >= count) {
        r[i] = _mm512_setzero_si512();
        continue;
      }
      const float* from = rows[i] + offset + begin;
      r[i] = (__m512i)_mm512_cvtne2ps_pbh(
          _mm512_maskz_loadu_ps(FirstOf16(left - kLanes), from + kLanes),
          _mm512_maskz_loadu_ps(FirstOf16(left), from));
    }
    Transpose16(r);
    StoreColumns(r, (left + 1) / 2, to, kBytes);
  }
}

// The online softmax of a group: scores become weights, 0 where not visible and up to the next
// multiple of 4 keys.
inline void SoftmaxOfGroup(const LatentTile& tile, int32_t group, int32_t keys, float scale_log2) {
  float* s = tile.scores + group * kScoresOfGroup;
  const int32_t lane = group * kGroupRows;
  const __m512i visible = _mm512_load_si512(tile.visible + lane);
  const __m512 scale = _mm512_set1_ps(scale_log2);
  const __m512 lowest = _mm512_set1_ps(kLowest);
  __m512 tile_max = lowest;
  __mmask16 nan = 0;
  for (int32_t t = 0; t < keys; ++t) {
    const __mmask16 seen = _mm512_cmpgt_epi32_mask(visible, _mm512_set1_epi32(t));
    const __m512 x = _mm512_mask_mul_ps(lowest, seen, _mm512_load_ps(s + t * kGroupRows), scale);
    _mm512_store_ps(s + t * kGroupRows, x);
    tile_max = _mm512_max_ps(x, tile_max);  // in this order a NaN is not taken
    nan |= _mm512_cmp_ps_mask(x, x, _CMP_UNORD_Q);
  }
  const __m512 old_max = _mm512_load_ps(tile.max + lane);
  __m512 max = _mm512_max_ps(tile_max, old_max);
  // As NextMax: a row of nothing but NaNs gets 0, so that its sum becomes NaN.
  const __mmask16 none = _mm512_cmp_ps_mask(max, lowest, _CMP_EQ_OQ);
  max = _mm512_mask_mov_ps(max, none & nan, _mm512_setzero_ps());
  const __mmask16 alive = ~(none & ~nan);
  __m512 sum = _mm512_setzero_ps();
  for (int32_t t = 0; t < keys; ++t) {
    const __mmask16 seen = _mm512_mask_cmpgt_epi32_mask(alive, visible, _mm512_set1_epi32(t));
    const __m512 x = _mm512_load_ps(s + t * kGroupRows);
    const __m512 weight = _mm512_maskz_mov_ps(seen, Exp2(_mm512_sub_ps(x, max)));
    _mm512_store_ps(s + t * kGroupRows, weight);
    sum = _mm512_add_ps(sum, weight);
  }
  for (int32_t t = keys; t % 4 != 0; ++t) _mm512_store_ps(s + t * kGroupRows, _mm512_setzero_ps());
  // 1 where nothing was seen yet or no maximum is new, 0 where this is the first that was seen.
  const __mmask16 changed = _mm512_cmp_ps_mask(old_max, max, _CMP_NEQ_UQ);
  const __mmask16 first = _mm512_cmp_ps_mask(old_max, lowest, _CMP_EQ_OQ);
  const __m512 alpha =
      _mm512_mask_mov_ps(_mm512_set1_ps(1.0f), changed,
                         _mm512_maskz_mov_ps(~first, Exp2(_mm512_sub_ps(old_max, max))));
  _mm512_store_ps(tile.alpha + lane, alpha);
  _mm512_store_ps(tile.sum + lane, _mm512_fmadd_ps(_mm512_load_ps(tile.sum + lane), alpha, sum));
  _mm512_store_ps(tile.max + lane, max);
}

// Asks for the lines of rows that will be needed next, a few at a time: the processor tracks only
// so many requests, and with more of them the loads that follow have to wait.
class LinesAhead {
 public:
  // `calls` of Ask() ask for them all.
  LinesAhead(const RowsAhead& ahead, int32_t calls)
      : row_(ahead.rows),
        end_(ahead.rows + ahead.num_rows),
        bytes_(ahead.bytes),
        burst_((ahead.num_rows * ((ahead.bytes + kLineBytes - 1) / kLineBytes) + calls - 1) /
               calls) {}

  inline void Ask() {
    for (int32_t i = 0; i < burst_ && row_ != end_; ++i) {
      const char* address = static_cast<const char*>(*row_) + at_;
      __builtin_prefetch(address, 0, 2);
      // GCC takes a function that does nothing but prefetch for one without effect.
      __asm__ volatile("" : : "r"(address));
      at_ += kLineBytes;
      if (at_ >= bytes_) {
        at_ = 0;
        ++row_;
      }
    }
  }

 private:
  static constexpr int32_t kLineBytes = 64;
  const void* const* row_;
  const void* const* end_;
  int32_t bytes_;
  int32_t burst_;
  int32_t at_ = 0;
};
inline constexpr int kStepsPerAsk = 16;  // of a product, between two calls of LinesAhead::Ask()

// The block of keys from `first` on; past the end the last one again.
inline void KeysOfBlock(const void* const* latents, int32_t first, int32_t keys,
                        const char* (&block)[kKeyBlock]) {
  for (int t = 0; t < kKeyBlock; ++t) {
    block[t] = static_cast<const char*>(latents[first + t < keys ? first + t : keys - 1]);
  }
}

// Rows of a group that exist.
inline int32_t RowsOfGroup(const LatentTile& tile, int32_t group) {
  const int32_t left = tile.rows - group * kGroupRows;
  return left < kGroupRows ? left : kGroupRows;
}

#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif

}  // namespace
}  // namespace mla::cpu

#endif  // MLA_KERNELS_CPU_ATTENTION_LATENTS_AVX512_H_
