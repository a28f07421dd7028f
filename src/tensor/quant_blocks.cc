#include "tensor/quant_blocks.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "base/check.h"

namespace mla {
namespace {

template <typename Block>
void DecodeRow(const void* from, int64_t count, float* to) {
  const auto* blocks = static_cast<const Block*>(from);
  for (int64_t i = 0; i < count / Block::kElements; ++i) {
    DecodeBlock(blocks[i], to + i * Block::kElements);
  }
}

// The nearest integer in [low, high]; NaN gives `low`.
int Nearest(float value, int low, int high) {
  if (!(value > static_cast<float>(low))) return low;
  if (value >= static_cast<float>(high)) return high;
  return static_cast<int>(std::lrintf(value));
}

float Inverse(float scale) { return scale != 0 ? 1 / scale : 0; }

// The element of largest magnitude, with its sign.
float Extreme(const float* x, int n) {
  float extreme = 0;
  for (int i = 0; i < n; ++i) {
    if (std::fabs(x[i]) > std::fabs(extreme)) extreme = x[i];
  }
  return extreme;
}

// How much an element's error counts: large weights more, and none nothing.
void ErrorWeights(const float* x, int n, float* weights) {
  float squares = 0;
  for (int i = 0; i < n; ++i) squares += x[i] * x[i];
  const float rms = std::sqrt(squares / static_cast<float>(n));
  for (int i = 0; i < n; ++i) weights[i] = rms + std::fabs(x[i]);
}

// The scale for codes in [-levels, levels - 1] that fits x best: candidates put the extreme element
// near -levels, each is improved to its least-squares optimum.
float FitScale(const float* x, int n, int levels) {
  constexpr int kCandidates = 7;  // on each side
  const float extreme = Extreme(x, n);
  if (!(std::fabs(extreme) > 1e-30f) || !std::isfinite(extreme)) return 0;
  float weights[32];
  ErrorWeights(x, n, weights);
  float best_gain = 0, best = -extreme / static_cast<float>(levels);
  for (int candidate = -kCandidates; candidate <= kCandidates; ++candidate) {
    const float inverse =
        -(static_cast<float>(levels) + 0.125f * static_cast<float>(candidate)) / extreme;
    float xq = 0, qq = 0;
    for (int i = 0; i < n; ++i) {
      const auto q = static_cast<float>(Nearest(inverse * x[i], -levels, levels - 1));
      xq += weights[i] * x[i] * q;
      qq += weights[i] * q * q;
    }
    // With the scale xq / qq the error is sum w x^2 - xq^2 / qq.
    if (qq > 0 && xq * xq > best_gain * qq) {
      best_gain = xq * xq / qq;
      best = xq / qq;
    }
  }
  return best;
}

void EncodeBlock(const float* x, Q8_0Block& b) {
  b.d = F32ToF16(std::fabs(Extreme(x, 32)) / 127);
  const float inverse = Inverse(F16ToF32(b.d));
  for (int i = 0; i < 32; ++i) b.codes[i] = static_cast<int8_t>(Nearest(x[i] * inverse, -127, 127));
}

void EncodeBlock(const float* x, Q4_0Block& b) {
  b.d = F32ToF16(FitScale(x, 32, 8));
  const float inverse = Inverse(F16ToF32(b.d));
  for (int i = 0; i < 16; ++i) {
    const int first = Nearest(x[i] * inverse, -8, 7) + 8;
    const int second = Nearest(x[i + 16] * inverse, -8, 7) + 8;
    b.codes[i] = static_cast<uint8_t>(first | second << 4);
  }
}

void EncodeBlock(const float* x, Q5_0Block& b) {
  b.d = F32ToF16(FitScale(x, 32, 16));
  const float inverse = Inverse(F16ToF32(b.d));
  std::memset(b.codes, 0, sizeof(b.codes));
  std::memset(b.high, 0, sizeof(b.high));
  for (int i = 0; i < 32; ++i) {
    const int code = Nearest(x[i] * inverse, -16, 15) + 16;
    b.codes[i % 16] |= static_cast<uint8_t>((code & 15) << i / 16 * 4);
    b.high[i / 8] |= static_cast<uint8_t>((code >> 4) << i % 8);
  }
}

// x ~ scale * code - min, codes in [0, top], min >= 0.
struct Affine {
  float scale = 0, min = 0;
};

// Weighted least squares for given codes; the error of the solution, or infinity if there is none.
float Solve(const float* x, const float* weights, const float* codes, int n, Affine& fit) {
  double w = 0, q = 0, qq = 0, sx = 0, xq = 0, xx = 0;
  for (int i = 0; i < n; ++i) {
    w += weights[i];
    q += weights[i] * codes[i];
    qq += weights[i] * codes[i] * codes[i];
    sx += weights[i] * x[i];
    xq += weights[i] * x[i] * codes[i];
    xx += weights[i] * x[i] * x[i];
  }
  const double det = w * qq - q * q;
  if (!(det > 1e-12 * w * qq)) return INFINITY;
  double scale = (w * xq - q * sx) / det;
  double min = (q * xq - qq * sx) / det;
  if (min < 0) {
    min = 0;
    scale = xq / qq;
  }
  if (!(scale > 0)) return INFINITY;
  fit = {static_cast<float>(scale), static_cast<float>(min)};
  return static_cast<float>(xx + scale * scale * qq + min * min * w - 2 * scale * xq +
                            2 * min * sx - 2 * scale * min * q);
}

Affine FitAffine(const float* x, int n, int top) {
  constexpr int kCandidates = 16;
  float low = 0, high = 0;
  for (int i = 0; i < n; ++i) {
    low = std::min(low, x[i]);
    high = std::max(high, x[i]);
  }
  if (!(high - low > 1e-30f) || !std::isfinite(high - low)) return {};
  float weights[32], codes[32];
  ErrorWeights(x, n, weights);
  Affine best = {(high - low) / static_cast<float>(top), -low};
  float best_error = INFINITY;
  for (int candidate = 0; candidate < kCandidates; ++candidate) {
    const float inverse =
        (static_cast<float>(top) - 0.8f + 0.1f * static_cast<float>(candidate)) / (high - low);
    for (int i = 0; i < n; ++i) {
      codes[i] = static_cast<float>(Nearest((x[i] - low) * inverse, 0, top));
    }
    Affine fit;
    const float error = Solve(x, weights, codes, n, fit);
    if (error < best_error) {
      best_error = error;
      best = fit;
    }
  }
  return best;
}

void PackKScales(const KScales& s, uint8_t* packed) {
  for (int r = 0; r < 4; ++r) {
    packed[r] = static_cast<uint8_t>(s.scale[r] | s.scale[r + 4] >> 4 << 6);
    packed[r + 4] = static_cast<uint8_t>(s.min[r] | s.min[r + 4] >> 4 << 6);
    packed[r + 8] = static_cast<uint8_t>((s.scale[r + 4] & 15) | (s.min[r + 4] & 15) << 4);
  }
}

// Sets d, d_min and scales of a Q4_K or Q5_K block and writes the codes, one a byte.
template <typename Block>
void EncodeKRuns(const float* x, int top, Block& b, uint8_t* codes) {
  Affine fits[8];
  float max_scale = 0, max_min = 0;
  for (int r = 0; r < 8; ++r) {
    fits[r] = FitAffine(x + 32 * r, 32, top);
    max_scale = std::max(max_scale, fits[r].scale);
    max_min = std::max(max_min, fits[r].min);
  }
  b.d = F32ToF16(max_scale / 63);
  b.d_min = F32ToF16(max_min / 63);
  const float d = F16ToF32(b.d), d_min = F16ToF32(b.d_min);
  KScales s;
  for (int r = 0; r < 8; ++r) {
    s.scale[r] = static_cast<uint8_t>(Nearest(fits[r].scale * Inverse(d), 0, 63));
    s.min[r] = static_cast<uint8_t>(Nearest(fits[r].min * Inverse(d_min), 0, 63));
    const float inverse = Inverse(d * s.scale[r]), min = d_min * s.min[r];
    for (int i = 32 * r; i < 32 * r + 32; ++i) {
      codes[i] = static_cast<uint8_t>(Nearest((x[i] + min) * inverse, 0, top));
    }
  }
  PackKScales(s, b.scales);
}

void EncodeBlock(const float* x, Q4_KBlock& b) {
  uint8_t codes[256];
  EncodeKRuns(x, 15, b, codes);
  for (int i = 0; i < 128; ++i) {
    const int first = i / 32 * 64 + i % 32;
    b.codes[i] = static_cast<uint8_t>(codes[first] | codes[first + 32] << 4);
  }
}

void EncodeBlock(const float* x, Q5_KBlock& b) {
  uint8_t codes[256];
  EncodeKRuns(x, 31, b, codes);
  std::memset(b.high, 0, sizeof(b.high));
  for (int i = 0; i < 256; ++i) {
    b.high[i % 32] |= static_cast<uint8_t>(codes[i] >> 4 << i / 32);
  }
  for (int i = 0; i < 128; ++i) {
    const int first = i / 32 * 64 + i % 32;
    b.codes[i] = static_cast<uint8_t>((codes[first] & 15) | (codes[first + 32] & 15) << 4);
  }
}

void EncodeBlock(const float* x, Q6_KBlock& b) {
  float scales[16];
  for (int g = 0; g < 16; ++g) scales[g] = FitScale(x + 16 * g, 16, 32);
  b.d = F32ToF16(Extreme(scales, 16) / -128);
  const float d = F16ToF32(b.d);
  std::memset(b.low, 0, sizeof(b.low));
  std::memset(b.high, 0, sizeof(b.high));
  for (int g = 0; g < 16; ++g) {
    b.scales[g] = static_cast<int8_t>(Nearest(scales[g] * Inverse(d), -128, 127));
    const float inverse = Inverse(d * b.scales[g]);
    for (int i = 16 * g; i < 16 * g + 16; ++i) {
      const int code = Nearest(x[i] * inverse, -32, 31) + 32;
      const int half = i / 128, run = i % 128 / 32, at = i % 32;
      b.low[half * 64 + run % 2 * 32 + at] |= static_cast<uint8_t>((code & 15) << run / 2 * 4);
      b.high[half * 32 + at] |= static_cast<uint8_t>(code >> 4 << run * 2);
    }
  }
}

template <typename Block>
void EncodeRow(const float* from, int64_t count, void* to) {
  auto* blocks = static_cast<Block*>(to);
  for (int64_t i = 0; i < count / Block::kElements; ++i) {
    EncodeBlock(from + i * Block::kElements, blocks[i]);
  }
}

}  // namespace

uint8_t F32ToF8E4M3(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  const uint32_t sign = bits >> 24 & 0x80u;
  const float magnitude = std::fabs(value);
  if (std::isnan(value)) return static_cast<uint8_t>(sign | 0x7fu);
  if (magnitude >= 448) return static_cast<uint8_t>(sign | 0x7eu);
  if (magnitude < 0x1p-6f) {  // subnormal: a multiple of 2^-9
    return static_cast<uint8_t>(sign | static_cast<uint32_t>(std::lrintf(magnitude * 0x1p9f)));
  }
  const uint32_t positive = bits & 0x7fffffffu;
  const uint32_t rounded = positive + 0x7ffffu + (positive >> 20 & 1u);
  return static_cast<uint8_t>(sign | ((rounded >> 20) - (120u << 3)));
}

void DequantiseRow(DType dtype, const void* from, int64_t count, float* to) {
  MLA_CHECK(count % BlockElements(dtype) == 0, count, " elements of ", DTypeName(dtype));
  const auto* halves = static_cast<const uint16_t*>(from);
  switch (dtype) {
    case DType::kF32: std::memcpy(to, from, count * sizeof(float)); return;
    case DType::kF16:
      for (int64_t i = 0; i < count; ++i) to[i] = F16ToF32(halves[i]);
      return;
    case DType::kBF16:
      for (int64_t i = 0; i < count; ++i) to[i] = Bf16ToF32(halves[i]);
      return;
    case DType::kF8E4M3:
      for (int64_t i = 0; i < count; ++i) to[i] = F8E4M3ToF32(static_cast<const uint8_t*>(from)[i]);
      return;
    case DType::kQ8_0: return DecodeRow<Q8_0Block>(from, count, to);
    case DType::kQ4_0: return DecodeRow<Q4_0Block>(from, count, to);
    case DType::kQ5_0: return DecodeRow<Q5_0Block>(from, count, to);
    case DType::kQ4_K: return DecodeRow<Q4_KBlock>(from, count, to);
    case DType::kQ5_K: return DecodeRow<Q5_KBlock>(from, count, to);
    case DType::kQ6_K: return DecodeRow<Q6_KBlock>(from, count, to);
    case DType::kI32:
    case DType::kI8: break;
  }
  MLA_CHECK(false, "dequantise ", DTypeName(dtype));
}

void QuantiseRow(DType dtype, const float* from, int64_t count, void* to) {
  MLA_CHECK(count % BlockElements(dtype) == 0, count, " elements of ", DTypeName(dtype));
  auto* halves = static_cast<uint16_t*>(to);
  switch (dtype) {
    case DType::kF32: std::memcpy(to, from, count * sizeof(float)); return;
    case DType::kF16:
      for (int64_t i = 0; i < count; ++i) halves[i] = F32ToF16(from[i]);
      return;
    case DType::kBF16:
      for (int64_t i = 0; i < count; ++i) halves[i] = F32ToBf16(from[i]);
      return;
    case DType::kF8E4M3:
      for (int64_t i = 0; i < count; ++i) static_cast<uint8_t*>(to)[i] = F32ToF8E4M3(from[i]);
      return;
    case DType::kQ8_0: return EncodeRow<Q8_0Block>(from, count, to);
    case DType::kQ4_0: return EncodeRow<Q4_0Block>(from, count, to);
    case DType::kQ5_0: return EncodeRow<Q5_0Block>(from, count, to);
    case DType::kQ4_K: return EncodeRow<Q4_KBlock>(from, count, to);
    case DType::kQ5_K: return EncodeRow<Q5_KBlock>(from, count, to);
    case DType::kQ6_K: return EncodeRow<Q6_KBlock>(from, count, to);
    case DType::kI32:
    case DType::kI8: break;
  }
  MLA_CHECK(false, "quantise to ", DTypeName(dtype));
}

void DequantiseMatrixRow(const ConstTensor& w, int64_t row, int64_t col, int64_t count, float* to) {
  const auto* from =
      static_cast<const char*>(w.data()) + RowBytes(w.dtype(), row * w.stride(0) + col);
  DequantiseRow(w.dtype(), from, count, to);
  const BlockScales& scales = w.scales();
  if (scales.data == nullptr) return;
  for (int64_t i = 0; i < count;) {
    // To the end of the block of scales, or of what is asked for.
    const int64_t block_end = ((scales.col0 + col + i) / scales.cols + 1) * scales.cols;
    const int64_t end = std::min(count, block_end - scales.col0 - col);
    const float scale = scales.At(row, col + i);
    for (; i < end; ++i) to[i] *= scale;
  }
}

}  // namespace mla
