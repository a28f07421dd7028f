// The tiles of the Ampere kernel of mla_decode, chosen on the host: no device is needed.
#include <gtest/gtest.h>

#include <cstddef>

#include "kernels/cuda/mla_decode/sm80.h"
#include "kernels/cuda/mla_decode/sm80_fp8.h"

namespace mla::test {
namespace {

using cuda::sm80::MakePlan;
using cuda::sm80::Plan;

struct Memory {
  const char* device;
  size_t per_block, per_sm;
};
constexpr Memory kH100 = {"compute capability 9.0", 227 << 10, 228 << 10};
constexpr Memory kA100 = {"compute capability 8.0", 163 << 10, 164 << 10};
constexpr Memory kConsumer = {"compute capability 8.6 and 8.9", 99 << 10, 100 << 10};

struct Dims {
  int d_k, d_v;
};
constexpr Dims kDims[] = {{576, 512}, {512, 512}, {320, 256}, {288, 256}};

Plan PlanFor(const Memory& memory, Dims dims, int num_rows) {
  return MakePlan(dims.d_k, dims.d_v, num_rows, memory.per_block, memory.per_sm);
}

TEST(Sm80Plan, FitsTheDevice) {
  for (const Memory& memory : {kH100, kA100, kConsumer}) {
    for (const Dims dims : kDims) {
      for (int rows = 1; rows <= 300; ++rows) {
        const Plan plan = PlanFor(memory, dims, rows);
        SCOPED_TRACE(::testing::Message()
                     << memory.device << ", d_k " << dims.d_k << ", " << rows << " rows: tile "
                     << plan.tile.rows << " x " << plan.tile.tokens << ", stages " << plan.stages);
        ASSERT_TRUE(IsCompiled(plan.tile));
        EXPECT_EQ(plan.tile.d_k, dims.d_k);
        EXPECT_EQ(plan.tile.d_v, dims.d_v);
        EXPECT_GE(plan.stages, cuda::sm80::kMinStages);
        EXPECT_LE(plan.stages, cuda::sm80::kMaxStages);
        EXPECT_LE(plan.blocks_per_sm, plan.tile.blocks_per_sm());
        // A block's shared memory and the 1 KiB that the device adds to it.
        const size_t bytes = plan.tile.shared_bytes(plan.stages);
        EXPECT_LE(bytes, memory.per_block);
        EXPECT_LE(plan.blocks_per_sm * (bytes + 1024), memory.per_sm);
      }
    }
  }
}

TEST(Sm80Plan, StridesAreCountedIn32Bits) {
  constexpr int64_t kMost = int64_t{32} << 30;  // elements of 2 bytes: 64 GiB
  char byte = 0;
  const auto fits = [&](int64_t pages, int64_t page_stride, int64_t token_stride) {
    return cuda::sm80::StridesFit(
        ConstTensor(&byte, DType::kBF16, {pages, 64, 576}, {page_stride, token_stride, 1}));
  };
  EXPECT_TRUE(fits(2, kMost - 8, 576));
  EXPECT_FALSE(fits(2, kMost, 576));
  EXPECT_TRUE(fits(1, kMost, 576));  // a page alone is never counted from
  EXPECT_FALSE(fits(2, kMost - 8, kMost));
}

TEST(Sm80Plan, FewRowsAreNotPaddedToMany) {
  for (const Dims dims : kDims) {
    for (const int rows : {1, 8, 16}) EXPECT_EQ(PlanFor(kH100, dims, rows).tile.rows, 16) << rows;
    for (const int rows : {17, 20, 32}) EXPECT_EQ(PlanFor(kH100, dims, rows).tile.rows, 32) << rows;
    for (const int rows : {40, 64, 128}) {
      EXPECT_EQ(PlanFor(kH100, dims, rows).tile.rows, 64) << rows;
    }
  }
}

TEST(Sm80Plan, ConsumerDevicesHaveNoRoomFor64WideRows) {
  for (const int rows : {20, 40, 64, 128}) {
    const Plan plan = PlanFor(kConsumer, kDims[0], rows);
    EXPECT_EQ(plan.tile.rows, 32) << rows;
    EXPECT_EQ(plan.tile.tokens, 16) << rows;
  }
}

TEST(Sm80Plan, Fp8FitsTheDevice) {
  for (const Memory& memory : {kH100, kA100, kConsumer}) {
    const cuda::sm80::Fp8Plan plan = cuda::sm80::MakeFp8Plan(memory.per_block, memory.per_sm);
    SCOPED_TRACE(memory.device);
    ASSERT_GE(plan.stages, cuda::sm80::kFp8MinStages);
    EXPECT_LE(plan.stages, cuda::sm80::kFp8MaxStages);
    const size_t bytes = plan.tile.shared_bytes(plan.stages);
    EXPECT_LE(bytes, memory.per_block);
    EXPECT_LE(plan.blocks_per_sm * (bytes + 1024), memory.per_sm);
    // Consumer devices have room for one block, the others for two.
    EXPECT_EQ(plan.blocks_per_sm, memory.per_sm > (100 << 10) ? 2 : 1);
  }
}

TEST(Sm80Plan, TooLittleSharedMemory) {
  const Memory small = {"none", 48 << 10, 64 << 10};
  EXPECT_EQ(PlanFor(small, kDims[0], 16).stages, 0);
  EXPECT_EQ(cuda::sm80::MakeFp8Plan(small.per_block, small.per_sm).stages, 0);
}

}  // namespace
}  // namespace mla::test
