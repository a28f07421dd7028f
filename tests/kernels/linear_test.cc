// Linear, GroupedLinear and HeadLinear: every kernel on every instruction set against the
// reference.
#include "mla/linear.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <functional>
#include <random>
#include <string>
#include <vector>

#include "base/numeric.h"
#include "base/threads.h"
#include "base/workspace.h"
#include "kernels/cpu/isa.h"
#include "support/every_isa.h"
#include "support/test_tensor.h"
#include "support/tolerance.h"

namespace mla {
namespace {

using test::ForEachIsa;
using test::Operator;
using test::TestTensor;
using test::Tolerance;
using test::ToleranceFor;

constexpr DType kDTypes[] = {DType::kF32, DType::kF16, DType::kBF16};
constexpr ComputeMode kModes[] = {ComputeMode::kF32, ComputeMode::kBF16};

TestTensor Map(const TestTensor& t, const std::function<float(float)>& fn) {
  TestTensor mapped = t;
  for (int64_t i = 0; i < t.size(); ++i) mapped.Set(i, fn(t.At(i)));
  return mapped;
}

TestTensor Abs(const TestTensor& t) {
  return Map(t, [](float v) { return std::fabs(v); });
}

// What a mode makes of the activations.
TestTensor Activations(const TestTensor& x, ComputeMode mode) {
  if (mode == ComputeMode::kF32) return x;
  return Map(x, [](float v) { return Bf16ToF32(F32ToBf16(v)); });
}

// The kernels, apart from the reference, that must accept the mode and dtype on the ISA in use.
std::vector<std::string> KernelsFor(ComputeMode mode, DType w) {
  std::vector<std::string> kernels = {"cpu_simd"};
  if (mode != ComputeMode::kBF16 || w != DType::kBF16) return kernels;
  if (cpu::UsesAvx512Bf16()) kernels.push_back("cpu_avx512_bf16");
  if (cpu::UsesAmxBf16()) kernels.push_back("cpu_amx_bf16");
  return kernels;
}

void ExpectClose(const TestTensor& got, const TestTensor& want, const TestTensor& magnitude,
                 const Tolerance& tolerance) {
  ASSERT_EQ(got.size(), want.size());
  for (int64_t i = 0; i < got.size(); ++i) {
    const double error = std::fabs(double{got.At(i)} - want.At(i));
    ASSERT_LE(error, tolerance.Limit(magnitude.At(i)))
        << "element " << i << " of " << got.view().ShapeString() << ": " << got.At(i) << ", want "
        << want.At(i);
  }
}

void ExpectSameBits(const TestTensor& got, const TestTensor& want) {
  ASSERT_EQ(got.size(), want.size());
  for (int64_t i = 0; i < got.size(); ++i) {
    const float a = got.At(i), b = want.At(i);
    ASSERT_EQ(std::bit_cast<uint32_t>(a), std::bit_cast<uint32_t>(b))
        << "element " << i << " of " << got.view().ShapeString() << ": " << a << " and " << b;
  }
}

class LinearTest : public ::testing::Test {
 protected:
  Context ContextFor(std::string_view kernel, ComputeMode mode) {
    Context context;
    context.threads = &pool_;
    context.workspace = &workspace_;
    context.compute = mode;
    context.kernel = kernel;
    return context;
  }

  std::mt19937 random_{7};
  ThreadPool pool_{2};
  Workspace workspace_;
};

struct LinearCase {
  int64_t rows, in, out;
  DType dtype;
  bool bias, accumulate;

  std::string Name() const {
    return Concat("rows ", rows, " in ", in, " out ", out, " ", DTypeName(dtype),
                  bias ? " bias" : "", accumulate ? " accumulate" : "");
  }
};

// The tensors of a case. y has two columns more than the product: they must stay NaN.
struct LinearData {
  TestTensor x, w, bias, y;

  LinearData(const LinearCase& c, std::mt19937& random)
      : x(DType::kF32, {c.rows, c.in}, {c.in + 3, 1}),
        w(c.dtype, {c.out, c.in}, {c.in + 5, 1}),
        y(DType::kF32, {c.rows, c.out + 2}) {
    x.Fill(random);
    w.Fill(random);
    if (c.bias) bias = TestTensor(c.dtype, {c.out}).Fill(random);
    for (int64_t i = 0; c.accumulate && i < y.size(); ++i) {
      if (i % (c.out + 2) < c.out) y.Set(i, static_cast<float>(i % 13) - 6);
    }
  }
};

Status RunCase(const LinearCase& c, const TestTensor& x, const TestTensor& w,
               const TestTensor& bias, TestTensor& y, const Context& context) {
  const LinearTarget target{w.view(), c.bias ? bias.view() : ConstTensor(),
                            y.view().Slice(1, 0, c.out)};
  return Linear({.x = x.view(), .targets = {&target, 1}, .accumulate = c.accumulate}, context);
}

// Sum |x| |w| + |bias| + |y|: what a rounding error of an output is relative to.
TestTensor Magnitude(const LinearCase& c, const LinearData& data, const Context& reference) {
  TestTensor y = Abs(data.y);
  EXPECT_TRUE(
      RunCase(c, Abs(data.x), Abs(data.w), c.bias ? Abs(data.bias) : data.bias, y, reference).ok());
  return y;
}

void ExpectLinearClose(const LinearCase& c, const TestTensor& got, const TestTensor& want,
                       const TestTensor& magnitude, const Tolerance& tolerance) {
  for (int64_t i = 0; i < got.size(); ++i) {
    if (i % (c.out + 2) >= c.out) {
      ASSERT_TRUE(std::isnan(got.At(i))) << "wrote past the outputs, element " << i;
      continue;
    }
    const double error = std::fabs(double{got.At(i)} - want.At(i));
    ASSERT_LE(error, tolerance.Limit(magnitude.At(i)))
        << "row " << i / (c.out + 2) << " output " << i % (c.out + 2) << ": " << got.At(i)
        << ", want " << want.At(i);
  }
}

std::vector<LinearCase> LinearGrid() {
  std::vector<LinearCase> cases;
  int64_t index = 0;
  for (int64_t rows : {1, 2, 3, 5, 8, 17, 64, 130}) {
    for (int64_t in : {1, 7, 16, 31, 32, 33, 64, 256, 300, 1000}) {
      for (int64_t out : {1, 3, 8, 17, 64, 100}) {
        // Every dtype meets every size of each axis; all of them with all would take minutes.
        ++index;
        if (rows * in * out > 1000000 && index % 2 == 0) continue;
        cases.push_back({rows, in, out, kDTypes[index % 3], index % 4 == 1, index % 4 == 2});
      }
    }
  }
  // Long rows are summed in panels, large blocks in several.
  cases.push_back({9, 2049, 10, DType::kBF16, true, false});
  cases.push_back({21, 3000, 37, DType::kBF16, false, true});
  cases.push_back({21, 3000, 37, DType::kF16, false, false});
  return cases;
}

TEST_F(LinearTest, MatchesReferenceOnEveryIsa) {
  for (const LinearCase& c : LinearGrid()) {
    SCOPED_TRACE(c.Name());
    const LinearData data(c, random_);
    const TestTensor magnitude = Magnitude(c, data, ContextFor("reference", ComputeMode::kF32));
    for (const ComputeMode mode : kModes) {
      TestTensor want = data.y;
      ASSERT_TRUE(RunCase(c, Activations(data.x, mode), data.w, data.bias, want,
                          ContextFor("reference", ComputeMode::kF32))
                      .ok());
      ForEachIsa([&](std::string_view) {
        for (const std::string& kernel : KernelsFor(mode, c.dtype)) {
          SCOPED_TRACE(kernel + ", mode " + std::string(ComputeModeName(mode)));
          TestTensor got = data.y;
          const Status status =
              RunCase(c, data.x, data.w, data.bias, got, ContextFor(kernel, mode));
          ASSERT_TRUE(status.ok()) << status.message();
          ExpectLinearClose(c, got, want, magnitude, ToleranceFor(Operator::kLinear, mode));
        }
      });
      if (HasFatalFailure()) return;
    }
  }
}

TEST_F(LinearTest, SeveralTargetsOfDifferentKinds) {
  const TestTensor x = TestTensor(DType::kF32, {9, 40}).Fill(random_);
  const TestTensor w0 = TestTensor(DType::kBF16, {70, 40}).Fill(random_);
  const TestTensor w1 = TestTensor(DType::kF16, {3, 40}).Fill(random_);
  const TestTensor w2 = TestTensor(DType::kF32, {130, 40}).Fill(random_);
  const TestTensor bias = TestTensor(DType::kBF16, {3}).Fill(random_);
  const auto run = [&](const Context& context) {
    std::vector<TestTensor> y = {TestTensor(DType::kF32, {9, 70}), TestTensor(DType::kF32, {9, 3}),
                                 TestTensor(DType::kF32, {9, 130})};
    const LinearTarget targets[] = {{w0.view(), {}, y[0].view()},
                                    {w1.view(), bias.view(), y[1].view()},
                                    {w2.view(), {}, y[2].view()}};
    EXPECT_TRUE(Linear({.x = x.view(), .targets = targets}, context).ok());
    return y;
  };
  const auto want = run(ContextFor("reference", ComputeMode::kF32));
  ForEachIsa([&](std::string_view) {
    const auto got = run(ContextFor("cpu_simd", ComputeMode::kF32));
    for (int i = 0; i < 3; ++i) {
      const TestTensor magnitude = Map(want[i], [](float) { return 40.0f; });
      ExpectClose(got[i], want[i], magnitude, ToleranceFor(Operator::kLinear, ComputeMode::kF32));
    }
  });
}

TEST_F(LinearTest, NoRowsAndNoInputs) {
  const TestTensor x(DType::kF32, {0, 8}), empty(DType::kF32, {2, 0});
  const TestTensor w = TestTensor(DType::kBF16, {4, 8}).Fill(random_);
  const TestTensor no_inputs(DType::kBF16, {4, 0});
  const TestTensor bias = TestTensor(DType::kF32, {4}).Fill(random_);
  TestTensor none(DType::kF32, {0, 4}), y(DType::kF32, {2, 4});
  ForEachIsa([&](std::string_view) {
    for (const std::string& kernel : KernelsFor(ComputeMode::kBF16, DType::kBF16)) {
      const Context context = ContextFor(kernel, ComputeMode::kBF16);
      const LinearTarget no_rows{w.view(), {}, none.view()};
      EXPECT_TRUE(Linear({.x = x.view(), .targets = {&no_rows, 1}}, context).ok());
      const LinearTarget only_bias{no_inputs.view(), bias.view(), y.view()};
      const Status status = Linear({.x = empty.view(), .targets = {&only_bias, 1}}, context);
      if (!status.ok()) continue;  // refused by the operator's own validation
      for (int64_t i = 0; i < 8; ++i) EXPECT_EQ(y.At(i), bias.At(i % 4));
      // Products over no inputs are zero, whatever the call before has left in scratch memory.
      TestTensor zeros(DType::kF32, {2, 3, 64});
      for (const int64_t in : {int64_t{8}, int64_t{0}}) {
        const TestTensor q = TestTensor(DType::kF32, {2, 3, in}).Fill(random_);
        const TestTensor w_uk =
            TestTensor(DType::kBF16, {3, 64, in}, {64 * in, 1, 64}).Fill(random_);
        EXPECT_TRUE(HeadLinear({.x = q.view(), .w = w_uk.view(), .y = zeros.view()}, context).ok());
      }
      for (int64_t i = 0; i < zeros.size(); ++i) EXPECT_EQ(zeros.At(i), 0);
    }
  });
}

TEST_F(LinearTest, NanStaysInItsRow) {
  TestTensor x = TestTensor(DType::kF32, {6, 50}).Fill(random_);
  x.Set(2 * 50 + 49, std::nanf(""));
  const TestTensor w = TestTensor(DType::kBF16, {20, 50}).Fill(random_);
  ForEachIsa([&](std::string_view) {
    for (const std::string& kernel : KernelsFor(ComputeMode::kBF16, DType::kBF16)) {
      TestTensor y(DType::kF32, {6, 20});
      const LinearTarget target{w.view(), {}, y.view()};
      ASSERT_TRUE(
          Linear({.x = x.view(), .targets = {&target, 1}}, ContextFor(kernel, ComputeMode::kBF16))
              .ok());
      for (int64_t i = 0; i < y.size(); ++i) {
        EXPECT_EQ(std::isnan(y.At(i)), i / 20 == 2) << kernel << " element " << i;
      }
    }
  });
}

TEST_F(LinearTest, Bf16KernelsRefuseWhatTheyCannotDo) {
  std::string_view kernel;
  const TestTensor x = TestTensor(DType::kF32, {1, 8}).Fill(random_);
  TestTensor y(DType::kF32, {1, 4});
  const auto run = [&](DType dtype, ComputeMode mode) {
    const TestTensor w = TestTensor(dtype, {4, 8}).Fill(random_);
    const LinearTarget target{w.view(), {}, y.view()};
    return Linear({.x = x.view(), .targets = {&target, 1}}, ContextFor(kernel, mode));
  };
  for (const std::string_view name : {"cpu_avx512_bf16", "cpu_amx_bf16"}) {
    kernel = name;
    EXPECT_FALSE(run(DType::kF16, ComputeMode::kBF16).ok());
    EXPECT_FALSE(run(DType::kBF16, ComputeMode::kF32).ok());
    ForEachIsa([&](std::string_view) {
      EXPECT_EQ(run(DType::kBF16, ComputeMode::kBF16).ok(),
                name == "cpu_amx_bf16" ? cpu::UsesAmxBf16() : cpu::UsesAvx512Bf16());
    });
  }
}

// An output must not depend on the other rows of the call, nor on the number of threads.
TEST_F(LinearTest, EqualBitsForAnyRowsAndThreads) {
  struct Shape {
    int64_t rows, in, out;
  };
  std::vector<Shape> shapes = {
      {37, 100, 70}, {300, 64, 40}, {13, 300, 1100}, {140, 2100, 21}, {125, 65600, 2}};
  for (int64_t rows = 24; rows < 36; ++rows) {  // every number of rows in the last tile
    shapes.push_back({rows, 40, 33});
    shapes.push_back({rows, 4130, 2});
  }
  for (const Shape& s : shapes) {
    for (const DType dtype : kDTypes) {
      // So long that not all rows pass by a panel at once; only the kernel for bf16 has panels.
      if (s.in > 60000 && dtype != DType::kBF16) continue;
      const LinearCase c{s.rows, s.in, s.out, dtype, false, false};
      SCOPED_TRACE(c.Name());
      const LinearData data(c, random_);
      ForEachIsa([&](std::string_view) {
        for (const ComputeMode mode : kModes) {
          for (const std::string& kernel : KernelsFor(mode, dtype)) {
            const Context two = ContextFor(kernel, mode);
            Context one = two;
            one.threads = nullptr;
            TestTensor all = data.y, alone = data.y;
            ASSERT_TRUE(RunCase(c, data.x, data.w, data.bias, all, two).ok());
            ASSERT_TRUE(RunCase(c, data.x, data.w, data.bias, alone, one).ok());
            ExpectSameBits(alone, all);
            TestTensor row_by_row = data.y;
            for (int64_t row = 0; row < s.rows; ++row) {
              const LinearTarget target{
                  data.w.view(), {}, row_by_row.view().Slice(0, row, row + 1).Slice(1, 0, s.out)};
              ASSERT_TRUE(
                  Linear({.x = data.x.view().Slice(0, row, row + 1), .targets = {&target, 1}}, two)
                      .ok());
            }
            ExpectSameBits(row_by_row, all);
          }
        }
      });
      if (HasFatalFailure()) return;
    }
  }
}

// So many outputs that a kernel may write them past the caches, where lines of y allow it.
TEST_F(LinearTest, EqualBitsForManyOutputs) {
  constexpr int64_t kRows = 64, kIn = 40, kOut = 16400, kPartRows = 32;
  const TestTensor x = TestTensor(DType::kF32, {kRows, kIn}).Fill(random_);
  const TestTensor w = TestTensor(DType::kBF16, {kOut, kIn}).Fill(random_);
  const TestTensor bias = TestTensor(DType::kBF16, {kOut}).Fill(random_);
  for (const bool accumulate : {false, true}) {
    for (const int64_t offset : {0, 1}) {  // floats: whole lines, then none
      Workspace memory;
      const auto run = [&](int64_t rows_at_once) {
        Tensor y(memory.Allocate<float>(kRows * kOut + offset) + offset, DType::kF32,
                 {kRows, kOut});
        std::fill_n(y.as<float>(), kRows * kOut, accumulate ? 3.0F : std::nanf(""));
        for (int64_t row = 0; row < kRows; row += rows_at_once) {
          const int64_t end = row + rows_at_once;
          const LinearTarget target{w.view(), bias.view(), y.Slice(0, row, end)};
          EXPECT_TRUE(Linear({.x = x.view().Slice(0, row, end),
                              .targets = {&target, 1},
                              .accumulate = accumulate},
                             ContextFor({}, ComputeMode::kBF16))
                          .ok());
        }
        return y;
      };
      const Tensor whole = run(kRows), parts = run(kPartRows);
      for (int64_t i = 0; i < kRows * kOut; ++i) {
        const float a = whole.as<float>()[i], b = parts.as<float>()[i];
        ASSERT_EQ(std::bit_cast<uint32_t>(a), std::bit_cast<uint32_t>(b))
            << "row " << i / kOut << " output " << i % kOut << ": " << a << " and " << b
            << (accumulate ? ", accumulated" : "") << ", offset " << offset;
      }
    }
  }
}

TEST_F(LinearTest, GroupedMatchesReference) {
  const std::vector<int32_t> offsets = {0, 0, 3, 4, 4, 21, 22, 22};
  const int64_t groups = static_cast<int64_t>(offsets.size()) - 1, rows = offsets.back();
  for (const DType dtype : kDTypes) {
    for (const int64_t in : {20, 64, 129}) {
      const int64_t out = 45;
      const TestTensor x = TestTensor(DType::kF32, {rows, in}, {in + 4, 1}).Fill(random_);
      std::vector<TestTensor> weights, magnitudes;
      std::vector<ConstTensor> gate, up, gate_abs, up_abs;
      for (int64_t i = 0; i < 2 * groups; ++i) {
        weights.push_back(TestTensor(dtype, {out, in}, {in + 1, 1}).Fill(random_));
        magnitudes.push_back(Abs(weights.back()));
      }
      for (int64_t i = 0; i < groups; ++i) {
        gate.push_back(weights[i].view());
        up.push_back(weights[groups + i].view());
        gate_abs.push_back(magnitudes[i].view());
        up_abs.push_back(magnitudes[groups + i].view());
      }
      const auto run = [&](const TestTensor& from, const std::vector<ConstTensor>& w0,
                           const std::vector<ConstTensor>& w1, const Context& context) {
        std::vector<TestTensor> y(2, TestTensor(DType::kF32, {rows, out}, {out + 7, 1}));
        const GroupedTarget targets[] = {{w0, y[0].view()}, {w1, y[1].view()}};
        EXPECT_TRUE(
            GroupedLinear({.x = from.view(), .offsets = offsets, .targets = targets}, context)
                .ok());
        return y;
      };
      const Context reference = ContextFor("reference", ComputeMode::kF32);
      const auto magnitude = run(Abs(x), gate_abs, up_abs, reference);
      for (const ComputeMode mode : kModes) {
        const auto want = run(Activations(x, mode), gate, up, reference);
        ForEachIsa([&](std::string_view) {
          for (const std::string& kernel : KernelsFor(mode, dtype)) {
            const auto got = run(x, gate, up, ContextFor(kernel, mode));
            ExpectClose(got[0], want[0], magnitude[0], ToleranceFor(Operator::kLinear, mode));
            ExpectClose(got[1], want[1], magnitude[1], ToleranceFor(Operator::kLinear, mode));
          }
        });
      }
    }
  }
}

// Both layouts of a per-head weight: contiguous along `in` (W_UV) and along `out` (W_UK, absorbed).
class HeadLinearTest : public LinearTest, public ::testing::WithParamInterface<bool> {
 protected:
  static TestTensor Weight(DType dtype, int64_t heads, int64_t out, int64_t in) {
    if (GetParam()) {
      const int64_t stride = out + 3;
      return TestTensor(dtype, {heads, out, in}, {in * stride + 2, 1, stride});
    }
    const int64_t stride = in + 3;
    return TestTensor(dtype, {heads, out, in}, {out * stride + 2, stride, 1});
  }
  static TestTensor Run(const TestTensor& x, const TestTensor& w, const Context& context) {
    const int64_t rows = x.view().dim(0), heads = x.view().dim(1), out = w.view().dim(1);
    TestTensor y(DType::kF32, {rows, heads, out}, {heads * (out + 1) + 5, out + 1, 1});
    const Status status = HeadLinear({.x = x.view(), .w = w.view(), .y = y.view()}, context);
    EXPECT_TRUE(status.ok()) << status.message();
    return y;
  }
  TestTensor Activation(int64_t rows, int64_t heads, int64_t in) {
    return TestTensor(DType::kF32, {rows, heads, in}, {heads * (in + 2) + 1, in + 2, 1})
        .Fill(random_);
  }
};

TEST_P(HeadLinearTest, MatchesReferenceOnEveryIsa) {
  int64_t index = 0;
  for (const int64_t rows : {1, 2, 3, 5, 9, 20, 25, 40}) {
    for (const int64_t in : {1, 7, 12, 20, 24, 33, 128, 2051}) {
      for (const int64_t out : {1, 3, 17, 33, 64, 100, 130}) {
        if (in > 2000 && out != 33) continue;
        const int64_t heads = 1 + index % 3;
        const DType dtype = kDTypes[++index % 3];
        SCOPED_TRACE(Concat("rows ", rows, " heads ", heads, " in ", in, " out ", out, " ",
                            DTypeName(dtype)));
        const TestTensor x = Activation(rows, heads, in);
        const TestTensor w = Weight(dtype, heads, out, in).Fill(random_);
        const Context reference = ContextFor("reference", ComputeMode::kF32);
        const TestTensor magnitude = Run(Abs(x), Abs(w), reference);
        for (const ComputeMode mode : kModes) {
          const TestTensor want = Run(Activations(x, mode), w, reference);
          ForEachIsa([&](std::string_view) {
            for (const std::string& kernel : KernelsFor(mode, dtype)) {
              SCOPED_TRACE(kernel + ", mode " + std::string(ComputeModeName(mode)));
              ExpectClose(Run(x, w, ContextFor(kernel, mode)), want, magnitude,
                          ToleranceFor(Operator::kLinear, mode));
            }
          });
          if (HasFatalFailure()) return;
        }
      }
    }
  }
}

TEST_P(HeadLinearTest, EqualBitsForAnyRowsAndThreads) {
  const int64_t rows = 37, heads = 3, in = 77, out = 556;
  for (const DType dtype : kDTypes) {
    const TestTensor x = Activation(rows, heads, in);
    const TestTensor w = Weight(dtype, heads, out, in).Fill(random_);
    ForEachIsa([&](std::string_view) {
      for (const ComputeMode mode : kModes) {
        for (const std::string& kernel : KernelsFor(mode, dtype)) {
          Context context = ContextFor(kernel, mode);
          const TestTensor all = Run(x, w, context);
          for (int64_t row = 0, count = 1; row < rows; row += count, count = count % 9 + 1) {
            const int64_t end = std::min(row + count, rows);
            TestTensor y(DType::kF32, {end - row, heads, out});
            ASSERT_TRUE(HeadLinear({.x = x.view().Slice(0, row, end), .w = w.view(), .y = y.view()},
                                   context)
                            .ok());
            for (int64_t i = 0; i < y.size(); ++i) {
              ASSERT_EQ(y.At(i), all.At(row * heads * out + i)) << kernel << " row " << row;
            }
          }
          context.threads = nullptr;
          ExpectSameBits(Run(x, w, context), all);
        }
      }
    });
  }
}

INSTANTIATE_TEST_SUITE_P(Layouts, HeadLinearTest, ::testing::Bool(), [](const auto& info) {
  return std::string(info.param ? "OutContiguous" : "InContiguous");
});

}  // namespace
}  // namespace mla
