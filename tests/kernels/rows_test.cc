// The row-moving CPU kernels against the reference: same bits, for every dtype and stride.
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>
#include <random>
#include <span>
#include <string_view>
#include <utility>
#include <vector>

#include "base/numeric.h"
#include "base/threads.h"
#include "mla/elementwise.h"
#include "mla/int8_latent.h"
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

// A cache of int8 latents whose untouched bytes are 0x5a.
struct Int8Cache {
  Int8LatentLayout layout;
  std::vector<uint8_t> bytes;

  Int8Cache(const Int8LatentLayout& latent, int64_t rows)
      : layout(latent), bytes(rows * latent.bytes(), 0x5a) {}
  Tensor view() {
    const int64_t rows = std::ssize(bytes) / layout.bytes();
    return Tensor(bytes.data(), DType::kI8, {rows, layout.bytes()});
  }
  const uint8_t* Row(int64_t slot) const { return bytes.data() + slot * layout.bytes(); }
  int8_t Code(int64_t slot, int64_t i) const { return static_cast<int8_t>(Row(slot)[i]); }
  float Scale(int64_t slot, int64_t group) const {
    float scale;
    std::memcpy(&scale, Row(slot) + layout.scales_offset() + 4 * group, sizeof(scale));
    return scale;
  }
  float Rope(int64_t slot, int64_t i) const {
    uint16_t bits;
    std::memcpy(&bits, Row(slot) + layout.rope_offset() + 2 * i, sizeof(bits));
    return Bf16ToF32(bits);
  }
};

Status WriteInt8(const TestTensor& x, std::span<const int64_t> slots, Int8Cache& cache,
                 const Context& context) {
  return CacheWrite({.x = x.view(),
                     .slots = slots,
                     .cache = cache.view(),
                     .kv_lora_rank = cache.layout.kv_lora_rank},
                    context);
}

TEST(Int8Latent, BytesAreTheContracts) {
  EXPECT_EQ((Int8LatentLayout{512, 64}.bytes()), 512 + 4 * 4 + 64 * 2);
  EXPECT_EQ((Int8LatentLayout{512, 64}.rope_offset()), 528);
  EXPECT_EQ((Int8LatentLayout{129, 0}.bytes()), 132 + 2 * 4);
  EXPECT_EQ((Int8LatentLayout{7, 3}.bytes()), 8 + 4 + 8);
}

TEST(Int8Latent, EveryNumberIsWithinHalfAStepAndBothKernelsAgree) {
  std::mt19937 random(5);
  const std::vector<int64_t> slots = {3, 0, 4};
  ThreadPool threads(2);
  for (const Int8LatentLayout& layout :
       {Int8LatentLayout{512, 64}, {200, 10}, {128, 0}, {127, 1}, {1, 2}, {7, 3}}) {
    const int64_t width = layout.kv_lora_rank + layout.qk_rope_head_dim;
    TestTensor x(DType::kF32, {3, width}, {width + 2, 1});
    x.Fill(random, 3);
    Int8Cache cache(layout, 6), reference(layout, 6);
    ASSERT_TRUE(WriteInt8(x, slots, cache, {.threads = &threads, .kernel = "cpu"}).ok());
    ASSERT_TRUE(WriteInt8(x, slots, reference, {.kernel = "reference"}).ok());
    EXPECT_EQ(cache.bytes, reference.bytes);
    for (int64_t row = 0; row < 3; ++row) {
      for (int64_t i = 0; i < layout.kv_lora_rank; ++i) {
        const float scale = cache.Scale(slots[row], i / 128);
        const auto read = static_cast<float>(cache.Code(slots[row], i)) * scale;
        ASSERT_NEAR(read, x.At(row * width + i), scale * 0.5001F) << row << " " << i;
      }
      for (int64_t i = 0; i < layout.qk_rope_head_dim; ++i) {
        const float value = x.At(row * width + layout.kv_lora_rank + i);
        ASSERT_EQ(cache.Rope(slots[row], i), Bf16ToF32(F32ToBf16(value)));
      }
    }
    for (const int64_t untouched : {1, 2, 5}) {
      for (int64_t i = 0; i < layout.bytes(); ++i) ASSERT_EQ(cache.Row(untouched)[i], 0x5a);
    }
  }
}

// Zeros, numbers too small to divide by, ties, the largest finite ones, and those that are not.
TEST(Int8Latent, ExtremesAreThoseOfTheContract) {
  const Int8LatentLayout layout{256, 0};
  const float kHuge = std::numeric_limits<float>::max();
  const float kNaN = std::numeric_limits<float>::quiet_NaN();
  const float kInfinity = std::numeric_limits<float>::infinity();
  TestTensor x(DType::kF32, {7, 256});
  for (int64_t i = 0; i < x.size(); ++i) x.Set(i, 0);
  for (int64_t i = 0; i < 128; ++i) x.Set(128 + i, 1);  // the second group is another's
  x.Set(256, 1e-38F);                                   // row 1: next to nothing
  for (const auto& [i, value] : {std::pair{0, 127.0F}, {1, 0.5F}, {2, 1.5F}, {3, -2.5F}}) {
    x.Set(2 * 256 + i, value);
  }
  x.Set(3 * 256, -kHuge);
  x.Set(3 * 256 + 1, kHuge);
  x.Set(4 * 256 + 5, kNaN);
  x.Set(5 * 256 + 6, -kInfinity);
  x.Set(6 * 256 + 127, 1e-20F);
  const std::vector<int64_t> slots = {0, 1, 2, 3, 4, 5, 6};
  for (const std::string_view kernel : {"cpu", "reference"}) {
    Int8Cache cache(layout, 7);
    ASSERT_TRUE(WriteInt8(x, slots, cache, {.kernel = kernel}).ok());
    EXPECT_EQ(cache.Scale(0, 0), 0) << kernel;
    EXPECT_EQ(cache.Code(0, 0), 0);
    EXPECT_EQ(cache.Scale(0, 1), 1.0F / 127);
    EXPECT_EQ(cache.Code(0, 200), 127);
    EXPECT_EQ(cache.Scale(1, 0), 0);
    EXPECT_EQ(cache.Code(1, 0), 0);
    EXPECT_EQ(cache.Scale(2, 0), 1);
    EXPECT_EQ(cache.Code(2, 1), 0);  // ties to even
    EXPECT_EQ(cache.Code(2, 2), 2);
    EXPECT_EQ(cache.Code(2, 3), -2);
    EXPECT_EQ(cache.Code(3, 0), -127);
    EXPECT_EQ(cache.Code(3, 1), 127);
    EXPECT_TRUE(std::isnan(cache.Scale(4, 0)));
    EXPECT_TRUE(std::isnan(cache.Scale(5, 0)));
    EXPECT_EQ(cache.Scale(5, 1), 0);
    EXPECT_EQ(cache.Code(6, 127), 127);
  }
}

}  // namespace
}  // namespace mla
