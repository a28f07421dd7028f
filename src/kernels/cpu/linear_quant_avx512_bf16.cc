// Matrix products with quantised weights on AVX-512 with VNNI and BF16: block types in integers
// (linear_quant_vnni.h), F8E4M3 here, and bf16 weights that share a call with them by the kernel
// for bf16. Block types want other activations than these two: where a call has both kinds of
// weights it becomes two.
//
// The numbers of F8E4M3 are exact in bf16. A run of products that share a scale is a chain of
// VDPBF16PS; its 16 partial sums are then scaled and added in fp32. Many rows are multiplied by
// linear_bf16_many.h, to the same bits.
#include <algorithm>
#include <span>
#include <vector>

#include "kernels/cpu/isa.h"
#include "kernels/cpu/linear.h"
#include "kernels/cpu/linear_driver.h"

#if defined(__x86_64__)

#include "kernels/cpu/avx512_bf16.h"
#include "kernels/cpu/f8_codes.h"
#include "kernels/cpu/linear_bf16_block.h"
#include "kernels/cpu/linear_bf16_many.h"
#include "kernels/cpu/linear_quant_vnni.h"

namespace mla::cpu {
namespace {

constexpr int64_t kGroup = 32;          // block scales begin at multiples of it
constexpr int kMaxRows = 2, kOuts = 4;  // of a tile
// Up to so many rows of x, weights are decoded in registers as they pass.
constexpr int64_t kMaxStreamedRows = 8;

#if defined(__clang__)
#pragma clang attribute push(                                                                \
    __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi,avx512bf16,fma"))), \
    apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi,avx512bf16,fma")
#endif

inline int64_t Min(int64_t a, int64_t b) { return a < b ? a : b; }

// The rows of weights of a tile and their scales.
struct Weights {
  const uint8_t* codes[kOuts];  // past the end: the last row once more
  const float* scales[kOuts];

  // Rows o, o + step, ...
  Weights(const Product& p, int64_t o, int64_t step, int64_t outs) {
    for (int64_t n = 0; n < kOuts; ++n) {
      const int64_t row = o + step * Min(n, outs - 1);
      codes[n] = static_cast<const uint8_t*>(p.w) + row * p.w_stride;
      scales[n] = p.w_scales.data + (p.w_scales.row0 + row) / p.w_scales.rows * p.w_scales.stride;
    }
  }
};

template <int kRows>
inline void StoreTile(const Product& p, int64_t row, int64_t o, int64_t step, int64_t outs,
                      const __m512 (&acc)[kMaxRows * kOuts]) {
  float sums[kMaxRows * kOuts];
  _mm256_storeu_ps(sums, SumLanes(acc));
  for (int m = 0; m < kRows; ++m) {
    float* y = p.y + (row + m) * p.y_stride + o;
    for (int64_t n = 0; n < outs; ++n) {
      float sum = sums[m * kOuts + n];
      if (p.bias != nullptr) sum += BiasAt(p, o + step * n);
      y[step * n] = p.accumulate ? y[step * n] + sum : sum;
    }
  }
}

inline const Bf16Bits* XRow(const Product& p, int64_t row) {
  return static_cast<const Bf16Bits*>(p.x) + row * p.x_stride;
}

// acc[m, n] += scale[n] * run[m, n].
template <int kRows>
inline void AddRun(const Weights& w, int64_t index, const __m512 (&run)[kRows][kOuts],
                   __m512 (&acc)[kMaxRows * kOuts]) {
#pragma GCC unroll 4
  for (int n = 0; n < kOuts; ++n) {
    const __m512 scale = _mm512_set1_ps(w.scales[n][index]);
#pragma GCC unroll 2
    for (int m = 0; m < kRows; ++m) {
      acc[m * kOuts + n] = _mm512_fmadd_ps(run[m][n], scale, acc[m * kOuts + n]);
    }
  }
}

// Adds the products of elements [k, k + 64), or of those in `mask`, to the sums of a run.
template <int kRows, bool kWhole>
inline void StreamStep(const Weights& w, const F8Decoder& decode, const Bf16Bits* const (&x)[kRows],
                       int64_t k, __mmask64 mask, __m512 (&sums)[kRows][kOuts]) {
#pragma GCC unroll 4
  for (int n = 0; n < kOuts; ++n) {
    __m512bh first, second;
    decode(
        kWhole ? _mm512_loadu_si512(w.codes[n] + k) : _mm512_maskz_loadu_epi8(mask, w.codes[n] + k),
        first, second);
#pragma GCC unroll 2
    for (int m = 0; m < kRows; ++m) {
      sums[m][n] = _mm512_dpbf16_ps(sums[m][n], LoadBf16(x[m] + k), first);
      // x has no second half where the row ends in the first.
      if (kWhole || (mask >> kGroup) != 0) {
        sums[m][n] = _mm512_dpbf16_ps(sums[m][n], LoadBf16(x[m] + k + kGroup), second);
      }
    }
  }
}

// Outputs o, o + step, ... of few rows: codes are decoded as they pass.
template <int kRows>
void StreamedTile(const Product& p, int64_t row, int64_t o, int64_t step, int64_t outs) {
  const Weights w(p, o, step, outs);
  const F8Decoder decode;
  const Bf16Bits* x[kRows];
  for (int m = 0; m < kRows; ++m) x[m] = XRow(p, row + m);
  __m512 acc[kMaxRows * kOuts];
#pragma GCC unroll 8
  for (__m512& sum : acc) sum = _mm512_setzero_ps();
  for (ScaleRun run(p); run.exists(); run.Next()) {
    __m512 sums[kRows][kOuts];
#pragma GCC unroll 2
    for (int m = 0; m < kRows; ++m) {
#pragma GCC unroll 4
      for (int n = 0; n < kOuts; ++n) sums[m][n] = _mm512_setzero_ps();
    }
    int64_t k = run.begin;
    for (; k + 64 <= run.end; k += 64) {
      StreamStep<kRows, true>(w, decode, x, k, 0, sums);
    }
    if (k < run.end) StreamStep<kRows, false>(w, decode, x, k, FirstOf64(run.end - k), sums);
    AddRun<kRows>(w, run.index, sums, acc);
  }
  StoreTile<kRows>(p, row, o, step, outs, acc);
}

// DecodeWeights of linear_bf16_many.h.
void DecodeCodes(const Product& p, int64_t o, int64_t outs, int64_t k, int64_t count,
                 Bf16Bits* to) {
  const F8Decoder decode;
  for (int64_t n = 0; n < 16; ++n) {
    const auto* codes = static_cast<const uint8_t*>(p.w) + (o + Min(n, outs - 1)) * p.w_stride + k;
    for (int64_t i = 0; i < count; i += 64) {
      __m512bh first, second;
      decode(_mm512_maskz_loadu_epi8(FirstOf64(count - i), codes + i), first, second);
      Bf16Bits* at = to + n * kDecodedColumns + i;
      _mm512_storeu_si512(at, reinterpret_cast<__m512i>(first));
      _mm512_storeu_si512(at + 32, reinterpret_cast<__m512i>(second));
    }
  }
}

// The four outputs of a tile are far apart: each is part of a stream of its own through the
// weights, which keeps more of the way from memory in use.
void StreamedBlock(const ProductBlock& block) {
  const Product& p = *block.product;
  const int64_t all = block.out_end - block.out_begin;
  const int64_t step = (all + kOuts - 1) / kOuts;
  for (int64_t n = 0; n < step; ++n) {
    const int64_t outs = (all - n + step - 1) / step, o = block.out_begin + n;
    int64_t row = block.row_begin;
    for (; row + 2 <= block.row_end; row += 2) StreamedTile<2>(p, row, o, step, outs);
    if (row < block.row_end) StreamedTile<1>(p, row, o, step, outs);
  }
}

#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif

void RunF8Block(const ProductBlock& block, float* scratch) {
  if (block.product->w_dtype == DType::kBF16) {
    RunBf16Block(block, scratch);
  } else if (block.product->x_tiles == nullptr) {
    StreamedBlock(block);
  } else {
    RunManyRowsScaled(block, DecodeCodes, scratch);
  }
}

bool HasManyRows(const Product& product) {
  return product.w_dtype == DType::kBF16 ? HasManyRowsBf16(product)
                                         : product.rows > kMaxStreamedRows;
}

int64_t F8ScratchFloats(int64_t packed_stride, int64_t block_rows) {
  const int64_t bf16 = Bf16ScratchFloats(packed_stride, block_rows);
  if (block_rows <= kMaxStreamedRows) return bf16;
  return std::max(bf16, ManyRowsScratchFloats(packed_stride));
}

// So that blocks have all the rows that they may, as for bf16.
constexpr int64_t kF8Panel = LinearPlan::kMostRowsBytes / sizeof(Bf16Bits);
constexpr LinearBackend kF8 = {sizeof(Bf16Bits), kF8Panel,    F8ScratchFloats,  PackRows,
                               RunF8Block,       HasManyRows, PackManyRowsTile, kManyTileRows};

// Activations stream past weights that are turned around once per block: the more rows share that
// the better, and few of them need be in cache. Taller blocks than these (264 rows) gain nothing.
constexpr int64_t kIntegerPanel = 136;
constexpr LinearBackend kIntegers = {PackedQuantRow::kElementSize, kIntegerPanel,
                                     IntegerScratchFloats, PackQuantRows, RunIntegerBlock};

DType DTypeOf(const LinearTarget& target) { return target.w.dtype(); }
DType DTypeOf(const GroupedTarget& target) {
  return target.w.empty() ? DType::kBF16 : target.w[0].dtype();
}

// run(backend, targets) for the targets of each backend.
template <typename Target, typename Run>
Status RunByBackend(std::span<const Target> targets, const Run& run) {
  std::vector<Target> of_blocks, others;
  for (const Target& target : targets) {
    (IsBlockType(DTypeOf(target)) ? of_blocks : others).push_back(target);
  }
  if (!of_blocks.empty()) MLA_RETURN_IF_ERROR(run(kIntegers, of_blocks));
  if (!others.empty()) MLA_RETURN_IF_ERROR(run(kF8, others));
  return {};
}

std::string_view Refuses(const Context& context) {
  if (!UsesAvx512Bf16()) return "needs AVX512_BF16";
  static const bool supported = __builtin_cpu_supports("avx512vnni") &&
                                __builtin_cpu_supports("avx512vbmi") &&
                                __builtin_cpu_supports("gfni");
  if (!supported) return "needs AVX512_VNNI, AVX512_VBMI and GFNI";
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
  return RunByBackend(args.targets,
                      [&](const LinearBackend& backend, std::span<const LinearTarget> targets) {
                        LinearArgs part = args;
                        part.targets = targets;
                        return RunLinear(backend, part, context);
                      });
}

Status RunAvx512Bf16QuantGroupedLinear(const GroupedLinearArgs& args, const Context& context) {
  return RunByBackend(args.targets,
                      [&](const LinearBackend& backend, std::span<const GroupedTarget> targets) {
                        GroupedLinearArgs part = args;
                        part.targets = targets;
                        return RunGroupedLinear(backend, part, context);
                      });
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
