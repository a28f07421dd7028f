#include "dispatch/mla_form.h"

#include <gtest/gtest.h>

namespace mla {
namespace {

constexpr MlaShape kV3 = {128, 512, 128, 64, 128};

TEST(MlaForm, CountsTheOperationsOfBothForms) {
  // One query, one head, 10 tokens, by hand.
  const MlaShape shape = {1, 8, 4, 2, 3};
  EXPECT_DOUBLE_EQ(MlaFlops(MlaForm::kAbsorbed, shape, 1, 10), 2.0 * (8 * 4 + 8 * 3 + 10 * 18));
  EXPECT_DOUBLE_EQ(MlaFlops(MlaForm::kExpanded, shape, 1, 10),
                   2.0 * (10 * 8 * (4 + 3) + 10 * (4 + 2 + 3)));
  // Two causal queries see 9 + 10 keys; queries before the first key see none.
  EXPECT_DOUBLE_EQ(MlaFlops(MlaForm::kExpanded, shape, 2, 10), 2.0 * (10 * 8 * 7 + 19 * 9));
  EXPECT_DOUBLE_EQ(MlaFlops(MlaForm::kExpanded, shape, 5, 2), 2.0 * (2 * 8 * 7 + 3 * 9));
}

TEST(MlaForm, DecodeIsAbsorbedAndPrefillExpanded) {
  EXPECT_EQ(ChooseMlaForm(kV3, 1, 4096), MlaForm::kAbsorbed);
  EXPECT_EQ(ChooseMlaForm(kV3, 4, 32768), MlaForm::kAbsorbed);
  EXPECT_EQ(ChooseMlaForm(kV3, 512, 512), MlaForm::kExpanded);
  EXPECT_EQ(ChooseMlaForm(kV3, 4096, 4096), MlaForm::kExpanded);
  EXPECT_EQ(ChooseMlaForm(kV3, 16, 100000), MlaForm::kAbsorbed);  // a short chunk, far in
}

}  // namespace
}  // namespace mla
