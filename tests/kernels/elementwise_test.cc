// RmsNorm and SiluMul: the SIMD kernels on every instruction set against the reference.
#include "mla/elementwise.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <random>
#include <string>

#include "base/threads.h"
#include "base/workspace.h"
#include "support/every_isa.h"
#include "support/test_tensor.h"
#include "support/tolerance.h"

namespace mla {
namespace {

using test::ForEachIsa;
using test::TestTensor;

constexpr DType kDTypes[] = {DType::kF32, DType::kF16, DType::kBF16};
constexpr float kInf = std::numeric_limits<float>::infinity();

class RowwiseTest : public ::testing::Test {
 protected:
  Context ContextFor(std::string_view kernel) {
    Context context;
    context.threads = &pool_;
    context.workspace = &workspace_;
    context.kernel = kernel;
    return context;
  }
  // Rows padded with NaN, which must not matter.
  TestTensor Matrix(int64_t rows, int64_t dim, float scale = 1) {
    return TestTensor(DType::kF32, {rows, dim}, {dim + 3, 1}).Fill(random_, scale);
  }

  std::mt19937 random_{11};
  ThreadPool pool_{2};
  Workspace workspace_;
};

void ExpectClose(const TestTensor& got, const TestTensor& want) {
  const auto tolerance = test::ToleranceFor(test::Operator::kRowwise, ComputeMode::kF32);
  ASSERT_EQ(got.size(), want.size());
  for (int64_t i = 0; i < got.size(); ++i) {
    ASSERT_LE(std::fabs(double{got.At(i)} - want.At(i)), tolerance.Limit(std::fabs(want.At(i))))
        << "element " << i << ": " << got.At(i) << ", want " << want.At(i);
  }
}

TEST_F(RowwiseTest, RmsNormMatchesReference) {
  int64_t index = 0;
  for (const int64_t rows : {0, 1, 3, 40, 300}) {
    for (const int64_t dim : {1, 5, 16, 31, 64, 100, 257, 1536}) {
      const DType dtype = kDTypes[++index % 3];
      SCOPED_TRACE(Concat("rows ", rows, " dim ", dim, " ", DTypeName(dtype)));
      const TestTensor x = Matrix(rows, dim);
      const TestTensor w = TestTensor(dtype, {dim}).Fill(random_);
      const auto run = [&](std::string_view kernel) {
        TestTensor y(DType::kF32, {rows, dim}, {dim + 1, 1});
        EXPECT_TRUE(
            RmsNorm({.x = x.view(), .w = w.view(), .eps = 1e-5f, .y = y.view()}, ContextFor(kernel))
                .ok());
        return y;
      };
      const TestTensor want = run("reference");
      ForEachIsa([&](std::string_view) { ExpectClose(run("cpu_simd"), want); });
      if (HasFatalFailure()) return;
    }
  }
}

// eps belongs inside the square root: with a row this small it is all that counts.
TEST_F(RowwiseTest, RmsNormOfTinyRowsIsGovernedByEps) {
  TestTensor x(DType::kF32, {1, 40});
  const TestTensor w = TestTensor(DType::kF32, {40}).Fill(random_);
  for (int64_t i = 0; i < 40; ++i) x.Set(i, 1e-6f);
  ForEachIsa([&](std::string_view) {
    TestTensor y(DType::kF32, {1, 40});
    ASSERT_TRUE(
        RmsNorm({.x = x.view(), .w = w.view(), .eps = 1e-4f, .y = y.view()}, ContextFor("cpu_simd"))
            .ok());
    for (int64_t i = 0; i < 40; ++i) {
      EXPECT_NEAR(y.At(i), 1e-6f / 1e-2f * w.At(i), 1e-6f * std::fabs(w.At(i)) * 1e-2f);
    }
  });
}

TEST_F(RowwiseTest, RmsNormInPlace) {
  const TestTensor w = TestTensor(DType::kBF16, {77}).Fill(random_);
  const TestTensor x = Matrix(5, 77);
  ForEachIsa([&](std::string_view) {
    TestTensor apart(DType::kF32, {5, 77});
    TestTensor in_place = x;
    const Context context = ContextFor("cpu_simd");
    ASSERT_TRUE(RmsNorm({x.view(), w.view(), 1e-6f, apart.view()}, context).ok());
    ASSERT_TRUE(RmsNorm({in_place.view(), w.view(), 1e-6f, in_place.view()}, context).ok());
    EXPECT_EQ(in_place.Values(), apart.Values());
  });
}

TEST_F(RowwiseTest, SiluMulMatchesReference) {
  for (const int64_t rows : {0, 1, 3, 40}) {
    for (const int64_t dim : {1, 5, 16, 31, 64, 257, 10000}) {
      SCOPED_TRACE(Concat("rows ", rows, " dim ", dim));
      const TestTensor gate = Matrix(rows, dim, 8), up = Matrix(rows, dim);
      const auto run = [&](std::string_view kernel) {
        TestTensor y(DType::kF32, {rows, dim}, {dim + 1, 1});
        EXPECT_TRUE(SiluMul({gate.view(), up.view(), y.view()}, ContextFor(kernel)).ok());
        return y;
      };
      const TestTensor want = run("reference");
      ForEachIsa([&](std::string_view) { ExpectClose(run("cpu_simd"), want); });
      if (HasFatalFailure()) return;
    }
  }
}

TEST_F(RowwiseTest, SiluOfExtremes) {
  const float values[] = {-1000, -104, -88, -20, -0.0f, 0, 1e-30f, 20, 88, 1000, kInf};
  const int64_t count = std::size(values);
  TestTensor gate(DType::kF32, {1, count}), up(DType::kF32, {1, count});
  for (int64_t i = 0; i < count; ++i) {
    gate.Set(i, values[i]);
    up.Set(i, 1);
  }
  ForEachIsa([&](std::string_view) {
    TestTensor y(DType::kF32, {1, count});
    ASSERT_TRUE(SiluMul({gate.view(), up.view(), y.view()}, ContextFor("cpu_simd")).ok());
    for (int64_t i = 0; i < count; ++i) {
      if (values[i] <= -88) {
        EXPECT_NEAR(y.At(i), 0, 1e-35) << values[i];
      } else if (values[i] >= 20) {
        EXPECT_EQ(y.At(i), values[i]);
      } else {
        const double x = values[i];
        const double want = x / (1 + std::exp(-x));
        EXPECT_NEAR(y.At(i), want, 1e-6 * std::fabs(want)) << values[i];
      }
    }
  });
}

TEST_F(RowwiseTest, SiluMulInPlaceAndNan) {
  TestTensor gate = Matrix(3, 50);
  const TestTensor up = Matrix(3, 50);
  gate.Set(50 + 20, std::nanf(""));
  ForEachIsa([&](std::string_view) {
    const Context context = ContextFor("cpu_simd");
    TestTensor apart(DType::kF32, {3, 50});
    ASSERT_TRUE(SiluMul({gate.view(), up.view(), apart.view()}, context).ok());
    TestTensor over_gate = gate, over_up = up;
    ASSERT_TRUE(SiluMul({over_gate.view(), up.view(), over_gate.view()}, context).ok());
    ASSERT_TRUE(SiluMul({gate.view(), over_up.view(), over_up.view()}, context).ok());
    for (int64_t i = 0; i < apart.size(); ++i) {
      ASSERT_EQ(std::isnan(apart.At(i)), i == 70) << i;
      if (i == 70) continue;
      EXPECT_EQ(over_gate.At(i), apart.At(i));
      EXPECT_EQ(over_up.At(i), apart.At(i));
    }
  });
}

}  // namespace
}  // namespace mla
