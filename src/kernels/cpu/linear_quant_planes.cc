#include "kernels/cpu/linear_quant_planes.h"

#if defined(__x86_64__)

#include "base/check.h"
#include "kernels/cpu/f8_codes.h"
#include "kernels/cpu/linear_quant_codes.h"

namespace mla::cpu {
namespace {

#if defined(__clang__)
#pragma clang attribute push(                                                                     \
    __attribute__((                                                                               \
        target("avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi,avx512vnni,gfni,avx512bf16,fma"))), \
    apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi,avx512vnni,gfni,avx512bf16,fma")
#endif

constexpr int64_t kStepElements = kPlanes * kPlaneElements;
constexpr int64_t kChunkSteps = kChunk / kPlaneDepth;
static_assert(kGroup == kPlaneDepth && kChunkSteps == kPlaneStepsMultiple);

inline int64_t Min(int64_t a, int64_t b) { return a < b ? a : b; }

// 32 weights of a row to both planes.
inline void StorePlanes(__m512 first, __m512 second, Bf16Bits* to) {
  const __m512i half = _mm512_set1_epi32(0x8000);
  const __m512i upper = _mm512_set1_epi32(static_cast<int>(0xffff0000));
  const __m512i a = _mm512_and_si512(_mm512_add_epi32(_mm512_castps_si512(first), half), upper);
  const __m512i b = _mm512_and_si512(_mm512_add_epi32(_mm512_castps_si512(second), half), upper);
  alignas(64) static constexpr uint16_t kUpperWords[32] = {
      1,  3,  5,  7,  9,  11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31,
      33, 35, 37, 39, 41, 43, 45, 47, 49, 51, 53, 55, 57, 59, 61, 63};
  _mm512_store_si512(to, _mm512_permutex2var_epi16(a, _mm512_load_si512(kUpperWords), b));
  const __m512bh rest = _mm512_cvtne2ps_pbh(_mm512_sub_ps(second, _mm512_castsi512_ps(b)),
                                            _mm512_sub_ps(first, _mm512_castsi512_ps(a)));
  _mm512_store_si512(to + kPlaneElements, reinterpret_cast<__m512i>(rest));
}

// Quarter q of 64 unsigned codes as numbers.
template <int q>
inline __m512 Quarter(__m512i codes) {
  return _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm512_extracti32x4_epi32(codes, q)));
}

inline __m512 Scaled(__m512 codes, const float* scale, const float* less) {
  return _mm512_fmsub_ps(codes, _mm512_set1_ps(*scale), _mm512_set1_ps(*less));
}

// The first `groups` groups of a whole chunk of a row of weights.
template <typename Codec>
inline void DecodeChunk(const typename Codec::Block* chunk, int64_t groups, Bf16Bits* to) {
  __m512 s[2];
  Codec::template Scales<true>(chunk, 16, s[0], s[1]);
  // A weight is its code times the scale less this, exact but for the minima of K blocks, the
  // difference from which their definition rounds, too.
  __m512 less[2] = {s[1], s[1]};
  if constexpr (Codec::kOffset != 0) {
    for (int i = 0; i < 2; ++i) less[i] = _mm512_mul_ps(s[i], _mm512_set1_ps(Codec::kOffset));
  }
  constexpr int kSecond = Codec::kHalves ? 1 : 0;
  alignas(64) float scales[2][16], offsets[2][16];
  for (int i = 0; i <= kSecond; ++i) {
    _mm512_store_ps(scales[i], s[i]);
    _mm512_store_ps(offsets[i], less[i]);
  }
#pragma GCC unroll 8
  for (int t = 0; t < 8; ++t) {
    const int g = 2 * t;
    if (g >= groups) break;
    const __m512i codes = Codec::Codes(chunk, t);
    StorePlanes(Scaled(Quarter<0>(codes), scales[0] + g, offsets[0] + g),
                Scaled(Quarter<1>(codes), scales[kSecond] + g, offsets[kSecond] + g),
                to + g * kStepElements);
    const int h = g + 1;
    if (h == groups) break;
    StorePlanes(Scaled(Quarter<2>(codes), scales[0] + h, offsets[0] + h),
                Scaled(Quarter<3>(codes), scales[kSecond] + h, offsets[kSecond] + h),
                to + h * kStepElements);
  }
}

template <typename Codec>
void DecodeBlocks(const Product& p, int64_t o, int64_t outs, int64_t begin, int64_t end,
                  Bf16Bits* to) {
  using Block = typename Codec::Block;
  constexpr int64_t kBlockSteps = Block::kElements / kPlaneDepth;
  PartialChunk<Block> partial;
  for (int64_t n = 0; n < outs; ++n) {
    const Block* row = static_cast<const Block*>(p.w) + (o + n) * (p.w_stride / Block::kElements);
    Bf16Bits* at = to + n * kPlaneDepth;
    for (int64_t step = begin; step < end; step += kChunkSteps) {
      const Block* chunk = row + step / kBlockSteps;
      // Of the row, which may go on behind the last step.
      const int64_t groups = Min(p.in / kPlaneDepth - step, kChunkSteps);
      if (groups < kChunkSteps) {
        partial.Fill(chunk, groups / kBlockSteps);
        chunk = partial.blocks;
      }
      DecodeChunk<Codec>(chunk, Min(groups, end - step), at + (step - begin) * kStepElements);
    }
  }
}

inline __m512 AsF32(__m256i bf16) {
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(bf16), 16));
}

void DecodeF8(const Product& p, int64_t o, int64_t outs, int64_t begin, int64_t end, Bf16Bits* to) {
  const F8Decoder decode;
  const BlockScales& s = p.w_scales;
  for (int64_t n = 0; n < outs; ++n) {
    const auto* codes = static_cast<const uint8_t*>(p.w) + (o + n) * p.w_stride;
    const float* scales = s.data + (s.row0 + o + n) / s.rows * s.stride;
    Bf16Bits* at = to + n * kPlaneDepth;
    // Scales begin at multiples of a step.
    int64_t index = (s.col0 + begin * kPlaneDepth) / s.cols;
    int64_t next = (index + 1) * s.cols - s.col0;
    for (int64_t step = begin; step < end; step += 2) {
      const int64_t k = step * kPlaneDepth;
      __m512bh both[2];
      decode(_mm512_maskz_loadu_epi8(FirstOf64(p.in - k), codes + k), both[0], both[1]);
      for (int64_t i = 0; i < 2 && step + i < end; ++i, at += kStepElements) {
        if (k + i * kPlaneDepth >= next) {
          ++index;
          next += s.cols;
        }
        const __m512 scale = _mm512_set1_ps(scales[index]);
        const auto bits = reinterpret_cast<__m512i>(both[i]);
        StorePlanes(_mm512_mul_ps(AsF32(_mm512_castsi512_si256(bits)), scale),
                    _mm512_mul_ps(AsF32(_mm512_extracti64x4_epi64(bits, 1)), scale), at);
      }
    }
  }
}

#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif

}  // namespace

void DecodePlanes(const Product& product, int64_t o, int64_t outs, int64_t begin, int64_t end,
                  uint16_t* to) {
  switch (product.w_dtype) {
    case DType::kF8E4M3: return DecodeF8(product, o, outs, begin, end, to);
    case DType::kQ8_0: return DecodeBlocks<Q8_0Codes>(product, o, outs, begin, end, to);
    case DType::kQ4_0: return DecodeBlocks<Q4_0Codes>(product, o, outs, begin, end, to);
    case DType::kQ5_0: return DecodeBlocks<Q5_0Codes>(product, o, outs, begin, end, to);
    case DType::kQ4_K: return DecodeBlocks<Q4_KCodes>(product, o, outs, begin, end, to);
    case DType::kQ5_K: return DecodeBlocks<Q5_KCodes>(product, o, outs, begin, end, to);
    case DType::kQ6_K: return DecodeBlocks<Q6_KCodes>(product, o, outs, begin, end, to);
    default: break;
  }
  MLA_CHECK(false, "no quantised weights: ", DTypeName(product.w_dtype));
}

}  // namespace mla::cpu

#endif  // __x86_64__
