// The choice of a kernel, with kernels that do nothing: the same on machines without a device.
#include <gtest/gtest.h>

#include <string>
#include <string_view>

#include "dispatch/cuda/choose.h"

namespace mla::cuda {
namespace {

struct Fake {
  std::string_view name;
  std::string_view (*refuses)(const int& args, const DeviceProperties& device);
};
constexpr Fake kFast = {"fast", [](const int& args, const DeviceProperties&) {
                          return std::string_view(args > 8 ? "takes at most 8" : "");
                        }};
constexpr Fake kPlain = {"plain", [](const int& args, const DeviceProperties&) {
                           return std::string_view(args < 0 ? "takes no less than 0" : "");
                         }};
constexpr const Fake* kFakes[] = {&kFast, &kPlain};

std::string Chosen(int args, std::string_view asked) {
  CudaContext context;
  context.kernel = asked;
  const auto chosen = Choose<Fake>("op", kFakes, args, DeviceProperties{}, context);
  return std::string(chosen.ok() ? (*chosen)->name : chosen.message());
}

TEST(ChooseKernel, TakesTheFirstThatAcceptsOrSaysWhyNot) {
  EXPECT_EQ(Chosen(8, ""), "fast");
  EXPECT_EQ(Chosen(9, ""), "plain");
  EXPECT_EQ(Chosen(8, "plain"), "plain");
  EXPECT_EQ(Chosen(9, "fast"), "op: fast refuses: takes at most 8");
  EXPECT_EQ(Chosen(9, "none"), "op: no kernel is called none, want one of fast, plain");
  CudaContext context;
  const KernelVerdicts verdicts = Judge<Fake>(kFakes, 9, DeviceProperties{}, context);
  ASSERT_EQ(verdicts.size(), 2u);
  EXPECT_EQ(verdicts[0].refusal, "takes at most 8");
  EXPECT_EQ(verdicts[1].refusal, "");
}

}  // namespace
}  // namespace mla::cuda
