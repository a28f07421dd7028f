// Matrix products through VDPBF16PS: bf16 weights as stored, activations rounded to bf16.
//
// Two forms, by the axis along which a weight is contiguous. Along `in` (dot form): an output has
// one accumulator of 16 lanes over k, summed at the end; with many rows, see linear_bf16_many.h.
// Along `out` (axpy form): two weight rows are interleaved so that a lane is an output. In both,
// the order in which an output is summed is the same in every tile shape: it depends on nothing but
// the output's own row and weights.
#include "kernels/cpu/isa.h"
#include "kernels/cpu/linear.h"
#include "kernels/cpu/linear_driver.h"

#if defined(__x86_64__)

#include "kernels/cpu/avx512_bf16.h"
#include "kernels/cpu/linear_bf16_block.h"
#include "kernels/cpu/linear_bf16_many.h"

namespace mla::cpu {
namespace {

// AVX-512 is enabled for the functions below only. Nothing of the standard library may be
// instantiated among them: the linker could keep that copy for callers on older machines.
#if defined(__clang__)
#pragma clang attribute push(                                                     \
    __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,fma"))), \
    apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,fma")
#endif

inline int64_t Min(int64_t a, int64_t b) { return a < b ? a : b; }

constexpr int kOuts = 8;  // of a tile in dot form
constexpr int kTileRows = 3;

// Weights on their way to the L2 cache. The hardware's own prefetching begins anew with every 4 KiB
// page, of which each of kOuts rows has its own: without this a core reads at two thirds of its
// speed. The next kOuts rows are asked for, or, where they are too long, what follows in a row.
constexpr int64_t kMostAhead = 320 * 1024 / sizeof(Bf16Bits);  // of an L2 cache of 1 MiB
constexpr int64_t kAheadInRow = 4096 / sizeof(Bf16Bits);
inline int64_t PrefetchDistance(int64_t w_stride) {
  const int64_t next_rows = kOuts * w_stride;
  return next_rows <= kMostAhead ? next_rows : kAheadInRow;
}
inline void Prefetch(const Bf16Bits* w) {
  _mm_prefetch(reinterpret_cast<const char*>(w), _MM_HINT_T1);
}

// Adds the products of x row m and w row n over [k, end) to acc[m][n], and prefetches what lies
// `ahead` elements on in w.
template <int kRows>
inline void DotTile(const Bf16Bits* x, int64_t x_stride, const Bf16Bits* const (&w)[kOuts],
                    int64_t k, int64_t end, int64_t ahead, __m512 (&acc)[kRows][kOuts]) {
  for (; k + 32 <= end; k += 32) {
    __m512bh xk[kRows];
#pragma GCC unroll 4
    for (int m = 0; m < kRows; ++m) xk[m] = LoadBf16(x + m * x_stride + k);
#pragma GCC unroll 8
    for (int n = 0; n < kOuts; ++n) {
      const __m512bh wk = LoadBf16(w[n] + k);
      Prefetch(w[n] + k + ahead);
#pragma GCC unroll 4
      for (int m = 0; m < kRows; ++m) acc[m][n] = _mm512_dpbf16_ps(acc[m][n], xk[m], wk);
    }
  }
  if (k < end) {
    // Packed x is padded with zeros; a row of w ends here, perhaps the mapped file too.
    const __mmask32 mask = (1u << (end - k)) - 1;
#pragma GCC unroll 8
    for (int n = 0; n < kOuts; ++n) {
      const __m512bh wk = LoadBf16(w[n] + k, mask);
#pragma GCC unroll 4
      for (int m = 0; m < kRows; ++m) {
        acc[m][n] = _mm512_dpbf16_ps(acc[m][n], LoadBf16(x + m * x_stride + k), wk);
      }
    }
  }
}

// The part [begin, end) of the sums over k, so long that eight rows of it leave room in a 32 KiB L1
// cache. Accumulators wait in memory between two panels: the order of additions is that of one
// pass.
struct Panel {
  int64_t begin, end;
  bool first, last;
};
constexpr int64_t kPanel = 1024;
constexpr int64_t kPanelOuts = 16;  // outputs that take turns at a panel of x
constexpr int64_t kPanelFloats = kMinManyRows * kPanelOuts * 16;

// Outputs [o, o + kOuts), as far as they exist, of all rows of a block: the rows of x pass by a few
// rows of w that stay in the L1 cache.
struct DotColumns {
  const Product& p;
  int64_t o;
  __mmask8 mask;             // of the outputs that exist
  int64_t ahead;             // see PrefetchDistance
  const Bf16Bits* w[kOuts];  // past the end: the last row once more
  __m256 bias;

  DotColumns(const ProductBlock& block, int64_t o_begin) : p(*block.product), o(o_begin) {
    const int64_t outs = Min(kOuts, block.out_end - o);
    mask = static_cast<__mmask8>((1u << outs) - 1);
    ahead = PrefetchDistance(p.w_stride);
    float values[kOuts] = {};
    for (int64_t n = 0; n < kOuts; ++n) {
      const int64_t row = o + Min(n, outs - 1);
      w[n] = static_cast<const Bf16Bits*>(p.w) + row * p.w_stride;
      if (p.bias != nullptr) values[n] = BiasAt(p, row);
    }
    bias = _mm256_loadu_ps(values);
  }

  // `sums`: one vector per output of the tile; not used if the panel is the first and the last.
  template <int kRows>
  inline void Tile(int64_t row, const Panel& panel, float* sums) const {
    const auto* x = static_cast<const Bf16Bits*>(p.x) + row * p.x_stride;
    __m512 acc[kRows][kOuts];
#pragma GCC unroll 4
    for (int m = 0; m < kRows; ++m) {
#pragma GCC unroll 8
      for (int n = 0; n < kOuts; ++n) {
        acc[m][n] = panel.first ? _mm512_setzero_ps() : _mm512_load_ps(sums + 16 * (m * kOuts + n));
      }
    }
    DotTile<kRows>(x, p.x_stride, w, panel.begin, panel.end, ahead, acc);
#pragma GCC unroll 4
    for (int m = 0; m < kRows; ++m) {
      if (panel.last) {
        Store(row + m, SumLanes(acc[m]));
        continue;
      }
#pragma GCC unroll 8
      for (int n = 0; n < kOuts; ++n) _mm512_store_ps(sums + 16 * (m * kOuts + n), acc[m][n]);
    }
  }

  inline void Store(int64_t row, __m256 sum) const {
    float* y = p.y + row * p.y_stride + o;
    if (p.bias != nullptr) sum = _mm256_add_ps(sum, bias);
    if (p.accumulate) sum = _mm256_add_ps(sum, _mm256_maskz_loadu_ps(mask, y));
    _mm256_mask_storeu_ps(y, mask, sum);
  }
};

// Eight outputs of all rows of a block. `sums`: [rows, kOuts, 16], unless the panel is all of k.
void DotRows(const ProductBlock& block, int64_t o, const Panel& panel, float* sums) {
  const DotColumns columns(block, o);
  int64_t row = block.row_begin;
  for (; row + kTileRows <= block.row_end; row += kTileRows) {
    columns.Tile<kTileRows>(row, panel, sums + (row - block.row_begin) * kOuts * 16);
  }
  float* at = sums + (row - block.row_begin) * kOuts * 16;
  if (block.row_end - row == 2) columns.Tile<2>(row, panel, at);
  if (block.row_end - row == 1) columns.Tile<1>(row, panel, at);
}

void DotBlock(const ProductBlock& block, float* scratch) {
  const int64_t in = block.product->in;
  const int64_t rows = block.row_end - block.row_begin;
  if (in <= kPanel || rows <= kTileRows) {
    const Panel all = {0, in, true, true};
    for (int64_t o = block.out_begin; o < block.out_end; o += kOuts) {
      DotRows(block, o, all, scratch);
    }
    return;
  }
  for (int64_t strip = block.out_begin; strip < block.out_end; strip += kPanelOuts) {
    const int64_t strip_end = Min(strip + kPanelOuts, block.out_end);
    for (int64_t k = 0; k < in; k += kPanel) {
      const Panel panel = {k, Min(k + kPanel, in), k == 0, k + kPanel >= in};
      for (int64_t o = strip; o < strip_end; o += kOuts) {
        DotRows(block, o, panel, scratch + (o - strip) * rows * 16);
      }
    }
  }
}

// Two weight rows of 32 outputs, as the 16-bit unpack instructions interleave them: each run of 8
// outputs has its first 4 in `low`, the others in `high`.
struct WeightPair {
  __m512bh low, high;
};
inline WeightPair Interleave(__m512i w0, __m512i w1) {
  return {AsBf16(_mm512_unpacklo_epi16(w0, w1)), AsBf16(_mm512_unpackhi_epi16(w0, w1))};
}

// Where a tile takes rows k and k + 1 of 32 outputs from: the weight itself, ...
template <bool kMasked>
struct StoredWeights {
  const Bf16Bits* w;
  int64_t stride, in;
  __mmask32 mask;

  __m512i Row(const Bf16Bits* from) const {
    return kMasked ? _mm512_maskz_loadu_epi16(mask, from) : _mm512_loadu_si512(from);
  }
  WeightPair At(int64_t k) const {
    const Bf16Bits* from = w + k * stride;
    // An odd last row pairs with zeros, as the padding of x does.
    return Interleave(Row(from), k + 1 < in ? Row(from + stride) : _mm512_setzero_si512());
  }
};

// ... or a strip of it, interleaved once for many rows of x.
struct InterleavedWeights {
  const Bf16Bits* strip;

  WeightPair At(int64_t k) const {
    return {LoadBf16(strip + k * 32), LoadBf16(strip + k * 32 + 32)};
  }
};
constexpr int64_t kMinRowsToInterleave = 16;
constexpr int64_t kMaxInToInterleave = 2048;
constexpr int64_t kInterleavedFloats = kMaxInToInterleave * 32 / 2;

// The sums of 32 outputs, as they come from weight pairs, to those in `mask` of y.
inline void StoreInOrder(__m512 low, __m512 high, __mmask32 mask, float* y) {
  const __m512i first = _mm512_setr_epi32(0, 1, 2, 3, 16, 17, 18, 19, 4, 5, 6, 7, 20, 21, 22, 23);
  const __m512i second = _mm512_add_epi32(first, _mm512_set1_epi32(8));
  _mm512_mask_storeu_ps(y, static_cast<__mmask16>(mask), _mm512_permutex2var_ps(low, first, high));
  _mm512_mask_storeu_ps(y + 16, static_cast<__mmask16>(mask >> 16),
                        _mm512_permutex2var_ps(low, second, high));
}

// Outputs [o, o + 32) of kRows rows, of them those in `mask`.
template <int kRows, typename Weights>
inline void AxpyTile(const Product& p, int64_t row, int64_t o, __mmask32 mask,
                     const Weights& weights) {
  const auto* x = static_cast<const Bf16Bits*>(p.x) + row * p.x_stride;
  __m512 acc[kRows][2];
#pragma GCC unroll 8
  for (int m = 0; m < kRows; ++m) acc[m][0] = acc[m][1] = _mm512_setzero_ps();
  for (int64_t k = 0; k < p.in; k += 2) {
    const WeightPair wk = weights.At(k);
#pragma GCC unroll 8
    for (int m = 0; m < kRows; ++m) {
      const __m512bh xk = BroadcastPair(x + m * p.x_stride + k);
      acc[m][0] = _mm512_dpbf16_ps(acc[m][0], wk.low, xk);
      acc[m][1] = _mm512_dpbf16_ps(acc[m][1], wk.high, xk);
    }
  }
#pragma GCC unroll 8
  for (int m = 0; m < kRows; ++m) {
    StoreInOrder(acc[m][0], acc[m][1], mask, p.y + (row + m) * p.y_stride + o);
  }
}

template <typename Weights>
void AxpyRows(const ProductBlock& block, int64_t o, __mmask32 mask, const Weights& weights) {
  const Product& p = *block.product;
  int64_t row = block.row_begin;
  for (; row + 8 <= block.row_end; row += 8) AxpyTile<8>(p, row, o, mask, weights);
  for (; row + 4 <= block.row_end; row += 4) AxpyTile<4>(p, row, o, mask, weights);
  for (; row + 2 <= block.row_end; row += 2) AxpyTile<2>(p, row, o, mask, weights);
  for (; row < block.row_end; ++row) AxpyTile<1>(p, row, o, mask, weights);
}

constexpr __mmask32 kAllOutputs = 0xffffffffu;

// Few rows: weight rows pass by in their order, a few at a time, with the sums of all outputs in
// memory (in the order of WeightPair): tiles that keep theirs in registers would read short runs,
// 40 % slower. The next rows are asked for as in DotTile.
constexpr int64_t kStreamOuts = 512;  // whose sums fit the L1 cache for kMostStreamRows
constexpr int64_t kStreamDepth = 4;   // weight rows at a time
constexpr int64_t kStreamAhead = 8;   // weight rows
constexpr int kMostStreamRows = 4;    // of x, together
constexpr int64_t kMinAxpyRows = 8;   // fewer of a block are streamed in parts
static_assert(kMostStreamRows * kStreamOuts <= kInterleavedFloats);  // of scratch

// Adds the products over [k, k + kDepth), as far as there are any, to sums [kRows, kStreamOuts].
template <int kRows, int kDepth>
inline void AddStream(const Product& p, int64_t row, int64_t k, int64_t strips,
                      const StoredWeights<false>& weights, float* sums) {
  const auto* x = static_cast<const Bf16Bits*>(p.x) + row * p.x_stride + k;
  __m512bh xk[kRows][kDepth / 2];
#pragma GCC unroll 4
  for (int m = 0; m < kRows; ++m) {
#pragma GCC unroll 2
    for (int i = 0; i < kDepth / 2; ++i) xk[m][i] = BroadcastPair(x + m * p.x_stride + 2 * i);
  }
  for (int64_t strip = 0; strip < strips; ++strip) {
    StoredWeights<false> of_strip = weights;
    of_strip.w += 32 * strip;
    __m512 acc[kRows][2];
#pragma GCC unroll 4
    for (int m = 0; m < kRows; ++m) {
      float* at = sums + m * kStreamOuts + 32 * strip;
      acc[m][0] = k == 0 ? _mm512_setzero_ps() : _mm512_load_ps(at);
      acc[m][1] = k == 0 ? _mm512_setzero_ps() : _mm512_load_ps(at + 16);
    }
#pragma GCC unroll 2
    for (int i = 0; i < kDepth / 2; ++i) {
      const WeightPair wk = of_strip.At(k + 2 * i);
      const Bf16Bits* ahead = of_strip.w + (k + 2 * i + kStreamAhead) * of_strip.stride;
      Prefetch(ahead);
      Prefetch(ahead + weights.stride);
#pragma GCC unroll 4
      for (int m = 0; m < kRows; ++m) {
        acc[m][0] = _mm512_dpbf16_ps(acc[m][0], wk.low, xk[m][i]);
        acc[m][1] = _mm512_dpbf16_ps(acc[m][1], wk.high, xk[m][i]);
      }
    }
#pragma GCC unroll 4
    for (int m = 0; m < kRows; ++m) {
      float* at = sums + m * kStreamOuts + 32 * strip;
      _mm512_store_ps(at, acc[m][0]);
      _mm512_store_ps(at + 16, acc[m][1]);
    }
  }
}

// Rows [row, row + kRows) and outputs [o, o + 32 * strips).
template <int kRows>
void AxpyStream(const Product& p, int64_t row, int64_t o, int64_t strips, float* sums) {
  const StoredWeights<false> weights = {static_cast<const Bf16Bits*>(p.w) + o, p.w_stride, p.in,
                                        kAllOutputs};
  int64_t k = 0;
  for (; k + kStreamDepth <= p.in; k += kStreamDepth) {
    AddStream<kRows, kStreamDepth>(p, row, k, strips, weights, sums);
  }
  for (; k < p.in; k += 2) AddStream<kRows, 2>(p, row, k, strips, weights, sums);
  for (int m = 0; m < kRows; ++m) {
    float* y = p.y + (row + m) * p.y_stride + o;
    for (int64_t strip = 0; strip < strips; ++strip) {
      const float* at = sums + m * kStreamOuts + 32 * strip;
      StoreInOrder(_mm512_load_ps(at), _mm512_load_ps(at + 16), kAllOutputs, y + 32 * strip);
    }
  }
}

// Whole strips of a block of few rows and some inputs; returns where the others begin.
int64_t AxpyFewRows(const ProductBlock& block, float* sums) {
  const Product& p = *block.product;
  int64_t o = block.out_begin;
  while (o + 32 <= block.out_end) {
    const int64_t strips = Min(kStreamOuts, block.out_end - o) / 32;
    for (int64_t row = block.row_begin; row < block.row_end; row += kMostStreamRows) {
      switch (block.row_end - row) {
        case 1: AxpyStream<1>(p, row, o, strips, sums); break;
        case 2: AxpyStream<2>(p, row, o, strips, sums); break;
        case 3: AxpyStream<3>(p, row, o, strips, sums); break;
        default: AxpyStream<kMostStreamRows>(p, row, o, strips, sums); break;
      }
    }
    o += 32 * strips;
  }
  return o;
}

void AxpyBlock(const ProductBlock& block, float* scratch) {
  const Product& p = *block.product;
  const int64_t rows = block.row_end - block.row_begin;
  const bool interleave = rows >= kMinRowsToInterleave && p.in <= kMaxInToInterleave;
  int64_t o = rows < kMinAxpyRows && p.in > 0 ? AxpyFewRows(block, scratch) : block.out_begin;
  for (; o < block.out_end; o += 32) {
    const int64_t outs = Min(32, block.out_end - o);
    const __mmask32 mask = outs == 32 ? kAllOutputs : (1u << outs) - 1;
    const StoredWeights<true> stored = {static_cast<const Bf16Bits*>(p.w) + o, p.w_stride, p.in,
                                        mask};
    if (!interleave) {
      AxpyRows(block, o, mask, stored);
      continue;
    }
    auto* strip = reinterpret_cast<Bf16Bits*>(scratch);
    for (int64_t k = 0; k < p.in; k += 2) {
      const WeightPair pair = stored.At(k);
      _mm512_store_si512(strip + k * 32, reinterpret_cast<__m512i>(pair.low));
      _mm512_store_si512(strip + k * 32 + 32, reinterpret_cast<__m512i>(pair.high));
    }
    AxpyRows(block, o, mask, InterleavedWeights{strip});
  }
}

void RunBlock(const ProductBlock& block, float* scratch) {
  if (block.product->w_out_unit) {
    AxpyBlock(block, scratch);
  } else if (block.product->x_tiles != nullptr) {
    RunManyRowsBf16(block, scratch);
  } else {
    DotBlock(block, scratch);
  }
}

#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif

// Accumulators between panels (of fewer than kMinManyRows rows), interleaved weights, the sums of
// streamed ones, or what many rows take.
int64_t ScratchFloats(int64_t packed_stride, int64_t block_rows) {
  const int64_t floats = kPanelFloats > kInterleavedFloats ? kPanelFloats : kInterleavedFloats;
  if (block_rows < kMinManyRows) return floats;
  const int64_t many = ManyRowsScratchFloats(packed_stride);
  return many > floats ? many : floats;
}

// Of a row of x, so that blocks have all the rows that they may: many rows stream past the weights,
// and the copy of these pays the better the more there are.
constexpr int64_t kCachedElements = LinearPlan::kMostRowsBytes / sizeof(Bf16Bits);

constexpr LinearBackend kBackend = {sizeof(Bf16Bits), kCachedElements, ScratchFloats,
                                    PackRows,         RunBlock,        HasManyRowsBf16,
                                    PackManyRowsTile, kManyTileRows};

std::string_view Refuses(const Context& context) {
  if (!UsesAvx512Bf16()) return "needs AVX512_BF16";
  if (context.compute != ComputeMode::kBF16) return "computes in mode bf16 only";
  return {};
}

constexpr std::string_view kRefusesDType = "takes bf16 weights only";

}  // namespace

void RunBf16Block(const ProductBlock& block, float* scratch) { RunBlock(block, scratch); }
int64_t Bf16ScratchFloats(int64_t packed_stride, int64_t block_rows) {
  return ScratchFloats(packed_stride, block_rows);
}

std::string_view Avx512Bf16RefusesLinear(const LinearArgs& args, const Context& context) {
  for (const LinearTarget& target : args.targets) {
    if (target.w.dtype() != DType::kBF16) return kRefusesDType;
  }
  return Refuses(context);
}

std::string_view Avx512Bf16RefusesGroupedLinear(const GroupedLinearArgs& args,
                                                const Context& context) {
  for (const GroupedTarget& target : args.targets) {
    if (!target.w.empty() && target.w[0].dtype() != DType::kBF16) return kRefusesDType;
  }
  return Refuses(context);
}

std::string_view Avx512Bf16RefusesHeadLinear(const HeadLinearArgs& args, const Context& context) {
  if (args.w.dtype() != DType::kBF16) return kRefusesDType;
  return Refuses(context);
}

Status RunAvx512Bf16Linear(const LinearArgs& args, const Context& context) {
  return RunLinear(kBackend, args, context);
}

Status RunAvx512Bf16GroupedLinear(const GroupedLinearArgs& args, const Context& context) {
  return RunGroupedLinear(kBackend, args, context);
}

Status RunAvx512Bf16HeadLinear(const HeadLinearArgs& args, const Context& context) {
  return RunHeadLinear(kBackend, args, context);
}

}  // namespace mla::cpu

#else  // not x86-64

namespace mla::cpu {
namespace {
constexpr std::string_view kNotX86 = "needs an x86-64 processor";
}  // namespace

std::string_view Avx512Bf16RefusesLinear(const LinearArgs&, const Context&) { return kNotX86; }
std::string_view Avx512Bf16RefusesGroupedLinear(const GroupedLinearArgs&, const Context&) {
  return kNotX86;
}
std::string_view Avx512Bf16RefusesHeadLinear(const HeadLinearArgs&, const Context&) {
  return kNotX86;
}
Status RunAvx512Bf16Linear(const LinearArgs&, const Context&) { return Unsupported(kNotX86); }
Status RunAvx512Bf16GroupedLinear(const GroupedLinearArgs&, const Context&) {
  return Unsupported(kNotX86);
}
Status RunAvx512Bf16HeadLinear(const HeadLinearArgs&, const Context&) {
  return Unsupported(kNotX86);
}

}  // namespace mla::cpu

#endif  // __x86_64__
