// The estimate that the choice between absorbed and expanded comes from.
#include "dispatch/mla_cost.h"

#include <gtest/gtest.h>

namespace mla {
namespace {

constexpr MlaShape kV3 = {128, 512, 128, 64, 128};
constexpr MlaShape kLite = {16, 512, 128, 64, 128};
constexpr MlaArithmetic kArithmetics[] = {MlaArithmetic::kF32, MlaArithmetic::kBf16,
                                          MlaArithmetic::kInt8, MlaArithmetic::kAmxBf16,
                                          MlaArithmetic::kAmxInt8};
constexpr MlaForm kForms[] = {MlaForm::kAbsorbed, MlaForm::kExpanded};

MlaShape WithHeads(int32_t heads) {
  MlaShape shape = kV3;
  shape.heads = heads;
  return shape;
}

TEST(MlaCost, CountsByHand) {
  // 2 queries at the end of 300 tokens: 299 + 300 pairs, one tile of 2 heads x 2 rows, no split.
  const MlaShape shape = {2, 8, 4, 2, 3};
  const MlaWork absorbed = CountMlaWork(MlaForm::kAbsorbed, shape, 2, 300);
  EXPECT_EQ(absorbed.splits, 1);
  EXPECT_DOUBLE_EQ(absorbed.counts[kMlaProducts], 2.0 * 599 * 18);
  EXPECT_DOUBLE_EQ(absorbed.counts[kMlaTiles], 299.5 * 18);
  EXPECT_DOUBLE_EQ(absorbed.counts[kMlaWeights], 2.0 * 8 * 7);
  EXPECT_DOUBLE_EQ(absorbed.counts[kMlaProjection], 2 * 2.0 * 8 * 7);
  EXPECT_DOUBLE_EQ(absorbed.counts[kMlaMerge], 0);
  const MlaWork expanded = CountMlaWork(MlaForm::kExpanded, shape, 2, 300);
  EXPECT_DOUBLE_EQ(expanded.counts[kMlaProducts], 2.0 * 599 * 9);
  EXPECT_DOUBLE_EQ(expanded.counts[kMlaTiles], 2 * 299.5 * 9);
  EXPECT_DOUBLE_EQ(expanded.counts[kMlaProjection], 300 * 2.0 * 8 * 7);
  // Keys are split where rows are few, and then partial results are merged.
  const MlaWork split = CountMlaWork(MlaForm::kAbsorbed, shape, 2, 3000);
  EXPECT_GT(split.splits, 1);
  EXPECT_DOUBLE_EQ(split.counts[kMlaMerge], 2.0 * 2 * split.splits * 8);
}

TEST(MlaCost, GrowsWithTheCacheTheQueriesAndTheHeads) {
  for (const MlaArithmetic arithmetic : kArithmetics) {
    for (const MlaForm form : kForms) {
      for (const int64_t q : {1, 3, 16, 100, 512}) {
        double last = 0;
        for (int64_t kv = q; kv < 70000; kv = kv * 2 + 7) {
          const double cost = EstimateMla(form, kV3, q, kv, arithmetic).total();
          EXPECT_GT(cost, last) << q << " on " << kv;
          last = cost;
        }
      }
      for (const int64_t depth : {0, 500, 10000}) {
        double last = 0;
        for (int64_t q = 1; q <= 1024; q *= 2) {
          const double cost = EstimateMla(form, kLite, q, depth + q, arithmetic).total();
          EXPECT_GT(cost, last) << q << " at " << depth;
          last = cost;
        }
        last = 0;
        for (int32_t heads = 1; heads <= 128; heads *= 2) {
          const double cost =
              EstimateMla(form, WithHeads(heads), 64, depth + 64, arithmetic).total();
          EXPECT_GT(cost, last) << heads << " heads at " << depth;
          last = cost;
        }
      }
    }
  }
}

TEST(MlaCost, NamesTheLargestTerm) {
  MlaEstimate estimate;
  estimate.seconds = {1, 2, 5, 3, 0, 1};
  EXPECT_DOUBLE_EQ(estimate.total(), 12);
  EXPECT_EQ(estimate.largest(), kMlaProjection);
  EXPECT_EQ(MlaTermName(estimate.largest()), "up-projection");
}

// Decisions that no measurement has ever put in doubt.
TEST(MlaCost, DecodeIsAbsorbedAndPrefillExpanded) {
  for (const MlaArithmetic arithmetic : kArithmetics) {
    for (const int32_t heads : {8, 16, 64, 128}) {
      const MlaShape shape = WithHeads(heads);
      const auto choose = [&](int64_t q, int64_t kv) {
        return ChooseMlaForm(shape, q, kv, arithmetic);
      };
      for (const int64_t depth : {64, 512, 2048, 8192, 32768}) {
        EXPECT_EQ(choose(1, depth + 1), MlaForm::kAbsorbed) << heads << " heads at " << depth;
      }
      EXPECT_EQ(choose(4, 32768), MlaForm::kAbsorbed) << heads;
      EXPECT_EQ(choose(8, 100000), MlaForm::kAbsorbed) << heads;  // a short chunk, far in
      EXPECT_EQ(choose(512, 512), MlaForm::kExpanded) << heads;
      EXPECT_EQ(choose(4096, 4096), MlaForm::kExpanded) << heads;
      EXPECT_EQ(choose(512, 8192), MlaForm::kExpanded) << heads;
    }
  }
}

TEST(MlaCost, ArithmeticFollowsModeAndCache) {
  EXPECT_EQ(MlaArithmeticOf(ComputeMode::kF32, DType::kBF16), MlaArithmetic::kF32);
  EXPECT_EQ(MlaArithmeticOf(ComputeMode::kBF16, DType::kF16), MlaArithmetic::kF32);
}

}  // namespace
}  // namespace mla
