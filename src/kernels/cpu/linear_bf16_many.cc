#include "kernels/cpu/linear_bf16_many.h"

#if defined(__x86_64__)

#include "kernels/cpu/avx512_bf16.h"

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
inline int64_t Max(int64_t a, int64_t b) { return a > b ? a : b; }

constexpr int64_t kGroup = 32;  // elements along k: a pair for each of the sums
constexpr int kSums = 16;
constexpr int kOuts = 32;  // of a panel: two vectors
constexpr int kTileRows = kManyTileRows;
static_assert(LinearPlan::kRowQuantum % kTileRows == 0);  // blocks begin with a tile
constexpr int64_t kMaxXFloats = 4 * 1024 * 1024;  // of the rows that pass by a panel: L3 cache
// Larger panels leave no room in a 1 MiB L2 cache for what passes by.
constexpr int64_t kMaxGroupsInL2 = 128;

// The tree of SumLanes adds sums 0 and 8, then these to 4 and 12, ...: computed in that order, two
// neighbouring results can be added as soon as both are there. Where the sum of each pair stands:
constexpr int kPlaceOf[kSums] = {0, 8, 4, 12, 2, 10, 6, 14, 1, 9, 5, 13, 3, 11, 7, 15};

// Pairs of bf16, as one number. A panel: [sum][group][2][16 outputs], and a line more after each
// sum, since groups are often a power of two.
inline int64_t PanelPitch(int64_t groups) { return (2 * groups + 1) * 16; }

// 16 rows of bf16.
struct PairColumns {
  const Bf16Bits* row[16];

  // pairs[i]: pair i of the group that begins at k, of each row.
  void Get(int64_t k, __mmask32 mask, __m512i (&pairs)[16]) const {
#pragma GCC unroll 16
    for (int n = 0; n < 16; ++n) pairs[n] = _mm512_maskz_loadu_epi16(mask, row[n] + k);
    Transpose16(pairs);
  }
};

// A tile of x: [sum][group][kTileRows].
void PackTile(const Product& p, int64_t tile, uint32_t* to) {
  const int64_t groups = (p.in + kGroup - 1) / kGroup;
  const int64_t row = tile * kTileRows, present = Min(kTileRows, p.rows - row);
  PairColumns columns;
  for (int64_t r = 0; r < 16; ++r) {  // the last one stands for those that do not exist
    columns.row[r] = static_cast<const Bf16Bits*>(p.x) + (row + Min(r, present - 1)) * p.x_stride;
  }
  constexpr __mmask16 kRows = (1u << kTileRows) - 1;
  for (int64_t g = 0; g < groups; ++g) {
    __m512i pairs[16];
    columns.Get(g * kGroup, ~__mmask32{0}, pairs);
#pragma GCC unroll 16
    for (int i = 0; i < kSums; ++i) {
      _mm512_mask_storeu_epi32(to + (kPlaceOf[i] * groups + g) * kTileRows, kRows, pairs[i]);
    }
  }
}

// Outputs [o, o + kOuts) of a product. kScaled: the weights are decoded, and each run of products
// is scaled (see ScaleRun). kTogether: sums computed at a time. Of two, on half as many rows, the
// first addition of the tree is one of registers; but the panel is read twice as often.
template <bool kScaled, int kTogether>
class Panel {
 public:
  // `decode`: null unless kScaled.
  Panel(const Product& p, int64_t out_end, DecodeWeights decode, float* scratch)
      : p_(p), out_end_(out_end), groups_((p.in + kGroup - 1) / kGroup), decode_(decode) {
    tree_ = scratch;
    weights_ = reinterpret_cast<uint32_t*>(tree_ + kTreeFloats);
    streams_ = p.y_streams && !p.accumulate && reinterpret_cast<uintptr_t>(p.y) % 64 == 0 &&
               p.y_stride % 16 == 0;
    if constexpr (!kScaled) return;
    decoded_ = reinterpret_cast<Bf16Bits*>(weights_ + kSums * PanelPitch(groups_));
    scales_ = reinterpret_cast<float*>(decoded_ + kDecodedRows * kDecodedColumns);
    run_ends_ = reinterpret_cast<int32_t*>(scales_ + groups_ * kOuts);
    for (ScaleRun run(p); run.exists(); run.Next()) {
      run_ends_[runs_++] = static_cast<int32_t>((run.end + kGroup - 1) / kGroup);
    }
  }

  // Of all kinds. A run has a group at least.
  static int64_t ScratchFloats(int64_t groups) {
    return kTreeFloats + kSums * PanelPitch(groups) + kDecodedRows * kDecodedColumns / 2 +
           groups * (kOuts + 1);
  }
  int64_t RowsAtOnce() const {
    const int64_t rows = kMaxXFloats / Max(groups_ * kSums, 1);
    return Max(kTileRows, rows / kTileRows * kTileRows);
  }

  void PackWeights(int64_t o) {
    o_ = o;
    const int64_t outs = Min(kOuts, out_end_ - o);
    for (int half = 0; half < 2; ++half) {
      const int64_t first = Min(16 * half, outs - 1);  // past the end: the last output once more
      PackHalf(o + first, Min(16, outs - first), weights_ + 16 * half);
    }
    for (int64_t n = 0; n < kOuts; ++n) {
      bias_[n] = p_.bias != nullptr && n < outs ? BiasAt(p_, o + n) : 0;
    }
    if constexpr (!kScaled) return;
    const BlockScales& of = p_.w_scales;
    for (int64_t n = 0; n < kOuts; ++n) {
      const float* row = of.data + (of.row0 + o + Min(n, outs - 1)) / of.rows * of.stride;
      const int64_t first = of.col0 / of.cols;
      for (int64_t run = 0; run < runs_; ++run) scales_[run * kOuts + n] = row[first + run];
    }
  }

  // Of rows [row, end).
  void Multiply(int64_t row, int64_t end) {
    const auto* tiles = static_cast<const uint32_t*>(p_.x_tiles);
    while (row < end) {
      const int64_t of_tile = row % kTileRows;
      const int64_t left = Min(end - row, kTileRows - of_tile);
      const int64_t rows = left > kRowsTogether ? (left + 1) / 2 : left;
      TileOf<kRowsTogether>(rows, row, tiles + (row - of_tile) * groups_ * kSums + of_tile);
      row += rows;
    }
  }

 private:
  // With two vectors each, 24 accumulators: those of a run and of the runs before it, if kScaled.
  static constexpr int kRowsTogether = kTileRows / (kScaled ? 2 : kTogether);
  static constexpr int kTreeLevels = kTogether == 2 ? 3 : 4;
  static constexpr int64_t kTreeFloats = int64_t{4} * kTileRows * kOuts;
  static constexpr int64_t kDecodedRows = 16;

  const Bf16Bits* Row(int64_t o) const {
    return static_cast<const Bf16Bits*>(p_.w) + o * p_.w_stride;
  }

  // 16 outputs, of which `outs` exist.
  void PackHalf(int64_t o, int64_t outs, uint32_t* to) {
    const int64_t step = kScaled ? kDecodedColumns : Max(p_.in, 1);
    for (int64_t begin = 0; begin < p_.in; begin += step) {
      const int64_t end = Min(begin + step, p_.in);
      PairColumns columns;
      for (int64_t n = 0; n < 16; ++n) {
        columns.row[n] =
            kScaled ? decoded_ + n * kDecodedColumns - begin : Row(o + Min(n, outs - 1));
      }
      if constexpr (kScaled) decode_(p_, o, outs, begin, end - begin, decoded_);
      for (int64_t k = begin; k < end; k += kGroup) {
        const int64_t left = end - k;
        const __mmask32 mask = left >= kGroup ? ~__mmask32{0} : (1u << left) - 1;
        __m512i pairs[16];
        columns.Get(k, mask, pairs);
#pragma GCC unroll 16
        for (int i = 0; i < kSums; ++i) {
          _mm512_store_si512(to + k + kPlaceOf[i] * PanelPitch(groups_), pairs[i]);
        }
      }
    }
  }

  // Tile<rows>, of kMost at most.
  template <int kMost>
  void TileOf(int64_t rows, int64_t row, const uint32_t* x) {
    if constexpr (kMost > 0) {
      if (rows == kMost) {
        Tile<kMost>(row, x);
      } else {
        TileOf<kMost - 1>(rows, row, x);
      }
    }
  }

  template <int kRows>
  void Tile(int64_t row, const uint32_t* x) {
    __m512 acc[kRows][2];
    const int64_t x_step = groups_ * kTileRows, w_step = PanelPitch(groups_);
    const uint32_t* w = weights_;
    float* const tree = tree_;
    for (int t = 0; t < kSums / kTogether; ++t, x += kTogether * x_step, w += kTogether * w_step) {
      if constexpr (kScaled) {
        ScaledSum<kRows>(x, w, acc);
      } else {
        __m512 sums[kTogether][kRows][2];
        Sum<kRows>(x, x_step, w, w_step, groups_, sums);
#pragma GCC unroll 12
        for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 2
          for (int j = 0; j < 2; ++j) {
            acc[r][j] = sums[0][r][j];
            if constexpr (kTogether == 2) acc[r][j] = _mm512_add_ps(acc[r][j], sums[1][r][j]);
          }
        }
      }
      switch (__builtin_ctz(~static_cast<unsigned>(t))) {  // results that end with this one
        case 0: AddUp<0>(tree, acc); break;
        case 1: AddUp<1>(tree, acc); break;
        case 2: AddUp<2>(tree, acc); break;
        case 3: AddUp<3>(tree, acc); break;
        default: AddUp<kTreeLevels>(tree, acc); break;
      }
    }
    const int64_t outs = Min(kOuts, out_end_ - o_);
    const uint32_t mask = outs == kOuts ? ~0u : (1u << outs) - 1;
#pragma GCC unroll 12
    for (int r = 0; r < kRows; ++r) Store(row + r, mask, acc[r]);
  }

  // Neighbouring sums, `x_step` and `w_step` apart, of every row and output.
  template <int kRows, int kCount>
  static inline void Sum(const uint32_t* x, int64_t x_step, const uint32_t* w, int64_t w_step,
                         int64_t groups, __m512 (&sums)[kCount][kRows][2]) {
#pragma GCC unroll 2
    for (int i = 0; i < kCount; ++i) {
#pragma GCC unroll 12
      for (int r = 0; r < kRows; ++r) sums[i][r][0] = sums[i][r][1] = _mm512_setzero_ps();
    }
    for (int64_t g = 0; g < groups; ++g, x += kTileRows, w += kOuts) {
#pragma GCC unroll 2
      for (int i = 0; i < kCount; ++i) {
        const uint32_t* of_sum = w + i * w_step;
        const __m512bh w0 = AsBf16(_mm512_load_si512(of_sum));
        const __m512bh w1 = AsBf16(_mm512_load_si512(of_sum + 16));
#pragma GCC unroll 12
        for (int r = 0; r < kRows; ++r) {
          const __m512bh xk = AsBf16(_mm512_set1_epi32(static_cast<int>(x[i * x_step + r])));
          sums[i][r][0] = _mm512_dpbf16_ps(sums[i][r][0], xk, w0);
          sums[i][r][1] = _mm512_dpbf16_ps(sums[i][r][1], xk, w1);
        }
      }
    }
  }

  // One sum, with that of each run scaled before it is added.
  template <int kRows>
  inline void ScaledSum(const uint32_t* x, const uint32_t* w, __m512 (&acc)[kRows][2]) const {
#pragma GCC unroll 12
    for (int r = 0; r < kRows; ++r) acc[r][0] = acc[r][1] = _mm512_setzero_ps();
    int64_t begin = 0;
    for (int64_t run = 0; run < runs_; ++run) {
      const int64_t end = run_ends_[run];
      __m512 of_run[1][kRows][2];
      Sum<kRows>(x + begin * kTileRows, 0, w + begin * kOuts, 0, end - begin, of_run);
      const float* at = scales_ + run * kOuts;
      const __m512 scales[2] = {_mm512_loadu_ps(at), _mm512_loadu_ps(at + 16)};
#pragma GCC unroll 12
      for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 2
        for (int j = 0; j < 2; ++j) {
          acc[r][j] = _mm512_fmadd_ps(of_run[0][r][j], scales[j], acc[r][j]);
        }
      }
      begin = end;
    }
  }

  // Adds the results that wait at `kLevels` levels of the tree; the sum waits at the next, or is
  // all.
  template <int kLevels, int kRows>
  static inline void AddUp(float* tree, __m512 (&acc)[kRows][2]) {
#pragma GCC unroll 12
    for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 2
      for (int j = 0; j < 2; ++j) {
        float* at = tree + (2 * r + j) * 16;
#pragma GCC unroll 4
        for (int level = 0; level < kLevels; ++level) {
          acc[r][j] = _mm512_add_ps(_mm512_load_ps(at + level * kTileRows * kOuts), acc[r][j]);
        }
        if (kLevels < kTreeLevels) _mm512_store_ps(at + kLevels * kTileRows * kOuts, acc[r][j]);
      }
    }
  }

  inline void Store(int64_t row, uint32_t mask, const __m512 (&sums)[2]) const {
    float* y = p_.y + row * p_.y_stride + o_;
#pragma GCC unroll 2
    for (int j = 0; j < 2; ++j) {
      const auto some = static_cast<__mmask16>(mask >> (16 * j));
      __m512 sum = sums[j];
      if (p_.bias != nullptr) sum = _mm512_add_ps(sum, _mm512_load_ps(bias_ + 16 * j));
      if (streams_ && some == 0xffff) {
        _mm512_stream_ps(y + 16 * j, sum);
        continue;
      }
      if (p_.accumulate) sum = _mm512_add_ps(sum, _mm512_maskz_loadu_ps(some, y + 16 * j));
      _mm512_mask_storeu_ps(y + 16 * j, some, sum);
    }
  }

  const Product& p_;
  const int64_t out_end_, groups_;
  const DecodeWeights decode_;
  int64_t o_ = 0, runs_ = 0;
  bool streams_;                 // whole lines of y pass by the caches
  float* tree_;                  // [level][kTileRows][kOuts]
  uint32_t* weights_;            // of the panel
  Bf16Bits* decoded_ = nullptr;  // [kDecodedRows, kDecodedColumns]
  float* scales_ = nullptr;      // [run][kOuts]
  int32_t* run_ends_ = nullptr;  // groups
  alignas(64) float bias_[kOuts];
};

template <bool kScaled, int kTogether>
void RunManyRows(const ProductBlock& block, DecodeWeights decode, float* scratch) {
  Panel<kScaled, kTogether> panel(*block.product, block.out_end, decode, scratch);
  const int64_t at_once = panel.RowsAtOnce();
  for (int64_t row = block.row_begin; row < block.row_end; row += at_once) {
    const int64_t end = Min(row + at_once, block.row_end);
    for (int64_t o = block.out_begin; o < block.out_end; o += kOuts) {
      panel.PackWeights(o);
      panel.Multiply(row, end);
    }
  }
  _mm_sfence();  // y may be read by another thread next
}

#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif

}  // namespace

bool HasManyRowsBf16(const Product& product) {
  return product.w_dtype == DType::kBF16 && !product.w_out_unit && product.rows >= kMinManyRows;
}

void PackManyRowsTile(const Product& product, int64_t tile, void* to) {
  PackTile(product, tile, static_cast<uint32_t*>(to));
}

void RunManyRowsBf16(const ProductBlock& block, float* scratch) {
  if (block.product->in <= kMaxGroupsInL2 * kGroup) {
    RunManyRows<false, 2>(block, nullptr, scratch);
  } else {
    RunManyRows<false, 1>(block, nullptr, scratch);
  }
}
void RunManyRowsScaled(const ProductBlock& block, DecodeWeights decode, float* scratch) {
  RunManyRows<true, 1>(block, decode, scratch);
}

int64_t ManyRowsScratchFloats(int64_t packed_stride) {
  return Panel<true, 1>::ScratchFloats((packed_stride + kGroup - 1) / kGroup);
}

}  // namespace mla::cpu

#endif  // __x86_64__
