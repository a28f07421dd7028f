// The row-moving CPU kernels against the reference: same bits, for every dtype and stride.
#include <gtest/gtest.h>

#include <random>
#include <vector>

#include "base/threads.h"
#include "mla/elementwise.h"
#include "support/test_tensor.h"

namespace mla {
namespace {

using mla::test::TestTensor;

constexpr DType kDTypes[] = {DType::kF32, DType::kF16, DType::kBF16};

// Runs op(context, output) with both kernels and expects equal values within `tolerance`.
template <typename Op>
void ExpectSame(TestTensor output, float tolerance, const Op& op) {
  ThreadPool threads(2);
  TestTensor got = output;
  TestTensor want = output;
  Context context;
  context.threads = &threads;
  context.kernel = "cpu";
  Status status = op(context, got);
  ASSERT_TRUE(status.ok()) << status.message();
  context.kernel = "reference";
  status = op(context, want);
  ASSERT_TRUE(status.ok()) << status.message();
  for (int64_t i = 0; i < got.size(); ++i) {
    ASSERT_NEAR(got.At(i), want.At(i), tolerance) << "element " << i;
  }
}

TEST(Rows, Embedding) {
  std::mt19937 random(1);
  for (const DType dtype : kDTypes) {
    TestTensor table(dtype, {50, 37}, {41, 1});
    table.Fill(random);
    const std::vector<int32_t> ids = {49, 0, 7, 7, 23};
    ExpectSame(TestTensor(DType::kF32, {5, 37}, {40, 1}), 0,
               [&](const Context& context, TestTensor& y) {
                 return Embedding({.table = table.view(), .ids = ids, .y = y.view()}, context);
               });
  }
}

TEST(Rows, ScaleInPlaceAndOntoWhatIsThere) {
  std::mt19937 random(3);
  TestTensor x(DType::kF32, {700, 37}, {41, 1});
  x.Fill(random);
  TestTensor before(DType::kF32, {700, 37}, {40, 1});
  before.Fill(random);
  for (const bool accumulate : {false, true}) {
    ExpectSame(before, 1e-6F, [&](const Context& context, TestTensor& y) {
      return Scale({.x = x.view(), .scale = 1.7F, .accumulate = accumulate, .y = y.view()},
                   context);
    });
  }
  ExpectSame(before, 1e-6F, [&](const Context& context, TestTensor& y) {
    return Scale({.x = y.view(), .scale = -0.3F, .y = y.view()}, context);
  });
}

TEST(Rows, RopeInAndOutOfPlace) {
  std::mt19937 random(2);
  for (const RopePairing pairing : {RopePairing::kInterleaved, RopePairing::kHalves}) {
    TestTensor turns(DType::kF32, {600, 2, 5});
    turns.Fill(random);
    TestTensor x(DType::kF32, {600, 3, 10}, {64, 21, 1});
    x.Fill(random);
    const auto rope = [&](const Context& context, const ConstTensor& from, TestTensor& y) {
      return Rope({.x = from, .turns = turns.view(), .pairing = pairing, .y = y.view()}, context);
    };
    ExpectSame(TestTensor(DType::kF32, {600, 3, 10}), 1e-6F,
               [&](const Context& c, TestTensor& y) { return rope(c, x.view(), y); });
    ExpectSame(x, 1e-6F, [&](const Context& c, TestTensor& y) { return rope(c, y.view(), y); });
  }
}

TEST(Rows, GatherAndCombine) {
  std::mt19937 random(3);
  TestTensor x(DType::kF32, {90, 33}, {35, 1});
  x.Fill(random);
  std::vector<int32_t> rows(80);
  std::vector<float> weights(80);
  for (size_t i = 0; i < rows.size(); ++i) {
    rows[i] = static_cast<int32_t>(random() % 90);
    weights[i] = static_cast<float>(i) / 80;
  }
  ExpectSame(TestTensor(DType::kF32, {80, 33}), 0, [&](const Context& context, TestTensor& y) {
    return GatherRows({.x = x.view(), .rows = rows, .y = y.view()}, context);
  });
  TestTensor y(DType::kF32, {20, 33}, {50, 1});
  y.Fill(random);
  ExpectSame(y, 1e-5F, [&](const Context& context, TestTensor& out) {
    return CombineExperts({.x = x.view(), .rows = rows, .weights = weights, .y = out.view()},
                          context);
  });
}

TEST(Rows, CacheWriteConvertsAndTouchesOnlyItsColumns) {
  std::mt19937 random(4);
  for (const DType dtype : kDTypes) {
    TestTensor x(DType::kF32, {7, 9}, {11, 1});
    x.Fill(random, 100);
    const std::vector<int64_t> slots = {3, 19, 0, 4, 18, 7, 1};
    TestTensor cache(dtype, {20, 16});
    cache.Fill(random);
    ExpectSame(cache, 0, [&](const Context& context, TestTensor& out) {
      return CacheWrite({.x = x.view(), .slots = slots, .cache = out.view(), .column = 4}, context);
    });
    TestTensor written = cache;
    ASSERT_TRUE(
        CacheWrite({.x = x.view(), .slots = slots, .cache = written.view(), .column = 4}, {}).ok());
    EXPECT_EQ(written.At(3 * 16 + 3), cache.At(3 * 16 + 3));
    EXPECT_EQ(written.At(3 * 16 + 13), cache.At(3 * 16 + 13));
    EXPECT_EQ(written.At(2 * 16 + 5), cache.At(2 * 16 + 5));
    EXPECT_NE(written.At(3 * 16 + 4), cache.At(3 * 16 + 4));
  }
}

}  // namespace
}  // namespace mla
