#include "kernels/cpu/isa.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdlib>
#include <string>
#include <vector>

#include "kernels/cpu/simd_targets.h"
// After simd_targets.h.
#include "hwy/targets.h"
#include "mla/elementwise.h"
#include "support/every_isa.h"

namespace mla::cpu {
namespace {

TEST(IsaTest, SetsAreDistinctAndEndInTheBaseline) {
  std::vector<std::string_view> isas = SupportedIsas();
  ASSERT_FALSE(isas.empty());
#if defined(__x86_64__)
  EXPECT_EQ(isas.back(), "baseline");
#endif
  std::sort(isas.begin(), isas.end());
  EXPECT_EQ(std::adjacent_find(isas.begin(), isas.end()), isas.end());
}

TEST(IsaTest, StartsWithTheBestUnlessLimited) {
  if (std::getenv("MLA_ISA") != nullptr) GTEST_SKIP() << "MLA_ISA is set";
  EXPECT_EQ(CurrentIsa(), SupportedIsas().front());
  EXPECT_TRUE(CurrentIsaError().ok());
}

TEST(IsaTest, LimitsAndRestores) {
  const std::string before(CurrentIsa());
  const int64_t targets = hwy::SupportedTargets();
  int64_t last = -1;  // all bits
  test::ForEachIsa([&](std::string_view isa) {
    EXPECT_EQ(CurrentIsa(), isa);
    EXPECT_EQ(UsesAmxBf16(), isa == "amx_bf16");
    EXPECT_EQ(UsesAvx512Bf16(), isa == "amx_bf16" || isa == "avx512_bf16");
    // Each step takes targets away and adds none.
    EXPECT_EQ(hwy::SupportedTargets() & ~last, 0);
    last = hwy::SupportedTargets();
  });
  EXPECT_EQ(CurrentIsa(), before);
  EXPECT_EQ(hwy::SupportedTargets(), targets);
}

TEST(IsaTest, RefusesUnknownSetsWithTheKnownOnes) {
  const std::string before(CurrentIsa());
  const Status status = LimitIsa("avx1024");
  ASSERT_FALSE(status.ok());
  EXPECT_NE(status.message().find("avx1024"), std::string_view::npos);
  EXPECT_NE(status.message().find(SupportedIsas().back()), std::string_view::npos);
  EXPECT_EQ(CurrentIsa(), before);
}

}  // namespace
}  // namespace mla::cpu
