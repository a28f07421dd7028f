// The tile kernels of attention with the matrix product on AMX tiles. The rest, and the layouts of
// packed elements, are those of attention_avx512_bf16.cc: 16 steps of 16 columns of a panel lie as
// a tile of B wants them, a step of the panel apart.
#include "kernels/cpu/attention_tile.h"

#if defined(__x86_64__)
#include "kernels/cpu/amx_tiles.h"
#include "kernels/cpu/attention_avx512.h"
#endif

#include "base/check.h"

#if defined(__x86_64__)

// Nothing of the standard library may be instantiated between push and pop: the linker could keep
// that copy of it for code that runs on other machines.
#if defined(__clang__)
#pragma clang attribute push(                                                          \
    __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,avx2,fma"))), \
    apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,avx2,fma")
#endif

namespace mla::cpu {
namespace attention_amx {
namespace {

using amx::kTileColumns;
using amx::kTileRowBytes;
using amx::kTileRows;

constexpr int kPanel = 32;                       // columns: two tiles
constexpr int64_t kStepBytes = 4 * kPanel;       // of a panel: a pair of bf16 per column
constexpr int kTileSteps = amx::kTileDepth / 2;  // of the summed axis
constexpr int kBlockRows = 2 * kTileRows;        // of C in tiles, by a panel
static_assert(kPanel == 2 * kTileColumns);

// What a pass over C adds to it: steps [first, first + chunks * depth) of the summed axis.
struct Pass {
  int32_t first;
  int32_t chunks;
  int32_t depth;  // steps of a tile, at most kTileSteps
  bool add;       // to what C holds; else to 0
};

// Tiles 0 and 1 are C of the first 16 rows, 2 and 3 of the others; 4 and 5 are A, 6 and 7 B.
void ConfigureBlock(int32_t rows, int32_t depth) {
  amx::TileConfig config;
  const int32_t first = rows < kTileRows ? rows : kTileRows;
  config.Set(0, first, kTileRowBytes);
  config.Set(1, first, kTileRowBytes);
  config.Set(4, first, 4 * depth);
  if (rows > first) {
    config.Set(2, rows - first, kTileRowBytes);
    config.Set(3, rows - first, kTileRowBytes);
    config.Set(5, rows - first, 4 * depth);
  }
  config.Set(6, depth, kTileRowBytes);
  config.Set(7, depth, kTileRowBytes);
  amx::Configure(config);
}

// Up to 16 rows of C, or up to 32 if kTwo, by one panel. Strides in bytes.
template <bool kTwo>
void MultiplyBlock(const Pass& pass, const char* a, int64_t a_stride, const char* b, float* c,
                   int64_t c_stride) {
  const char* const a_low = a + kTileRows * a_stride;
  char* const c_high = reinterpret_cast<char*>(c);
  char* const c_low = c_high + kTileRows * c_stride;
  if (pass.add) {
    amx::Load<0>(c_high, c_stride);
    amx::Load<1>(c_high + kTileRowBytes, c_stride);
    if constexpr (kTwo) {
      amx::Load<2>(c_low, c_stride);
      amx::Load<3>(c_low + kTileRowBytes, c_stride);
    }
  } else {
    amx::Zero<0>();
    amx::Zero<1>();
    if constexpr (kTwo) {
      amx::Zero<2>();
      amx::Zero<3>();
    }
  }
  for (int32_t chunk = 0; chunk < pass.chunks; ++chunk) {
    amx::Load<6>(b, kStepBytes);
    amx::Load<4>(a + chunk * kTileRowBytes, a_stride);
    amx::DotBf16<0, 4, 6>();
    amx::Load<7>(b + kTileRowBytes, kStepBytes);
    amx::DotBf16<1, 4, 7>();
    if constexpr (kTwo) {
      amx::Load<5>(a_low + chunk * kTileRowBytes, a_stride);
      amx::DotBf16<2, 5, 6>();
      amx::DotBf16<3, 5, 7>();
    }
    b += kTileSteps * kStepBytes;
  }
  amx::Store<0>(c_high, c_stride);
  amx::Store<1>(c_high + kTileRowBytes, c_stride);
  if constexpr (kTwo) {
    amx::Store<2>(c_low, c_stride);
    amx::Store<3>(c_low + kTileRowBytes, c_stride);
  }
}

void MultiplyPass(const Product& product, const Pass& pass, const RowsAhead& ahead) {
  const int64_t a_stride = product.lda * int64_t{sizeof(uint16_t)};
  const int64_t c_stride = product.ldc * int64_t{sizeof(float)};
  const int32_t blocks = (product.rows + kBlockRows - 1) / kBlockRows;
  const int32_t panels = (product.cols + kPanel - 1) / kPanel;
  int32_t configured = 0;  // rows
  for (int32_t block = 0; block < blocks; ++block) {
    const int32_t row = block * kBlockRows;
    const int32_t rows = product.rows - row < kBlockRows ? product.rows - row : kBlockRows;
    if (rows != configured) ConfigureBlock(rows, pass.depth);
    configured = rows;
    const char* a = static_cast<const char*>(product.a) + row * a_stride + 4 * pass.first;
    for (int32_t panel = 0; panel < panels; ++panel) {
      const int64_t step = panel * int64_t{product.b.steps} + pass.first;
      const char* b = static_cast<const char*>(product.b.data) + step * kStepBytes;
      float* c = product.c + row * product.ldc + panel * kPanel;
      if (rows > kTileRows) {
        MultiplyBlock<true>(pass, a, a_stride, b, c, c_stride);
      } else {
        MultiplyBlock<false>(pass, a, a_stride, b, c, c_stride);
      }
      PrefetchPart(ahead, block * panels + panel, blocks * panels);
    }
  }
}

// C = alpha C.
void ScaleRows(const Product& product) {
  for (int32_t row = 0; row < product.rows; ++row) {
    if (product.alpha[row] == 1.0f) continue;
    const __m512 factor = _mm512_set1_ps(product.alpha[row]);
    float* c = product.c + row * product.ldc;
    for (int32_t col = 0; col < product.cols; col += kPanel, c += kPanel) {
      _mm512_storeu_ps(c, _mm512_mul_ps(factor, _mm512_loadu_ps(c)));
      _mm512_storeu_ps(c + kLanes, _mm512_mul_ps(factor, _mm512_loadu_ps(c + kLanes)));
    }
  }
}

// Whole tiles of the summed axis, then the steps that are left in smaller ones: no tile reads past
// the last step.
void Multiply(const Product& product) {
  const bool add = product.alpha != nullptr;
  if (add) ScaleRows(product);
  const int32_t chunks = product.steps / kTileSteps, left = product.steps % kTileSteps;
  if (chunks > 0 || left == 0) {
    MultiplyPass(product, {0, chunks, kTileSteps, add}, product.ahead);
    if (left > 0) MultiplyPass(product, {chunks * kTileSteps, 1, left, true}, {});
  } else {
    MultiplyPass(product, {0, 1, left, add}, product.ahead);
  }
  amx::Release();
}

}  // namespace
}  // namespace attention_amx
}  // namespace mla::cpu

#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif

namespace mla::cpu {

TileKernels AmxTileKernels() {
  TileKernels kernels = Avx512Bf16TileKernels();
  MLA_CHECK(kernels.panel_cols == attention_amx::kPanel && kernels.step == 2, "panels of ",
            kernels.panel_cols, " columns, steps of ", kernels.step);
  kernels.multiply = &attention_amx::Multiply;
  return kernels;
}

}  // namespace mla::cpu

#else  // not x86-64

namespace mla::cpu {

TileKernels AmxTileKernels() {
  MLA_CHECK(false, "no AMX on this architecture");
  return {};
}

}  // namespace mla::cpu

#endif
