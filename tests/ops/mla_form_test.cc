#include "dispatch/mla_form.h"

#include <gtest/gtest.h>

namespace mla {
namespace {

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

}  // namespace
}  // namespace mla
