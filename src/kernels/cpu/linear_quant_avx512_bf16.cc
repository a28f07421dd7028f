// Matrix products with quantised weights through VDPBF16PS, activations rounded to bf16.
//
// The codes of every type are small integers or 8-bit floats, exact in bf16. A group of 32 products
// is one dot-product instruction on codes, whose 16 partial sums are then scaled and added in fp32:
// weights take part with their exact values. Four rows of weights are decoded a panel at a time
// into the L1 cache, for however many rows of x there are, and an output is summed in one order
// whatever the tile it falls into.
#include "kernels/cpu/isa.h"
#include "kernels/cpu/linear.h"
#include "kernels/cpu/linear_driver.h"
#include "tensor/quant_blocks.h"

#if defined(__x86_64__)

#include "kernels/cpu/avx512_bf16.h"

namespace mla::cpu {
namespace {

constexpr int64_t kPanel = 1024;  // elements of a row decoded at a time; whole blocks of any type
constexpr int64_t kGroup = 32;
constexpr int64_t kPanelGroups = kPanel / kGroup;
constexpr int kOuts = 4;

// A panel of four rows of weights, decoded. Element i of group g is codes[32 g + i] times
// scales[2 g + i / 16], minus mins[g].
struct DecodedRow {
  Bf16Bits codes[kPanel];
  float scales[2 * kPanelGroups];
  float mins[kPanelGroups];
};
struct Scratch {
  DecodedRow rows[kOuts];
  // Then: accumulators [LinearPlan::kMaxBlockRows, kOuts, 16] and, per row of the block, the sums
  // of x over each group, whole vectors of them.
};
constexpr int64_t kScratchFloats = sizeof(Scratch) / sizeof(float);
constexpr int64_t kAccFloats = LinearPlan::kMaxBlockRows * kOuts * 16;
static_assert(sizeof(Scratch) % 64 == 0);

#if defined(__clang__)
#pragma clang attribute push(                                                     \
    __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,fma"))), \
    apply_to = function)
#else
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#pragma GCC push_options
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,fma")
#endif

inline int64_t Min(int64_t a, int64_t b) { return a < b ? a : b; }

inline __m512i Load32Bytes(const void* p) {  // as 32 words
  return _mm512_cvtepu8_epi16(_mm256_loadu_si256(static_cast<const __m256i*>(p)));
}
inline void StoreCodes(Bf16Bits* to, __m512i codes) { _mm512_store_si512(to, codes); }

// bf16 of the integers first, first + 1, ..., first + 31.
inline __m512i IntegerTable(int first) {
  const __m512i low =
      _mm512_add_epi32(_mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15),
                       _mm512_set1_epi32(first));
  const __m512i high = _mm512_add_epi32(low, _mm512_set1_epi32(16));
  return reinterpret_cast<__m512i>(
      _mm512_cvtne2ps_pbh(_mm512_cvtepi32_ps(high), _mm512_cvtepi32_ps(low)));
}

inline float HalfToF32(uint16_t half) {
  return _mm512_cvtss_f32(_mm512_cvtph_ps(_mm256_castsi128_si256(_mm_cvtsi32_si128(half))));
}

inline void SetScale(DecodedRow& row, int64_t group, float scale) {
  row.scales[2 * group] = row.scales[2 * group + 1] = scale;
}

// 16 bytes as 32 words of four bits: first the low halves, then the high halves.
inline __m512i HalvesOf16Bytes(const uint8_t* p) {
  const __m256i bytes = _mm256_cvtepu8_epi16(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
  const __m512i both =
      _mm512_inserti64x4(_mm512_castsi256_si512(bytes), _mm256_srli_epi16(bytes, 4), 1);
  return _mm512_and_si512(both, _mm512_set1_epi16(15));
}

// The following decode `count` elements, whole blocks, into groups from 0 on.
void Decode(const Q8_0Block* from, int64_t count, DecodedRow& row) {
  for (int64_t g = 0; g < count / kGroup; ++g) {
    const auto* codes = reinterpret_cast<const __m128i*>(from[g].codes);
    const __m512 low = _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(codes)));
    const __m512 high = _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(codes + 1)));
    StoreCodes(row.codes + kGroup * g, reinterpret_cast<__m512i>(_mm512_cvtne2ps_pbh(high, low)));
    SetScale(row, g, HalfToF32(from[g].d));
  }
}

void Decode(const Q4_0Block* from, int64_t count, DecodedRow& row) {
  const __m512i table = IntegerTable(-8);
  for (int64_t g = 0; g < count / kGroup; ++g) {
    const __m512i codes = HalvesOf16Bytes(from[g].codes);
    StoreCodes(row.codes + kGroup * g, _mm512_permutexvar_epi16(codes, table));
    SetScale(row, g, HalfToF32(from[g].d));
  }
}

void Decode(const Q5_0Block* from, int64_t count, DecodedRow& row) {
  const __m512i table = IntegerTable(-16);
  for (int64_t g = 0; g < count / kGroup; ++g) {
    const __m512i low = HalvesOf16Bytes(from[g].codes);
    uint32_t high;
    __builtin_memcpy(&high, from[g].high, sizeof(high));
    const __m512i codes = _mm512_mask_add_epi16(low, high, low, _mm512_set1_epi16(16));
    StoreCodes(row.codes + kGroup * g, _mm512_permutexvar_epi16(codes, table));
    SetScale(row, g, HalfToF32(from[g].d));
  }
}

// Scales and minima of the eight groups of a Q4_K or Q5_K block.
template <typename Block>
inline void DecodeKScales(const Block& block, int64_t group, DecodedRow& row) {
  const float d = HalfToF32(block.d), d_min = HalfToF32(block.d_min);
  const KScales s = UnpackKScales(block.scales);
  for (int r = 0; r < 8; ++r) {
    SetScale(row, group + r, d * s.scale[r]);
    row.mins[group + r] = d_min * s.min[r];
  }
}

// The four-bit parts of groups 2 c and 2 c + 1.
inline void LoadKHalves(const uint8_t* codes, __m512i& first, __m512i& second) {
  const __m512i bytes = Load32Bytes(codes);
  first = _mm512_and_si512(bytes, _mm512_set1_epi16(15));
  second = _mm512_srli_epi16(bytes, 4);
}

void Decode(const Q4_KBlock* from, int64_t count, DecodedRow& row) {
  const __m512i table = IntegerTable(0);
  for (int64_t b = 0; b < count / 256; ++b) {
    DecodeKScales(from[b], 8 * b, row);
    Bf16Bits* to = row.codes + 256 * b;
    for (int c = 0; c < 4; ++c) {
      __m512i first, second;
      LoadKHalves(from[b].codes + 32 * c, first, second);
      StoreCodes(to + 64 * c, _mm512_permutexvar_epi16(first, table));
      StoreCodes(to + 64 * c + 32, _mm512_permutexvar_epi16(second, table));
    }
  }
}

void Decode(const Q5_KBlock* from, int64_t count, DecodedRow& row) {
  const __m512i table = IntegerTable(0);
  const __m512i sixteen = _mm512_set1_epi16(16);
  for (int64_t b = 0; b < count / 256; ++b) {
    DecodeKScales(from[b], 8 * b, row);
    Bf16Bits* to = row.codes + 256 * b;
    const __m512i high = Load32Bytes(from[b].high);
    for (int c = 0; c < 4; ++c) {
      __m512i first, second;
      LoadKHalves(from[b].codes + 32 * c, first, second);
      const auto bit = static_cast<int16_t>(1 << (2 * c));
      const __mmask32 first_high = _mm512_test_epi16_mask(high, _mm512_set1_epi16(bit));
      const __mmask32 second_high =
          _mm512_test_epi16_mask(high, _mm512_set1_epi16(static_cast<int16_t>(2 * bit)));
      first = _mm512_mask_add_epi16(first, first_high, first, sixteen);
      second = _mm512_mask_add_epi16(second, second_high, second, sixteen);
      StoreCodes(to + 64 * c, _mm512_permutexvar_epi16(first, table));
      StoreCodes(to + 64 * c + 32, _mm512_permutexvar_epi16(second, table));
    }
  }
}

void Decode(const Q6_KBlock* from, int64_t count, DecodedRow& row) {
  const __m512i negative = IntegerTable(-32), positive = IntegerTable(0);
  const __m512i two_bits = _mm512_set1_epi16(0x30);
  for (int64_t b = 0; b < count / 256; ++b) {
    const float d = HalfToF32(from[b].d);
    for (int i = 0; i < 16; ++i) row.scales[16 * b + i] = d * from[b].scales[i];
    for (int half = 0; half < 2; ++half) {
      Bf16Bits* to = row.codes + 256 * b + 128 * half;
      const __m512i high = Load32Bytes(from[b].high + 32 * half);
      __m512i run[4];
      LoadKHalves(from[b].low + 64 * half, run[0], run[2]);
      LoadKHalves(from[b].low + 64 * half + 32, run[1], run[3]);
      const __m512i upper[4] = {_mm512_slli_epi16(high, 4), _mm512_slli_epi16(high, 2), high,
                                _mm512_srli_epi16(high, 2)};
#pragma GCC unroll 4
      for (int r = 0; r < 4; ++r) {
        const __m512i code = _mm512_or_si512(run[r], _mm512_and_si512(upper[r], two_bits));
        StoreCodes(to + 32 * r, _mm512_permutex2var_epi16(negative, code, positive));
      }
    }
  }
}

// 32 numbers in e4m3, exactly as bf16.
inline __m512i F8ToBf16(__m512i bits, __m512i subnormals) {
  const __m512i magnitude = _mm512_and_si512(bits, _mm512_set1_epi16(0x7f));
  __m512i v = _mm512_add_epi16(_mm512_slli_epi16(magnitude, 4), _mm512_set1_epi16(120 << 7));
  const __mmask32 is_subnormal = _mm512_testn_epi16_mask(bits, _mm512_set1_epi16(0x78));
  v = _mm512_mask_permutexvar_epi16(v, is_subnormal, magnitude, subnormals);
  const __mmask32 is_nan = _mm512_cmpeq_epi16_mask(magnitude, _mm512_set1_epi16(0x7f));
  v = _mm512_mask_mov_epi16(v, is_nan, _mm512_set1_epi16(0x7fc0));
  const __m512i sign = _mm512_slli_epi16(_mm512_and_si512(bits, _mm512_set1_epi16(0x80)), 8);
  return _mm512_or_si512(v, sign);
}

// Elements [k, k + count) of row o of a weight in F8E4M3; `count` need not be whole groups.
void DecodeF8(const Product& p, int64_t o, int64_t k, int64_t count, DecodedRow& row) {
  const uint8_t* from = static_cast<const uint8_t*>(p.w) + o * p.w_stride + k;
  const __m512 eighths = _mm512_mul_ps(
      _mm512_setr_ps(0, 1, 2, 3, 4, 5, 6, 7, 0, 0, 0, 0, 0, 0, 0, 0), _mm512_set1_ps(0x1p-9f));
  const __m512i subnormals =
      reinterpret_cast<__m512i>(_mm512_cvtne2ps_pbh(_mm512_setzero_ps(), eighths));
  const BlockScales& s = p.w_scales;
  const float* scales = s.data + (s.row0 + o) / s.rows * s.stride;
  for (int64_t i = 0; i < count; i += kGroup) {
    const int64_t left = count - i;
    const __mmask32 mask = left >= kGroup ? ~__mmask32{0} : (__mmask32{1} << left) - 1;
    const __m512i bits = _mm512_cvtepu8_epi16(_mm256_maskz_loadu_epi8(mask, from + i));
    StoreCodes(row.codes + i, F8ToBf16(bits, subnormals));
    SetScale(row, i / kGroup, scales[(s.col0 + k + i) / s.cols]);
  }
}

void DecodeBf16(const Bf16Bits* from, int64_t count, DecodedRow& row) {
  for (int64_t i = 0; i < count; i += kGroup) {
    const int64_t left = count - i;
    const __mmask32 mask = left >= kGroup ? ~__mmask32{0} : (__mmask32{1} << left) - 1;
    StoreCodes(row.codes + i, _mm512_maskz_loadu_epi16(mask, from + i));
    SetScale(row, i / kGroup, 1);
  }
}

// Elements [k, k + count) of row o, of whatever type.
void DecodePanel(const Product& p, int64_t o, int64_t k, int64_t count, DecodedRow& row) {
  if (p.w_dtype == DType::kF8E4M3) return DecodeF8(p, o, k, count, row);
  const void* from = static_cast<const char*>(p.w) + RowBytes(p.w_dtype, o * p.w_stride + k);
  switch (p.w_dtype) {
    case DType::kBF16: return DecodeBf16(static_cast<const Bf16Bits*>(from), count, row);
    case DType::kQ8_0: return Decode(static_cast<const Q8_0Block*>(from), count, row);
    case DType::kQ4_0: return Decode(static_cast<const Q4_0Block*>(from), count, row);
    case DType::kQ5_0: return Decode(static_cast<const Q5_0Block*>(from), count, row);
    case DType::kQ4_K: return Decode(static_cast<const Q4_KBlock*>(from), count, row);
    case DType::kQ5_K: return Decode(static_cast<const Q5_KBlock*>(from), count, row);
    case DType::kQ6_K: return Decode(static_cast<const Q6_KBlock*>(from), count, row);
    default: break;
  }
}

bool HasMins(DType dtype) { return dtype == DType::kQ4_K || dtype == DType::kQ5_K; }

// One panel of the products of a block with outputs [o, o + outs).
struct Panel {
  const Product& p;
  const DecodedRow* w;  // [kOuts]
  int64_t k, groups;
  int64_t o, outs;
  bool first, last;
  const float* x_sums;  // [rows, x_sums_stride] from this panel on; null: the type has no minima
  int64_t x_sums_stride;
};

// kHalves: the two halves of a group have a scale each.
template <bool kHalves>
inline __m512 LoadScale(const float* scales) {
  const __m512 first = _mm512_set1_ps(scales[0]);
  if constexpr (!kHalves) return first;
  return _mm512_mask_blend_ps(0xff00, first, _mm512_set1_ps(scales[1]));
}

template <int kRows>
inline void StoreTile(const Panel& panel, int64_t row, const __m512 (&acc)[16]) {
  const Product& p = panel.p;
  alignas(64) float sums[16];
  _mm512_store_ps(sums, SumLanes(acc));
  for (int m = 0; m < kRows; ++m) {
    float* y = p.y + (row + m) * p.y_stride + panel.o;
    for (int64_t n = 0; n < panel.outs; ++n) {
      float sum = sums[m * kOuts + n];
      if (p.bias != nullptr) sum += BiasAt(p, panel.o + n);
      y[n] = p.accumulate ? y[n] + sum : sum;
    }
  }
}

// Rows [row, row + kRows), of the block those from `index` on. `acc_memory`: [kRows, kOuts, 16].
template <int kRows, bool kHalves>
inline void Tile(const Panel& panel, int64_t row, int64_t index, float* acc_memory) {
  const Product& p = panel.p;
  const auto* x = static_cast<const Bf16Bits*>(p.x) + row * p.x_stride + panel.k;
  __m512 acc[16];
#pragma GCC unroll 16
  for (int i = 0; i < 16; ++i) acc[i] = _mm512_setzero_ps();
  if (!panel.first) {
#pragma GCC unroll 16
    for (int i = 0; i < kRows * kOuts; ++i) acc[i] = _mm512_load_ps(acc_memory + 16 * i);
  }
  for (int64_t g = 0; g < panel.groups; ++g) {
    __m512bh codes[kOuts];
    __m512 scales[kOuts];
#pragma GCC unroll 4
    for (int n = 0; n < kOuts; ++n) {
      codes[n] = LoadBf16(panel.w[n].codes + kGroup * g);
      scales[n] = LoadScale<kHalves>(panel.w[n].scales + 2 * g);
    }
#pragma GCC unroll 4
    for (int m = 0; m < kRows; ++m) {
      const __m512bh xg = LoadBf16(x + m * p.x_stride + kGroup * g);
#pragma GCC unroll 4
      for (int n = 0; n < kOuts; ++n) {
        const __m512 dot = _mm512_dpbf16_ps(_mm512_setzero_ps(), xg, codes[n]);
        acc[m * kOuts + n] = _mm512_fmadd_ps(dot, scales[n], acc[m * kOuts + n]);
      }
    }
  }
  if (panel.x_sums != nullptr) {
    for (int64_t g = 0; g < panel.groups; g += 16) {
      const __mmask16 mask = panel.groups - g >= 16 ? 0xffff : (1u << (panel.groups - g)) - 1;
#pragma GCC unroll 4
      for (int m = 0; m < kRows; ++m) {
        const __m512 sums =
            _mm512_maskz_loadu_ps(mask, panel.x_sums + (index + m) * panel.x_sums_stride + g);
#pragma GCC unroll 4
        for (int n = 0; n < kOuts; ++n) {
          const __m512 mins = _mm512_maskz_loadu_ps(mask, panel.w[n].mins + g);
          acc[m * kOuts + n] = _mm512_fnmadd_ps(sums, mins, acc[m * kOuts + n]);
        }
      }
    }
  }
  if (panel.last) return StoreTile<kRows>(panel, row, acc);
#pragma GCC unroll 16
  for (int i = 0; i < kRows * kOuts; ++i) _mm512_store_ps(acc_memory + 16 * i, acc[i]);
}

template <bool kHalves>
void RunPanel(const ProductBlock& block, const Panel& panel, float* acc) {
  int64_t row = block.row_begin;
  for (int64_t left; (left = block.row_end - row) > 0;) {
    const int64_t index = row - block.row_begin;
    float* at = acc + index * kOuts * 16;
    if (left >= 4 && left != 5) {
      Tile<4, kHalves>(panel, row, index, at);
      row += 4;
    } else if (left >= 3) {  // 5 is 3 + 2
      Tile<3, kHalves>(panel, row, index, at);
      row += 3;
    } else if (left == 2) {
      Tile<2, kHalves>(panel, row, index, at);
      row += 2;
    } else {
      Tile<1, kHalves>(panel, row, index, at);
      row += 1;
    }
  }
}

int64_t XSumsStride(int64_t packed_stride) { return packed_stride / kGroup; }

// The sum of each group of x, for the types with minima.
void SumGroups(const ProductBlock& block, float* sums) {
  const Product& p = *block.product;
  const int64_t stride = XSumsStride(p.x_stride);
  const __m512bh ones = AsBf16(_mm512_set1_epi16(0x3f80));
  for (int64_t row = block.row_begin; row < block.row_end; ++row) {
    const auto* x = static_cast<const Bf16Bits*>(p.x) + row * p.x_stride;
    for (int64_t g = 0; g < stride; ++g) {
      sums[(row - block.row_begin) * stride + g] = _mm512_reduce_add_ps(
          _mm512_dpbf16_ps(_mm512_setzero_ps(), LoadBf16(x + kGroup * g), ones));
    }
  }
}

void RunBlock(const ProductBlock& block, float* memory) {
  const Product& p = *block.product;
  DecodedRow* decoded = reinterpret_cast<Scratch*>(memory)->rows;
  float* acc = memory + kScratchFloats;
  float* x_sums = acc + kAccFloats;
  const bool mins = HasMins(p.w_dtype);
  if (mins) SumGroups(block, x_sums);
  for (int64_t o = block.out_begin; o < block.out_end; o += kOuts) {
    const int64_t outs = Min(kOuts, block.out_end - o);
    for (int64_t k = 0; k < p.in || k == 0; k += kPanel) {
      const int64_t count = Min(kPanel, p.in - k);
      for (int64_t n = 0; n < kOuts; ++n) {  // past the end: the last row once more
        DecodePanel(p, o + Min(n, outs - 1), k, count, decoded[n]);
      }
      const Panel panel = {p,
                           decoded,
                           k,
                           (count + kGroup - 1) / kGroup,
                           o,
                           outs,
                           k == 0,
                           k + kPanel >= p.in,
                           mins ? x_sums + k / kGroup : nullptr,
                           XSumsStride(p.x_stride)};
      if (p.w_dtype == DType::kQ6_K) {
        RunPanel<true>(block, panel, acc);
      } else {
        RunPanel<false>(block, panel, acc);
      }
    }
  }
}

#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#pragma GCC diagnostic pop
#endif

int64_t ScratchFloats(int64_t packed_stride) {
  const int64_t sums = LinearPlan::kMaxBlockRows * XSumsStride(packed_stride);
  return (kScratchFloats + kAccFloats + sums + 15) / 16 * 16;  // whole cache lines
}

constexpr LinearBackend kBackend = {sizeof(Bf16Bits), kPanel, ScratchFloats, PackRows, RunBlock};

std::string_view Refuses(const Context& context) {
  if (!UsesAvx512Bf16()) return "needs AVX512_BF16";
  if (context.compute != ComputeMode::kBF16) return "computes in mode bf16 only";
  return {};
}

std::string_view RefusesWeight(const ConstTensor& w) {
  if (!IsQuantised(w.dtype()) && w.dtype() != DType::kBF16) {
    return "takes quantised and bf16 weights only";
  }
  const BlockScales& s = w.scales();
  if (w.dtype() == DType::kF8E4M3 && (s.cols % kGroup != 0 || s.col0 % kGroup != 0)) {
    return "wants block scales that begin at multiples of 32 columns";
  }
  return {};
}

}  // namespace

std::string_view Avx512Bf16QuantRefusesLinear(const LinearArgs& args, const Context& context) {
  for (const LinearTarget& target : args.targets) {
    if (const auto refusal = RefusesWeight(target.w); !refusal.empty()) return refusal;
  }
  return Refuses(context);
}

std::string_view Avx512Bf16QuantRefusesGroupedLinear(const GroupedLinearArgs& args,
                                                     const Context& context) {
  for (const GroupedTarget& target : args.targets) {
    for (const ConstTensor& w : target.w) {
      if (const auto refusal = RefusesWeight(w); !refusal.empty()) return refusal;
    }
  }
  return Refuses(context);
}

Status RunAvx512Bf16QuantLinear(const LinearArgs& args, const Context& context) {
  return RunLinear(kBackend, args, context);
}

Status RunAvx512Bf16QuantGroupedLinear(const GroupedLinearArgs& args, const Context& context) {
  return RunGroupedLinear(kBackend, args, context);
}

}  // namespace mla::cpu

#else  // not x86-64

namespace mla::cpu {
namespace {
constexpr std::string_view kNotX86 = "needs an x86-64 processor";
}  // namespace

std::string_view Avx512Bf16QuantRefusesLinear(const LinearArgs&, const Context&) { return kNotX86; }
std::string_view Avx512Bf16QuantRefusesGroupedLinear(const GroupedLinearArgs&, const Context&) {
  return kNotX86;
}
Status RunAvx512Bf16QuantLinear(const LinearArgs&, const Context&) { return Unsupported(kNotX86); }
Status RunAvx512Bf16QuantGroupedLinear(const GroupedLinearArgs&, const Context&) {
  return Unsupported(kNotX86);
}

}  // namespace mla::cpu

#endif  // __x86_64__
