// Matrix products on AMX tiles: bf16 weights as stored, activations rounded to bf16. Quantised
// weights are decoded to two planes of bf16 (linear_quant_planes.h), a part of 32 outputs at a
// time, which pays with many rows.
//
// Two forms, by the axis along which a weight is contiguous. Along `in` (dot form): 16 rows of the
// weight are A of a tile product as they lie in memory, 16 rows of x are its columns. Along `out`
// (axpy form): rows of x are A, and strips of the weight, two rows interleaved, are B. An output is
// summed up in the same order in both, and with any number of rows.
#include <algorithm>

#include "kernels/cpu/isa.h"
#include "kernels/cpu/linear.h"
#include "kernels/cpu/linear_driver.h"

#if defined(__x86_64__)

#include "kernels/cpu/amx_tiles.h"
#include "kernels/cpu/avx512_bf16.h"
#include "kernels/cpu/linear_quant_planes.h"

namespace mla::cpu {
namespace {

#if defined(__clang__)
#pragma clang attribute push(                                                     \
    __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,fma"))), \
    apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,fma")
#endif

inline int64_t Min(int64_t a, int64_t b) { return a < b ? a : b; }

constexpr int64_t kRows = amx::kTileRows;
constexpr int64_t kColumns = amx::kTileColumns;
constexpr int64_t kDepth = amx::kTileDepth;
constexpr int64_t kTileFloats = amx::kTileBytes / static_cast<int64_t>(sizeof(float));
constexpr int64_t kTileElements = amx::kTileBytes / static_cast<int64_t>(sizeof(Bf16Bits));
static_assert(LinearPlan::kRowQuantum % kRows == 0);
static_assert(kPlaneRows == 2 * kRows && kPlaneDepth == kDepth);

// The part of the summed axis that is multiplied at a time: what the rows of a block have of it
// stays in a 2 MiB L2 cache. Sums wait in memory between two parts.
constexpr int64_t kPartSteps = 1024 / kDepth;
static_assert(kPartSteps % kPlaneStepsMultiple == 0);

// C: tiles 0 to 3, [of A][of B]; A: 4 and 5; B: 6 and 7.
constexpr int kA = 4, kB = 6;
constexpr int64_t kSumFloats = 4 * kTileFloats;

// Tiles of A of `rows` rows and of `more_rows`, which may be 0, and of B of `columns` columns.
void Configure(int64_t rows, int64_t more_rows, int64_t columns) {
  amx::TileConfig config;
  const auto bytes = static_cast<int>(columns * static_cast<int64_t>(sizeof(float)));
  for (int i = 0; i < 2; ++i) {
    const auto of_tile = static_cast<int>(i == 0 ? rows : more_rows);
    if (of_tile == 0) continue;
    config.Set(2 * i, of_tile, bytes);
    config.Set(2 * i + 1, of_tile, bytes);
    config.Set(kA + i, of_tile, amx::kTileRowBytes);
  }
  config.Set(kB, amx::kTileRows, bytes);
  config.Set(kB + 1, amx::kTileRows, bytes);
  amx::Configure(config);
}

// Sums of kAs x kBs tiles, in registers and in memory, where they lie one after the other.
template <int kAs, int kBs>
struct Sums {
  static void Zero() {
    amx::Zero<0>();
    if constexpr (kBs == 2) amx::Zero<1>();
    if constexpr (kAs == 2) amx::Zero<2>();
    if constexpr (kAs == 2 && kBs == 2) amx::Zero<3>();
  }
  static void Load(const float* from) {
    constexpr int64_t kStride = amx::kTileRowBytes;
    amx::Load<0>(from, kStride);
    if constexpr (kBs == 2) amx::Load<1>(from + kTileFloats, kStride);
    if constexpr (kAs == 2) amx::Load<2>(from + 2 * kTileFloats, kStride);
    if constexpr (kAs == 2 && kBs == 2) amx::Load<3>(from + 3 * kTileFloats, kStride);
  }
  static void Store(float* to) {
    constexpr int64_t kStride = amx::kTileRowBytes;
    amx::Store<0>(to, kStride);
    if constexpr (kBs == 2) amx::Store<1>(to + kTileFloats, kStride);
    if constexpr (kAs == 2) amx::Store<2>(to + 2 * kTileFloats, kStride);
    if constexpr (kAs == 2 && kBs == 2) amx::Store<3>(to + 3 * kTileFloats, kStride);
  }
  static void Add() {
    amx::DotBf16<0, kA, kB>();
    if constexpr (kBs == 2) amx::DotBf16<1, kA, kB + 1>();
    if constexpr (kAs == 2) amx::DotBf16<2, kA + 1, kB>();
    if constexpr (kAs == 2 && kBs == 2) amx::DotBf16<3, kA + 1, kB + 1>();
  }
};

// Weights on their way to the L2 cache. Long rows the hardware sees coming by itself.
constexpr int64_t kShortRow = 1024 / sizeof(Bf16Bits);
inline void Prefetch(const Bf16Bits* w) {
  _mm_prefetch(reinterpret_cast<const char*>(w), _MM_HINT_T1);
}

// 16 rows of x as B: [step][pair][row]. Rows past the last are the last once more.
void PackTile(const Product& p, int64_t tile, void* to) {
  const int64_t present = Min(kRows, p.rows - tile * kRows);
  const auto* x = static_cast<const Bf16Bits*>(p.x) + tile * kRows * p.x_stride;
  auto* out = static_cast<Bf16Bits*>(to);
  for (int64_t k = 0; k < p.in; k += kDepth, out += kTileElements) {
    __m512i pairs[16];
#pragma GCC unroll 16
    for (int64_t n = 0; n < kRows; ++n) {
      pairs[n] = _mm512_loadu_si512(x + Min(n, present - 1) * p.x_stride + k);
    }
    Transpose16(pairs);
#pragma GCC unroll 16
    for (int i = 0; i < 16; ++i) _mm512_store_si512(out + i * 32, pairs[i]);
  }
}

// Dot form. 32 outputs are a panel: two tiles of A, read from the weight itself, but for the inputs
// past the last whole step, which are copied.
class DotPanel {
 public:
  DotPanel(const Product& p, float* scratch)
      : p_(p),
        steps_((p.in + kDepth - 1) / kDepth),
        whole_steps_(p.in / kDepth),
        single_(p.x_tiles == nullptr),
        decoded_(p.w_dtype != DType::kBF16),
        short_rows_(!decoded_ && p.w_stride <= kShortRow),
        tail_(reinterpret_cast<Bf16Bits*>(scratch)),
        finished_(scratch + 2 * kTileFloats),
        planes_(reinterpret_cast<Bf16Bits*>(finished_ + 2 * kSumFloats)) {}
  static constexpr int64_t kScratchFloats =
      2 * kTileFloats + 2 * kSumFloats + kPartSteps * kPlanes * 2 * kTileFloats;

  // Adds the products of steps [begin, end) of outputs [o, out_end), at most 32, and of rows [row,
  // row_end), to their `sums`, kSumFloats for every 32 rows. The last steps finish the outputs. Of
  // quantised weights at most kPartSteps steps, from a multiple of them on.
  void Run(int64_t o, int64_t out_end, int64_t row, int64_t row_end, int64_t begin, int64_t end,
           float* sums) {
    o_ = o;
    row_end_ = row_end;
    const int64_t outs = out_end - o;
    outs_[0] = Min(kRows, outs);
    outs_[1] = outs - outs_[0];
    if (decoded_) {
      DecodePlanes(p_, o, outs, begin, end, planes_);
    } else {
      w_ = static_cast<const Bf16Bits*>(p_.w) + o * p_.w_stride;
    }
    if (end == steps_) {
      for (int64_t n = 0; n < outs; ++n) bias_[n] = p_.bias != nullptr ? BiasAt(p_, o + n) : 0;
      if (!decoded_) CopyTail(outs);
    }
    Configure(outs_[0], outs_[1], single_ ? 1 : kColumns);
    for (int64_t r = row; r < row_end; r += 2 * kRows, sums += kSumFloats) {
      const bool two = row_end - r > kRows;
      if (outs_[1] > 0) {
        two ? Rows<2, 2>(r, begin, end, sums) : Rows<2, 1>(r, begin, end, sums);
      } else {
        two ? Rows<1, 2>(r, begin, end, sums) : Rows<1, 1>(r, begin, end, sums);
      }
    }
    while (FinishNext()) {
    }
  }

 private:
  // A row of w ends with its last input, perhaps the mapped file too.
  void CopyTail(int64_t outs) {
    if (whole_steps_ == steps_) return;
    const int64_t k = whole_steps_ * kDepth;
    const __mmask32 mask = (1u << (p_.in - k)) - 1;
    for (int64_t n = 0; n < outs; ++n) {
      _mm512_store_si512(tail_ + n * kDepth,
                         _mm512_maskz_loadu_epi16(mask, w_ + n * p_.w_stride + k));
    }
  }

  inline void PrefetchNext(int64_t step) const {
    const int64_t outs = outs_[0] + outs_[1];
    const Bf16Bits* next = w_ + outs * p_.w_stride + step * kDepth;
    for (int64_t n = 0; n < outs; ++n) Prefetch(next + n * p_.w_stride);
  }

  // Adds the products of the tiles of B with those of A, which begin at `w`.
  template <int kAs, int kBs>
  static inline void AddTiles(const Bf16Bits* w, int64_t stride) {
    const int64_t bytes = stride * static_cast<int64_t>(sizeof(Bf16Bits));
    amx::Load<kA>(w, bytes);
    if constexpr (kAs == 2) amx::Load<kA + 1>(w + kRows * stride, bytes);
    Sums<kAs, kBs>::Add();
  }

  template <int kAs, int kBs>
  void Rows(int64_t row, int64_t begin, int64_t end, float* sums) {
    using Sum = Sums<kAs, kBs>;
    if (begin == 0) {
      Sum::Zero();
    } else {
      Sum::Load(sums);
    }
    // A single row is its own B: a pair to a row of the tile.
    const int64_t x_step = single_ ? kDepth : kTileElements;
    const int64_t x_bytes = single_ ? int64_t{2 * sizeof(Bf16Bits)} : amx::kTileRowBytes;
    const auto* x = single_ ? static_cast<const Bf16Bits*>(p_.x) + row * p_.x_stride
                            : static_cast<const Bf16Bits*>(p_.x_tiles) + row * steps_ * kDepth;
    const int64_t next_tile = kRows * steps_ * kDepth;
    for (int64_t step = begin; step < end; ++step) {
      amx::Load<kB>(x + step * x_step, x_bytes);
      if constexpr (kBs == 2) amx::Load<kB + 1>(x + next_tile + step * x_step, x_bytes);
      if (decoded_) {
        const Bf16Bits* w = planes_ + (step - begin) * kPlanes * kPlaneElements;
        for (int64_t plane = 0; plane < kPlanes; ++plane, w += kPlaneElements) {
          AddTiles<kAs, kBs>(w, kDepth);
        }
      } else if (step < whole_steps_) {
        AddTiles<kAs, kBs>(w_ + step * kDepth, p_.w_stride);
      } else {
        AddTiles<kAs, kBs>(tail_, kDepth);
      }
      if (short_rows_ && kBs == 1) PrefetchNext(step);
      FinishNext();
    }
    if (end < steps_) {
      Sum::Store(sums);
      return;
    }
    while (FinishNext()) {
    }
    // Finished beside the products of the next rows.
    Sum::Store(finished_ + which_ * kSumFloats);
    pending_row_ = row;
    pending_ = kBs == 2 ? 0b11 : 0b01;
    if constexpr (kAs == 2) pending_ |= pending_ << 2;
    which_ ^= 1;
  }

  // A tile of sums that waits for it to y; false if there is none.
  inline bool FinishNext() {
    if (pending_ == 0) return false;
    const int tile = __builtin_ctz(pending_);
    pending_ &= pending_ - 1;
    Finish(pending_row_ + tile % 2 * kRows, tile / 2,
           finished_ + (which_ ^ 1) * kSumFloats + tile * kTileFloats);
    return true;
  }
  // `sums`: [outputs, rows].
  inline void Finish(int64_t row, int of_a, const float* sums) const {
    __m512i r[16];
#pragma GCC unroll 16
    for (int n = 0; n < 16; ++n) r[n] = _mm512_load_si512(sums + n * kColumns);
    Transpose16(r);
    const auto mask = static_cast<__mmask16>((1u << outs_[of_a]) - 1);
    const __m512 bias = _mm512_load_ps(bias_ + of_a * kRows);
    const int64_t rows = row_end_ - row;
    float* y = p_.y + row * p_.y_stride + o_ + of_a * kRows;
#pragma GCC unroll 16
    for (int64_t m = 0; m < 16; ++m) {
      if (m >= rows) break;
      __m512 sum = _mm512_castsi512_ps(r[m]);
      float* to = y + m * p_.y_stride;
      if (p_.bias != nullptr) sum = _mm512_add_ps(sum, bias);
      if (p_.accumulate) sum = _mm512_add_ps(sum, _mm512_maskz_loadu_ps(mask, to));
      _mm512_mask_storeu_ps(to, mask, sum);
    }
  }

  const Product& p_;
  const int64_t steps_, whole_steps_;
  const bool single_;       // row of the product
  const bool decoded_;      // weights
  const bool short_rows_;   // of w
  Bf16Bits* const tail_;    // [32, kDepth]
  float* const finished_;   // two of kSumFloats
  Bf16Bits* const planes_;  // [kPartSteps, kPlanes, kPlaneElements]
  int64_t o_ = 0, row_end_ = 0;
  int64_t outs_[2] = {};         // of the tiles of A
  const Bf16Bits* w_ = nullptr;  // unless decoded
  // Of `finished_`: what is written next, which tiles of the other wait to be finished, and the
  // first row of these.
  int which_ = 0;
  uint32_t pending_ = 0;
  int64_t pending_row_ = 0;
  alignas(64) float bias_[2 * kRows] = {};
};

// Panels that take turns at a part of the inputs: what x has of it is in the L2 cache then.
constexpr int64_t kStripPanels = 8;

int64_t SumFloats(int64_t rows) { return (rows + 2 * kRows - 1) / (2 * kRows) * kSumFloats; }

void DotBlock(const ProductBlock& block, float* scratch) {
  DotPanel panel(*block.product, scratch);
  float* const sums = scratch + DotPanel::kScratchFloats;
  const int64_t rows = block.row_end - block.row_begin;
  const int64_t of_panel = SumFloats(rows);
  const int64_t steps = (block.product->in + kDepth - 1) / kDepth;
  // Few rows: weights are read once, from end to end, and the fewer side by side the faster.
  const bool whole_rows = rows <= 2 * kRows && steps > 0 && block.product->w_dtype == DType::kBF16;
  const int64_t part_steps = whole_rows ? steps : kPartSteps;
  const int64_t outs = whole_rows && rows <= kRows ? kRows : 2 * kRows;
  constexpr int64_t kStrip = kStripPanels * 2 * kRows;
  for (int64_t strip = block.out_begin; strip < block.out_end; strip += kStrip) {
    const int64_t strip_end = Min(strip + kStrip, block.out_end);
    for (int64_t begin = 0; begin == 0 || begin < steps; begin += part_steps) {
      const int64_t end = Min(begin + part_steps, steps);
      for (int64_t o = strip; o < strip_end; o += outs) {
        panel.Run(o, Min(o + outs, strip_end), block.row_begin, block.row_end, begin, end,
                  sums + (o - strip) / (2 * kRows) * of_panel);
      }
    }
  }
}

// Axpy form: strips of 32 outputs are B, packed [strip][step][2 tiles] from kWideStrips of them at
// a time, so that what is read of a row of the weight is not too short.
constexpr int64_t kStripOuts = 2 * kColumns, kWideStrips = 16;
constexpr int64_t kRowsAhead = 8;
constexpr int64_t kWideFloats = kWideStrips * kPartSteps * 2 * kTileFloats;

// Rows k and k + 1 of 32 outputs, as a row of each of the two tiles. An odd last row pairs with
// zeros, as the padding of x does.
inline void PackPair(const Product& p, int64_t k, const Bf16Bits* w, __mmask32 mask, Bf16Bits* to) {
  const __m512i first = _mm512_maskz_loadu_epi16(k < p.in ? mask : 0, w);
  const __m512i second = _mm512_maskz_loadu_epi16(k + 1 < p.in ? mask : 0, w + p.w_stride);
  Prefetch(w + kRowsAhead * p.w_stride);
  Prefetch(w + (kRowsAhead + 1) * p.w_stride);
  // Each run of 8 outputs has its first 4 in `low`, the others in `high`.
  const __m512i low = _mm512_unpacklo_epi16(first, second);
  const __m512i high = _mm512_unpackhi_epi16(first, second);
  const __m512i left = _mm512_setr_epi64(0, 1, 8, 9, 2, 3, 10, 11);
  const __m512i right = _mm512_setr_epi64(4, 5, 12, 13, 6, 7, 14, 15);
  _mm512_store_si512(to, _mm512_permutex2var_epi64(low, left, high));
  _mm512_store_si512(to + kTileElements, _mm512_permutex2var_epi64(low, right, high));
}

void PackWide(const Product& p, int64_t o, int64_t out_end, int64_t begin, int64_t end,
              Bf16Bits* to) {
  const int64_t strip_elements = kPartSteps * 2 * kTileElements;
  for (int64_t k = begin * kDepth; k < end * kDepth; k += 2) {
    const int64_t at = (k / kDepth - begin) * 2 * kTileElements + k % kDepth / 2 * 32;
    for (int64_t strip = 0; strip < kWideStrips; ++strip) {
      const int64_t first = o + strip * kStripOuts;
      if (first >= out_end) break;
      const int64_t outs = Min(kStripOuts, out_end - first);
      const __mmask32 mask = outs == kStripOuts ? ~0u : (1u << outs) - 1;
      PackPair(p, k, static_cast<const Bf16Bits*>(p.w) + k * p.w_stride + first, mask,
               to + strip * strip_elements + at);
    }
  }
}

// Up to 32 rows and one strip of outputs: adds steps [begin, end), which are packed in `w`, to
// `sums`, which wait there if more are to come.
template <int kAs>
void AxpyTiles(const Product& p, int64_t row, int64_t rows, int64_t o, int64_t outs, int64_t begin,
               int64_t end, const Bf16Bits* w, float* sums) {
  using Sum = Sums<kAs, 2>;
  if (begin == 0) {
    Sum::Zero();
  } else {
    Sum::Load(sums);
  }
  const int64_t x_bytes = p.x_stride * static_cast<int64_t>(sizeof(Bf16Bits));
  const auto* x = static_cast<const Bf16Bits*>(p.x) + row * p.x_stride;
  for (int64_t step = begin; step < end; ++step, w += 2 * kTileElements) {
    amx::Load<kA>(x + step * kDepth, x_bytes);
    if constexpr (kAs == 2) amx::Load<kA + 1>(x + kRows * p.x_stride + step * kDepth, x_bytes);
    amx::Load<kB>(w, amx::kTileRowBytes);
    amx::Load<kB + 1>(w + kTileElements, amx::kTileRowBytes);
    Sum::Add();
  }
  Sum::Store(sums);
  if (end * kDepth < p.in) return;
  for (int64_t m = 0; m < rows; ++m) {
    const float* from = sums + m / kRows * 2 * kTileFloats + m % kRows * kColumns;
    float* y = p.y + (row + m) * p.y_stride + o;
    const uint32_t mask = outs == kStripOuts ? ~0u : (1u << outs) - 1;
    _mm512_mask_storeu_ps(y, static_cast<__mmask16>(mask), _mm512_load_ps(from));
    _mm512_mask_storeu_ps(y + kColumns, static_cast<__mmask16>(mask >> kColumns),
                          _mm512_load_ps(from + kTileFloats));
  }
}

void AxpyBlock(const ProductBlock& block, float* scratch) {
  const Product& p = *block.product;
  const int64_t steps = (p.in + kDepth - 1) / kDepth;
  auto* const packed = reinterpret_cast<Bf16Bits*>(scratch);
  const bool one_part = steps <= kPartSteps;  // nothing waits: sums take turns at one place
  const int64_t of_strip = one_part ? 0 : SumFloats(block.row_end - block.row_begin);
  constexpr int64_t kWide = kWideStrips * kStripOuts;
  for (int64_t wide = block.out_begin; wide < block.out_end; wide += kWide) {
    const int64_t wide_end = Min(wide + kWide, block.out_end);
    for (int64_t begin = 0; begin == 0 || begin < steps; begin += kPartSteps) {
      const int64_t end = Min(begin + kPartSteps, steps);
      PackWide(p, wide, wide_end, begin, end, packed);
      float* const sums = scratch + kWideFloats;
      for (int64_t row = block.row_begin; row < block.row_end; row += 2 * kRows) {
        const int64_t rows = Min(2 * kRows, block.row_end - row);
        const int64_t first = Min(kRows, rows);
        Configure(first, rows - first, kColumns);
        float* of_rows = sums + (one_part ? 0 : (row - block.row_begin) / (2 * kRows) * kSumFloats);
        for (int64_t o = wide; o < wide_end; o += kStripOuts) {
          const int64_t strip = (o - wide) / kStripOuts;
          const Bf16Bits* w = packed + strip * kPartSteps * 2 * kTileElements;
          const int64_t outs = Min(kStripOuts, wide_end - o);
          float* at = of_rows + strip * of_strip;
          rows > kRows ? AxpyTiles<2>(p, row, rows, o, outs, begin, end, w, at)
                       : AxpyTiles<1>(p, row, rows, o, outs, begin, end, w, at);
        }
      }
    }
  }
}

void RunBlock(const ProductBlock& block, float* scratch) {
  if (block.product->w_out_unit) {
    AxpyBlock(block, scratch);
  } else {
    DotBlock(block, scratch);
  }
  amx::Release();
}

#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif

int64_t ScratchFloats(int64_t packed_stride, int64_t block_rows) {
  const int64_t sums = SumFloats(block_rows);
  const bool one_part = packed_stride <= kPartSteps * kDepth;
  const int64_t dot = DotPanel::kScratchFloats + kStripPanels * sums;
  const int64_t axpy = kWideFloats + (one_part ? kSumFloats : kWideStrips * sums);
  return dot > axpy ? dot : axpy;
}

bool WantsTiles(const Product& product) { return !product.w_out_unit && product.rows > 1; }

// Of a row of x, so that blocks have all the rows that they may.
constexpr int64_t kCachedElements = LinearPlan::kMostRowsBytes / sizeof(Bf16Bits);

constexpr LinearBackend kBackend = {sizeof(Bf16Bits), kCachedElements, ScratchFloats, PackRows,
                                    RunBlock,         WantsTiles,      PackTile,      kRows};

}  // namespace

Status RunAmxLinear(const LinearArgs& args, const Context& context) {
  return RunLinear(kBackend, args, context);
}

Status RunAmxGroupedLinear(const GroupedLinearArgs& args, const Context& context) {
  return RunGroupedLinear(kBackend, args, context);
}

Status RunAmxHeadLinear(const HeadLinearArgs& args, const Context& context) {
  return RunHeadLinear(kBackend, args, context);
}

}  // namespace mla::cpu

#else  // not x86-64

namespace mla::cpu {

Status RunAmxLinear(const LinearArgs&, const Context&) { return Unsupported(kNeedsAmxBf16); }
Status RunAmxGroupedLinear(const GroupedLinearArgs&, const Context&) {
  return Unsupported(kNeedsAmxBf16);
}
Status RunAmxHeadLinear(const HeadLinearArgs&, const Context&) {
  return Unsupported(kNeedsAmxBf16);
}

}  // namespace mla::cpu

#endif  // __x86_64__

namespace mla::cpu {
namespace {
constexpr std::string_view kFewQuantRows =
    "wants 16 rows or more for FP8 weights, 48 for block types";
constexpr std::string_view kChosenByRows =
    "is chosen for quantised weights by the number of rows: not batch invariant";
}  // namespace

std::string_view AmxRefusesLinear(const LinearArgs& args, const Context& context) {
  if (!UsesAmxBf16()) return kNeedsAmxBf16;
  bool quantised = false;
  int64_t fewest = 0;
  for (const LinearTarget& target : args.targets) {
    quantised = quantised || IsQuantised(target.w.dtype());
    fewest = std::max(fewest, AmxFewestRows(target.w.dtype()));
  }
  if (!quantised) return Avx512Bf16RefusesLinear(args, context);
  if (context.batch_invariant) return kChosenByRows;
  if (args.x.dim(0) < fewest) return kFewQuantRows;
  return Avx512Bf16QuantRefusesLinear(args, context);
}
std::string_view AmxRefusesGroupedLinear(const GroupedLinearArgs& args, const Context& context) {
  if (!UsesAmxBf16()) return kNeedsAmxBf16;
  bool quantised = false;
  int64_t rows = 0, fewest = 0;  // of all products with quantised weights
  for (const GroupedTarget& target : args.targets) {
    for (size_t g = 0; g < target.w.size(); ++g) {
      const int64_t of_group = args.offsets[g + 1] - args.offsets[g];
      if (of_group == 0 || !IsQuantised(target.w[g].dtype())) continue;
      quantised = true;
      rows += of_group;
      fewest += AmxFewestRows(target.w[g].dtype());
    }
  }
  if (!quantised) return Avx512Bf16RefusesGroupedLinear(args, context);
  if (context.batch_invariant) return kChosenByRows;
  if (rows < fewest) return kFewQuantRows;
  return Avx512Bf16QuantRefusesGroupedLinear(args, context);
}
std::string_view AmxRefusesHeadLinear(const HeadLinearArgs& args, const Context& context) {
  return UsesAmxBf16() ? Avx512Bf16RefusesHeadLinear(args, context) : kNeedsAmxBf16;
}

}  // namespace mla::cpu
