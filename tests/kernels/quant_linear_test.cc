// Linear, GroupedLinear and Embedding with quantised weights: every kernel on every instruction set
// against the reference.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "base/numeric.h"
#include "base/threads.h"
#include "base/workspace.h"
#include "kernels/cpu/isa.h"
#include "kernels/cpu/linear.h"
#include "mla/elementwise.h"
#include "mla/linear.h"
#include "support/every_isa.h"
#include "support/tolerance.h"
#include "tensor/quant_blocks.h"

namespace mla {
namespace {

using test::ForEachIsa;
using test::Operator;
using test::ToleranceFor;

constexpr DType kQuantised[] = {DType::kF8E4M3, DType::kQ8_0, DType::kQ4_0, DType::kQ5_0,
                                DType::kQ4_K,   DType::kQ5_K, DType::kQ6_K};
constexpr ComputeMode kModes[] = {ComputeMode::kF32, ComputeMode::kBF16};

std::vector<float> Normal(int64_t count, std::mt19937& random) {
  std::normal_distribution<float> normal(0, 1);
  std::vector<float> values(count);
  for (float& v : values) v = normal(random);
  return values;
}

// A random weight [out, in], its rows one block (or 5 numbers) apart, poisoned between. The memory
// ends with the last row.
class QuantMatrix {
 public:
  QuantMatrix(DType dtype, int64_t out, int64_t in, std::mt19937& random, int64_t row0 = 0,
              int64_t col0 = 0)
      : dtype_(dtype), out_(out), in_(in), stride_(in + (IsBlockType(dtype) ? 256 : 5)) {
    bytes_.assign(out == 0 ? 1 : RowBytes(dtype, (out - 1) * stride_ + in), 0xff);
    const std::vector<float> values = Normal(out * in, random);
    for (int64_t o = 0; o < out; ++o) {
      QuantiseRow(dtype, values.data() + o * in, in, bytes_.data() + RowBytes(dtype, o * stride_));
    }
    if (dtype != DType::kF8E4M3) return;
    scales_.row0 = row0;
    scales_.col0 = col0;
    scales_.stride = (col0 + in) / 128 + 1;
    std::uniform_real_distribution<float> scale(0.1f, 2);
    scale_values_.resize(((row0 + out) / 128 + 1) * scales_.stride);
    for (float& s : scale_values_) s = scale(random);
  }

  // All weights equal, of the largest code that their type has for them.
  void Fill(float value) {
    const std::vector<float> values(in_, value);
    for (int64_t o = 0; o < out_; ++o) {
      QuantiseRow(dtype_, values.data(), in_, bytes_.data() + RowBytes(dtype_, o * stride_));
    }
  }

  ConstTensor view() const {
    const ConstTensor w(bytes_.data(), dtype_, {out_, in_}, {stride_, 1});
    if (dtype_ != DType::kF8E4M3) return w;
    BlockScales scales = scales_;
    scales.data = scale_values_.data();
    return w.WithScales(scales);
  }

 private:
  DType dtype_;
  int64_t out_, in_, stride_;
  std::vector<uint8_t> bytes_;
  BlockScales scales_;
  std::vector<float> scale_values_;
};

struct Case {
  int64_t rows, in, out;
  bool bias = false, accumulate = false;
  int64_t row0 = 0, col0 = 0;  // of an F8E4M3 weight in its scales
};

// Partial tiles and panels; more rows than fit a tile; long rows; nothing at all.
constexpr Case kCases[] = {
    {1, 256, 1},
    {1, 256, 4, true},
    {2, 512, 7, false, true},
    {3, 256, 37},
    {5, 2304, 9, true},
    {1, 2304, 66, true, true},
    {33, 1280, 21, true},
    {9, 1024, 32},
    {0, 256, 4},
    {4, 256, 0},
    {300, 256, 8},
    {6, 512, 40, false, false, 100, 96},
    {48, 256, 1},
    {49, 2304, 67, true, true},
};
// Rows that are no whole groups, at any place in the scales: F8E4M3 alone.
constexpr Case kF8Cases[] = {{3, 130, 140, true},
                             {1, 1, 3},
                             {7, 1111, 5},
                             {2, 300, 9, false, true, 127, 64},
                             {5, 77, 6, false, false, 3, 51},
                             // Many rows: partial tiles and panels; more rows than fit a block, or
                             // than are copied at a time.
                             {9, 200, 35, true},
                             {40, 1111, 70, true, true, 3, 32},
                             {530, 160, 33},
                             {130, 16400, 3}};
// Blocks of 32: rows that are no whole chunks of 16 groups, more and fewer than one.
constexpr Case kSmallBlockCases[] = {{1, 32, 3},           {7, 32, 17, true}, {1, 96, 33},
                                     {4, 96, 18},          {2, 544, 5, true}, {13, 544, 40},
                                     {3, 1504, 35},        {8, 1504, 16},     {1, 1056, 9, true},
                                     {25, 1056, 34, true}, {4, 704, 19},      {6, 1408, 33},
                                     {51, 1056, 33, true}, {64, 1504, 70},    {48, 32, 3}};

struct Data {
  std::vector<float> x, bias, y;
  QuantMatrix w;

  Data(const Case& c, DType dtype, std::mt19937& random)
      : x(Normal(c.rows * c.in, random)),
        bias(Normal(c.out, random)),
        y(Normal(c.rows * c.out, random)),
        w(dtype, c.out, c.in, random, c.row0, c.col0) {}
};

class QuantLinearTest : public ::testing::Test {
 protected:
  Context ContextFor(std::string_view kernel, ComputeMode mode, ThreadPool* threads) {
    Context context;
    context.threads = threads;
    context.workspace = &workspace_;
    context.compute = mode;
    context.kernel = kernel;
    return context;
  }

  // Rows [begin, end) of the case.
  std::vector<float> Run(const Case& c, const Data& d, const Context& context, int64_t begin,
                         int64_t end) {
    std::vector<float> y(d.y.begin() + begin * c.out, d.y.begin() + end * c.out);
    y.resize(std::max<size_t>(y.size(), 1));
    const int64_t rows = end - begin;
    std::vector<float> x(d.x.begin() + begin * c.in, d.x.begin() + end * c.in);
    x.resize(std::max<size_t>(x.size(), 1));
    const std::vector<float> bias(d.bias.begin(), d.bias.end());
    const LinearTarget target{
        d.w.view(), c.bias ? ConstTensor(bias.data(), DType::kF32, {c.out}) : ConstTensor(),
        Tensor(y.data(), DType::kF32, {rows, c.out})};
    const Status status = Linear({.x = ConstTensor(x.data(), DType::kF32, {rows, c.in}),
                                  .targets = {&target, 1},
                                  .accumulate = c.accumulate},
                                 context);
    EXPECT_TRUE(status.ok()) << status.message();
    y.resize(rows * c.out);
    return y;
  }

  // The fp64 answer for the activations of a mode, and what errors are relative to.
  void Reference(const Case& c, const Data& d, ComputeMode mode, std::vector<float>& want,
                 std::vector<double>& magnitude) {
    Data rounded = d;
    if (mode == ComputeMode::kBF16) {
      for (float& v : rounded.x) v = Bf16ToF32(F32ToBf16(v));
    }
    want = Run(c, rounded, ContextFor("reference", ComputeMode::kF32, &pool_), 0, c.rows);
    magnitude.assign(want.size(), 0);
    std::vector<float> w(c.in);
    for (int64_t o = 0; o < c.out; ++o) {
      DequantiseMatrixRow(d.w.view(), o, 0, c.in, w.data());
      for (int64_t row = 0; row < c.rows; ++row) {
        double sum = c.bias ? std::fabs(d.bias[o]) : 0;
        if (c.accumulate) sum += std::fabs(d.y[row * c.out + o]);
        for (int64_t k = 0; k < c.in; ++k)
          sum += std::fabs(double{w[k]} * rounded.x[row * c.in + k]);
        magnitude[row * c.out + o] = sum;
      }
    }
  }

  std::vector<std::string> KernelsFor(ComputeMode mode, const Case& c, DType dtype) {
    std::vector<std::string> kernels = {"cpu_simd"};
    if (cpu::UsesAvx512Bf16() && mode == ComputeMode::kBF16 && c.col0 % 32 == 0) {
      kernels.push_back("cpu_avx512_bf16_quant");
      if (cpu::UsesAmxBf16() && c.rows >= cpu::AmxFewestRows(dtype)) {
        kernels.push_back("cpu_amx_bf16");
      }
    }
    return kernels;
  }

  void CheckCase(const Case& c, DType dtype) { CheckData(c, dtype, Data(c, dtype, random_)); }

  void CheckData(const Case& c, DType dtype, const Data& d, double times_tolerance = 1) {
    SCOPED_TRACE(Concat(DTypeName(dtype), " rows ", c.rows, " in ", c.in, " out ", c.out));
    for (const ComputeMode mode : kModes) {
      std::vector<float> want;
      std::vector<double> magnitude;
      Reference(c, d, mode, want, magnitude);
      ForEachIsa([&](std::string_view) {
        for (const std::string& kernel : KernelsFor(mode, c, dtype)) {
          SCOPED_TRACE(kernel);
          const std::vector<float> got = Run(c, d, ContextFor(kernel, mode, &pool_), 0, c.rows);
          for (size_t i = 0; i < got.size(); ++i) {
            const double error = std::fabs(double{got[i]} - want[i]);
            worst_ = std::max(worst_, error / magnitude[i]);
            ASSERT_LE(error, times_tolerance *
                                 ToleranceFor(Operator::kQuantLinear, mode).Limit(magnitude[i]))
                << "element " << i << ": " << got[i] << ", want " << want[i];
          }
          // Neither other rows nor threads change a bit.
          const int64_t fewest = kernel == "cpu_amx_bf16" ? cpu::AmxFewestRows(dtype) : 1;
          for (const int64_t row : {int64_t{0}, (c.rows - fewest) / 2, c.rows - fewest}) {
            if (row < 0 || row >= c.rows) continue;
            const std::vector<float> alone =
                Run(c, d, ContextFor(kernel, mode, nullptr), row, row + fewest);
            EXPECT_EQ(
                std::memcmp(alone.data(), got.data() + row * c.out, fewest * c.out * sizeof(float)),
                0)
                << "row " << row << " alone differs";
          }
        }
      });
    }
  }

  std::mt19937 random_{5};
  ThreadPool pool_{2};
  Workspace workspace_;
  double worst_ = 0;
};

TEST_F(QuantLinearTest, MatchesReference) {
  for (const DType dtype : kQuantised) {
    for (const Case& c : kCases) CheckCase(c, dtype);
  }
  RecordProperty("worst", std::to_string(worst_));
}

TEST_F(QuantLinearTest, RowsOfAFewSmallBlocks) {
  for (const DType dtype : {DType::kQ8_0, DType::kQ4_0, DType::kQ5_0}) {
    for (const Case& c : kSmallBlockCases) CheckCase(c, dtype);
  }
}

// Activations may be held as integers of their group: the largest sums of products, groups that are
// zero or nearly so, and numbers far apart.
TEST_F(QuantLinearTest, ActivationsOfAnySize) {
  constexpr int64_t kIn = 512, kOut = 33;
  std::vector<std::vector<float>> rows(7, std::vector<float>(kIn, 0.0F));
  for (int64_t i = 0; i < kIn; ++i) {
    rows[0][i] = (255.0F - static_cast<float>(i * 7 % 11)) / 128;  // all bits of bf16's fraction
    rows[1][i] = -(254.0F - static_cast<float>(i * 7 % 13)) / 128;
    rows[3][i] = i % 64 < 32 ? 1e-33F : 1.0F;
    rows[4][i] = (i % 2 == 0 ? 1 : -1) * std::ldexp(1.0F, static_cast<int>(i % 12));
    rows[5][i] = std::ldexp(1.5F, 80 - static_cast<int>(i / 32) * 10);
    rows[6][i] = i % 32 == 7 ? 1000.0F : 0.25F;
  }
  const Case c = {42, kIn, kOut};
  for (const DType dtype : kQuantised) {
    for (const float weight : {1.0F, -1.0F}) {
      SCOPED_TRACE(DTypeName(dtype));
      Data d(c, dtype, random_);
      for (int64_t row = 0; row < c.rows; ++row) {
        std::copy(rows[row % 7].begin(), rows[row % 7].end(), d.x.begin() + row * kIn);
      }
      // Weights with the largest codes of their type. With terms of one sign and size the rounding
      // errors of an fp32 sum have one sign too.
      d.w.Fill(weight);
      CheckData(c, dtype, d, 4);
    }
  }
}

TEST_F(QuantLinearTest, NanAndInfinityStayInTheirRow) {
  for (const DType dtype : kQuantised) {
    SCOPED_TRACE(DTypeName(dtype));
    for (const int64_t rows : {1, 3, 9, 50}) {
      const Case c = {rows, 512, 37};
      Data d(c, dtype, random_);
      d.x[(rows - 1) * 512 + 300] = std::nanf("");
      if (rows > 1) d.x[511] = HUGE_VALF;
      ForEachIsa([&](std::string_view) {
        const std::vector<float> y =
            Run(c, d, ContextFor("", ComputeMode::kBF16, &pool_), 0, c.rows);
        for (int64_t i = 0; i < rows * c.out; ++i) {
          const int64_t row = i / c.out;
          if (row == rows - 1) {
            EXPECT_TRUE(std::isnan(y[i])) << i;
          } else {
            EXPECT_EQ(std::isfinite(y[i]), row != 0) << i;
          }
        }
      });
    }
  }
}

TEST_F(QuantLinearTest, BlockScalesMayBeginAnywhere) {
  for (const Case& c : kF8Cases) CheckCase(c, DType::kF8E4M3);
}

// Every byte is a legal code, NaN aside: the vector decoders agree with the plain one on each.
TEST_F(QuantLinearTest, EveryF8CodeIsDecoded) {
  std::vector<uint8_t> codes(256);
  for (int i = 0; i < 256; ++i) codes[i] = static_cast<uint8_t>((i & 0x7f) == 0x7f ? 0 : i);
  const float scale = 0.5f;
  const ConstTensor w = ConstTensor(codes.data(), DType::kF8E4M3, {1, 256})
                            .WithScales({.data = &scale, .stride = 1, .rows = 256, .cols = 256});
  std::vector<float> x(256 * 256, 0), y(256);
  for (int i = 0; i < 256; ++i) x[i * 256 + i] = 1;
  const LinearTarget target{w, {}, Tensor(y.data(), DType::kF32, {256, 1})};
  ForEachIsa([&](std::string_view) {
    for (const ComputeMode mode : kModes) {
      ASSERT_TRUE(
          Linear({.x = ConstTensor(x.data(), DType::kF32, {256, 256}), .targets = {&target, 1}},
                 ContextFor("", mode, nullptr))
              .ok());
      for (int i = 0; i < 256; ++i) EXPECT_EQ(y[i], F8E4M3ToF32(codes[i]) * 0.5f) << i;
    }
  });
}

TEST_F(QuantLinearTest, TargetsOfDifferentTypesShareACall) {
  const QuantMatrix first(DType::kQ4_K, 12, 512, random_), second(DType::kQ6_K, 5, 512, random_);
  const std::vector<float> values = Normal(7 * 512, random_), x = Normal(50 * 512, random_);
  std::vector<uint16_t> third(values.size());
  QuantiseRow(DType::kBF16, values.data(), 7 * 512, third.data());
  const ConstTensor weights[] = {first.view(), second.view(),
                                 ConstTensor(third.data(), DType::kBF16, {7, 512})};
  const auto run = [&](int64_t rows, const Context& context) {
    std::vector<std::vector<float>> ys;
    for (const ConstTensor& w : weights) ys.emplace_back(rows * w.dim(0));
    std::vector<LinearTarget> targets;
    for (size_t i = 0; i < 3; ++i) {
      targets.push_back(
          {weights[i], {}, Tensor(ys[i].data(), DType::kF32, {rows, weights[i].dim(0)})});
    }
    EXPECT_TRUE(
        Linear({.x = ConstTensor(x.data(), DType::kF32, {rows, 512}), .targets = targets}, context)
            .ok());
    return ys;
  };
  ForEachIsa([&](std::string_view) {
    for (const ComputeMode mode : kModes) {
      for (const int64_t rows : {3, 50}) {
        const auto got = run(rows, ContextFor("", mode, &pool_));
        const auto want = run(rows, ContextFor("reference", mode, &pool_));
        const double limit = mode == ComputeMode::kF32 ? 1e-3 : 0.5;
        for (size_t t = 0; t < 3; ++t) {
          for (size_t i = 0; i < got[t].size(); ++i) EXPECT_NEAR(got[t][i], want[t][i], limit);
        }
      }
    }
  });
}

TEST_F(QuantLinearTest, GroupsMatchLinear) {
  const std::vector<int32_t> few = {0, 3, 3, 8}, many = {0, 1, 1, 100};
  const std::vector<float> x = Normal(200 * 256, random_);
  for (const DType dtype : kQuantised) {
    SCOPED_TRACE(DTypeName(dtype));
    std::vector<QuantMatrix> matrices;
    std::vector<ConstTensor> w;
    for (int i = 0; i < 3; ++i) matrices.emplace_back(dtype, 10, 256, random_, 64 * i, 32 * i);
    for (const QuantMatrix& m : matrices) w.push_back(m.view());
    constexpr std::pair<ComputeMode, bool> kModesAndInvariance[] = {
        {ComputeMode::kF32, false}, {ComputeMode::kBF16, false}, {ComputeMode::kBF16, true}};
    ForEachIsa([&](std::string_view) {
      for (const auto& [mode, invariant] : kModesAndInvariance) {
        for (const std::vector<int32_t>& offsets : {few, many}) {
          const int64_t all = offsets.back();
          std::vector<float> y(all * 10);
          const GroupedTarget target{w, Tensor(y.data(), DType::kF32, {all, 10})};
          Context context = ContextFor("", mode, &pool_);
          context.batch_invariant = invariant;
          ASSERT_TRUE(GroupedLinear({.x = ConstTensor(x.data(), DType::kF32, {all, 256}),
                                     .offsets = offsets,
                                     .targets = {&target, 1}},
                                    context)
                          .ok());
          for (int g = 0; g < 3; ++g) {
            const int64_t begin = offsets[g], count = offsets[g + 1] - begin;
            if (count == 0) continue;
            // By the same kernel, whose choice may depend on the number of rows.
            const int64_t rows =
                offsets == many && !invariant ? std::max(count, cpu::AmxFewestRows(dtype)) : count;
            std::vector<float> want(rows * 10);
            const LinearTarget one{w[g], {}, Tensor(want.data(), DType::kF32, {rows, 10})};
            ASSERT_TRUE(Linear({.x = ConstTensor(x.data() + begin * 256, DType::kF32, {rows, 256}),
                                .targets = {&one, 1}},
                               context)
                            .ok());
            for (int64_t i = 0; i < count * 10; ++i) EXPECT_EQ(y[begin * 10 + i], want[i]) << i;
          }
        }
      }
    });
  }
}

TEST_F(QuantLinearTest, EmbeddingDecodesRows) {
  for (const DType dtype : kQuantised) {
    SCOPED_TRACE(DTypeName(dtype));
    const QuantMatrix table(dtype, 200, 256, random_);
    const std::vector<int32_t> ids = {199, 0, 130, 130};
    for (const char* kernel : {"cpu", "reference"}) {
      std::vector<float> y(4 * 256), want(256);
      ASSERT_TRUE(
          Embedding(
              {.table = table.view(), .ids = ids, .y = Tensor(y.data(), DType::kF32, {4, 256})},
              ContextFor(kernel, ComputeMode::kF32, &pool_))
              .ok());
      for (size_t i = 0; i < ids.size(); ++i) {
        DequantiseMatrixRow(table.view(), ids[i], 0, 256, want.data());
        EXPECT_EQ(std::memcmp(y.data() + i * 256, want.data(), 256 * sizeof(float)), 0) << kernel;
      }
    }
  }
}

TEST_F(QuantLinearTest, RefusesWhatDoesNotFit) {
  const std::vector<float> x(512);
  std::vector<uint8_t> bytes(4096);
  std::vector<float> y(16);
  const auto message = [&](const ConstTensor& w) {
    const LinearTarget target{w, {}, Tensor(y.data(), DType::kF32, {1, w.dim(0)})};
    const Status status = Linear(
        {.x = ConstTensor(x.data(), DType::kF32, {1, w.dim(1)}), .targets = {&target, 1}}, {});
    return status.ok() ? std::string() : std::string(status.message());
  };
  const ConstTensor f8(bytes.data(), DType::kF8E4M3, {2, 300});
  const float scale[3] = {1, 1, 1};
  EXPECT_NE(message(f8).find("f8_e4m3 without block scales"), std::string::npos) << message(f8);
  EXPECT_EQ(message(f8.WithScales({.data = scale, .stride = 3})), "");
  EXPECT_NE(message(f8.WithScales({.data = scale, .stride = 2, .row0 = 127})).find("row stride 2"),
            std::string::npos);
  EXPECT_NE(message(f8.WithScales({.data = scale, .stride = 3, .cols = 0})).find("128 x 0"),
            std::string::npos);
  EXPECT_NE(message(f8.WithScales({.data = scale, .stride = 3, .col0 = -1})).find("(0, -1)"),
            std::string::npos);
  EXPECT_NE(
      message(ConstTensor(bytes.data(), DType::kQ4_K, {2, 128})).find("a multiple of the 256"),
      std::string::npos);
  EXPECT_NE(
      message(ConstTensor(bytes.data(), DType::kQ8_0, {2, 32}, {48, 1})).find("row stride 48"),
      std::string::npos);
  EXPECT_NE(message(ConstTensor(bytes.data() + 1, DType::kQ8_0, {2, 32})).find("not aligned"),
            std::string::npos);
  EXPECT_NE(message(ConstTensor(bytes.data(), DType::kI32, {2, 32})).find("is i32"),
            std::string::npos);
}

}  // namespace
}  // namespace mla
