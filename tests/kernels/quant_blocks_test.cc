// The block types and F8E4M3: layouts against vectors decoded by the format's own library
// (tools/make_quant_fixtures.py), and what conversion loses.
#include "tensor/quant_blocks.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>
#include <random>
#include <vector>

#include "mla/result.h"

namespace mla {
namespace {

constexpr DType kBlockTypes[] = {DType::kQ8_0, DType::kQ4_0, DType::kQ5_0,
                                 DType::kQ4_K, DType::kQ5_K, DType::kQ6_K};

// Two blocks of bytes from a generator, with sensible f16 scales put in at `scales`.
std::vector<uint8_t> BlockBytesForTest(DType dtype, const std::vector<size_t>& scales) {
  const auto size = static_cast<size_t>(BlockBytes(dtype));
  std::vector<uint8_t> bytes(2 * size);
  auto state = static_cast<uint32_t>(size);
  for (uint8_t& byte : bytes) {
    state = state * 1664525u + 1013904223u;
    byte = static_cast<uint8_t>(state >> 24);
  }
  for (size_t block = 0; block < 2; ++block) {
    for (size_t i = 0; i < scales.size(); ++i) {
      const uint16_t half = F32ToF16(0.0123f * static_cast<float>(1 + block) + 0.01f * i);
      std::memcpy(bytes.data() + block * size + scales[i], &half, sizeof(half));
    }
  }
  return bytes;
}

// Values at the given places and two sums, as the `gguf` Python package decodes these bytes.
struct KnownVector {
  DType dtype;
  std::vector<size_t> scales;
  std::vector<double> values;  // at 0, 1, 15, 16, 17, 31, n/2 + 3, n - 1, n, n + 5, 2 n - 1
  double sum, ramp_sum;        // of all; of value i times i + 1
};

const KnownVector kKnown[] = {
    {DType::kQ8_0,
     {0},
     {0.307464599609375, -0.233673095703125, -0.5411376953125, -1.463531494140625,
      -0.651824951171875, -0.02459716796875, -1.020782470703125, -0.02459716796875,
      -1.69720458984375, 2.09075927734375, -2.53350830078125},
     -24.6463623046875,
     -1058.2070617675781},
    {DType::kQ4_0,
     {0},
     {-0.0491943359375, -0.036895751953125, -0.036895751953125, -0.07379150390625,
      -0.036895751953125, 0.012298583984375, -0.086090087890625, 0.012298583984375,
      -0.0491943359375, -0.02459716796875, -0.12298583984375},
     -1.561920166015625,
     -46.402557373046875},
    {DType::kQ5_0,
     {0},
     {-0.159881591796875, 0.135284423828125, -0.0491943359375, 0.159881591796875, 0.1475830078125,
      -0.02459716796875, 0.159881591796875, -0.02459716796875, -0.27056884765625, -0.22137451171875,
      -0.3935546875},
     0.725616455078125,
     48.112060546875},
    {DType::kQ4_K,
     {0, 2},
     {0.8924102783203125, -0.0668792724609375, 3.7702789306640625, 1.8516998291015625,
      0.5726470947265625, 1.5319366455078125, 2.97308349609375, 5.5081787109375, 4.91546630859375,
      0.1190185546875, 4.0814208984375},
     1422.0917663574219,
     465613.66665649414},
    {DType::kQ5_K,
     {0, 2},
     {13.354705810546875, 3.171478271484375, 6.000152587890625, 13.920440673828125,
      -0.222930908203125, 11.091766357421875, 8.60284423828125, 6.8441162109375, -0.15557861328125,
      -0.6229248046875, 15.41845703125},
     4896.1326904296875,
     1443323.2808532715},
    {DType::kQ6_K,
     {208},
     {-14.38934326171875, 18.22650146484375, -10.55218505859375, 0.27056884765625, -0.0,
      -1.217559814453125, -7.969482421875, -13.786712646484375, 46.0458984375, 74.18505859375,
      -5.9525146484375},
     447.8037414550781,
     125482.61227416992},
};

TEST(QuantBlocks, LayoutsAreThoseOfGguf) {
  for (const KnownVector& known : kKnown) {
    SCOPED_TRACE(DTypeName(known.dtype));
    const std::vector<uint8_t> bytes = BlockBytesForTest(known.dtype, known.scales);
    const auto n = static_cast<size_t>(BlockElements(known.dtype));
    std::vector<float> values(2 * n);
    DequantiseRow(known.dtype, bytes.data(), static_cast<int64_t>(2 * n), values.data());
    const size_t places[] = {0, 1, 15, 16, 17, 31, n / 2 + 3, n - 1, n, n + 5, 2 * n - 1};
    for (size_t i = 0; i < std::size(places); ++i) {
      EXPECT_EQ(values[places[i]], known.values[i]) << "element " << places[i];
    }
    double sum = 0, ramp_sum = 0;
    for (size_t i = 0; i < values.size(); ++i) {
      sum += values[i];
      ramp_sum += static_cast<double>(i + 1) * values[i];
    }
    EXPECT_NEAR(sum, known.sum, 1e-4);
    EXPECT_NEAR(ramp_sum, known.ramp_sum, 1e-1);
  }
}

// The root mean square error of normally distributed numbers, relative to theirs.
double RelativeError(DType dtype) {
  std::mt19937 random(11);
  std::normal_distribution<float> normal(0, 0.02f);
  std::vector<float> values(256 * 64), back(values.size());
  for (float& v : values) v = normal(random);
  const auto count = static_cast<int64_t>(values.size());
  std::vector<uint8_t> bytes(RowBytes(dtype, count));
  QuantiseRow(dtype, values.data(), count, bytes.data());
  DequantiseRow(dtype, bytes.data(), count, back.data());
  double error = 0, power = 0;
  for (size_t i = 0; i < values.size(); ++i) {
    error += std::pow(double{values[i]} - back[i], 2);
    power += std::pow(double{values[i]}, 2);
  }
  return std::sqrt(error / power);
}

TEST(QuantBlocks, RoundTripLosesLittle) {
  const std::pair<DType, double> bounds[] = {
      {DType::kQ8_0, 0.006}, {DType::kQ4_0, 0.092}, {DType::kQ5_0, 0.047}, {DType::kQ4_K, 0.077},
      {DType::kQ5_K, 0.039}, {DType::kQ6_K, 0.021}, {DType::kBF16, 0.002}};
  for (const auto& [dtype, bound] : bounds) {
    const double error = RelativeError(dtype);
    EXPECT_LT(error, bound) << DTypeName(dtype);
    EXPECT_GT(error, bound / 2) << DTypeName(dtype) << ": the bound is slack";
  }
}

TEST(QuantBlocks, ZerosStayZerosAndOddValuesDoNoHarm) {
  for (const DType dtype : kBlockTypes) {
    SCOPED_TRACE(DTypeName(dtype));
    std::vector<float> values(256, 0), back(256);
    std::vector<uint8_t> bytes(RowBytes(dtype, 256));
    QuantiseRow(dtype, values.data(), 256, bytes.data());
    DequantiseRow(dtype, bytes.data(), 256, back.data());
    EXPECT_EQ(back, values);
    // Numbers too small for an f16 scale become zeros.
    for (float& v : values) v = 1e-12f;
    QuantiseRow(dtype, values.data(), 256, bytes.data());
    DequantiseRow(dtype, bytes.data(), 256, back.data());
    EXPECT_EQ(back, std::vector<float>(256, 0));
    values[3] = std::numeric_limits<float>::quiet_NaN();
    values[40] = std::numeric_limits<float>::infinity();
    QuantiseRow(dtype, values.data(), 256, bytes.data());
  }
}

TEST(F8E4M3, EveryCodeSurvives) {
  for (int code = 0; code < 256; ++code) {
    const float value = F8E4M3ToF32(static_cast<uint8_t>(code));
    if ((code & 0x7f) == 0x7f) {
      EXPECT_TRUE(std::isnan(value)) << code;
      continue;
    }
    const int exponent = code >> 3 & 15, mantissa = code & 7;
    const double magnitude =
        exponent == 0 ? std::ldexp(mantissa, -9) : std::ldexp(8 + mantissa, exponent - 10);
    EXPECT_EQ(value, code >= 128 ? -magnitude : magnitude) << code;
    EXPECT_EQ(F32ToF8E4M3(value), code);
  }
}

TEST(F8E4M3, RoundsToNearestEven) {
  for (int code = 0; code < 0x7e; ++code) {
    const float low = F8E4M3ToF32(static_cast<uint8_t>(code));
    const float high = F8E4M3ToF32(static_cast<uint8_t>(code + 1));
    const float middle = (low + high) / 2;
    EXPECT_EQ(F32ToF8E4M3(middle), code % 2 == 0 ? code : code + 1) << code;
    EXPECT_EQ(F32ToF8E4M3(std::nextafter(middle, low)), code);
    EXPECT_EQ(F32ToF8E4M3(-std::nextafter(middle, high)), (code + 1) | 0x80);
  }
  EXPECT_EQ(F32ToF8E4M3(1e9f), 0x7e);
  EXPECT_EQ(F32ToF8E4M3(-INFINITY), 0xfe);
  EXPECT_EQ(F32ToF8E4M3(NAN) & 0x7f, 0x7f);
}

// Slices at any row and column keep to the scales of the matrix.
TEST(BlockScales, FollowSlices) {
  constexpr int64_t kRows = 300, kCols = 200;
  std::vector<uint8_t> codes(kRows * kCols, 0x38);  // 1
  const std::vector<float> scales = {1, 2, 3, 4, 5, 6};
  const ConstTensor matrix = ConstTensor(codes.data(), DType::kF8E4M3, {kRows, kCols})
                                 .WithScales({.data = scales.data(), .stride = 2});
  const ConstTensor part = matrix.Slice(0, 100, 290).Slice(1, 70, 190).Slice(0, 20, 190);
  std::vector<float> row(120);
  for (const int64_t i : {0, 7, 8, 135, 136, 169}) {
    DequantiseMatrixRow(part, i, 0, 120, row.data());
    for (int64_t j = 0; j < 120; ++j) {
      EXPECT_EQ(row[j], scales[(120 + i) / 128 * 2 + (70 + j) / 128]) << i << ", " << j;
    }
  }
}

TEST(RowBytes, CountsBlocks) {
  EXPECT_EQ(RowBytes(DType::kQ8_0, 64), 68);
  EXPECT_EQ(RowBytes(DType::kQ4_K, 512), 288);
  EXPECT_EQ(RowBytes(DType::kBF16, 3), 6);
  EXPECT_DEATH(RowBytes(DType::kQ4_K, 128), "128 elements are no whole blocks of 256");
}

}  // namespace
}  // namespace mla
