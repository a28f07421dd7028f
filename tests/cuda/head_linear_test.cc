// Per-head products on the device, against fp64 on the host.
#include <cuda_runtime_api.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstdint>
#include <random>
#include <string>
#include <vector>

#include "base/numeric.h"
#include "cuda/decode_case.h"
#include "mla/cuda.h"

namespace mla::test {
namespace {

struct ProductCase {
  int64_t tokens, heads, in, out;
  DType dtype = DType::kBF16;
  bool in_major = true;
  int64_t gap = 0;    // elements between the rows of x, w and y
  int64_t y_gap = 0;  // as many more between those of y
};

float ToFloat(DType dtype, uint16_t bits) {
  return dtype == DType::kBF16 ? Bf16ToF32(bits) : F16ToF32(bits);
}

// A tensor of 16-bit numbers whose gaps hold NaN.
struct Filled {
  std::vector<uint16_t> host;
  DeviceBuffer device;

  Filled(int64_t elements, DType dtype, uint32_t seed) : host(elements), device(elements * 2) {
    std::mt19937 rng(seed);
    std::normal_distribution<float> normal;
    for (uint16_t& v : host)
      v = dtype == DType::kBF16 ? F32ToBf16(normal(rng)) : F32ToF16(normal(rng));
  }
  // Elements for which `real` is false become NaN; then all of it goes to the device.
  template <typename Real>
  void Finish(const Real& real) {
    for (size_t i = 0; i < host.size(); ++i) {
      if (!real(static_cast<int64_t>(i))) host[i] = 0xffff;
    }
    device.CopyFrom(host.data(), host.size() * 2);
  }
};

class HeadLinearOnDevice : public ::testing::TestWithParam<ProductCase> {
 protected:
  void SetUp() override {
    const auto devices = cuda::Devices();
    if (!devices.ok()) GTEST_SKIP() << "no CUDA device: " << devices.message();
  }
};

TEST_P(HeadLinearOnDevice, MatchesTheReference) {
  const ProductCase c = GetParam();
  const Device gpu = {DeviceType::kCuda, 0};
  const int64_t x_row = c.in + c.gap, y_row = c.out + c.gap + c.y_gap;
  const int64_t w_row = (c.in_major ? c.in : c.out) + c.gap;
  const int64_t w_rows = c.in_major ? c.out : c.in;
  Filled x(c.tokens * c.heads * x_row, c.dtype, 1), w(c.heads * w_rows * w_row, c.dtype, 2);
  x.Finish([&](int64_t i) { return i % x_row < c.in; });
  w.Finish([&](int64_t i) { return i % w_row < w_row - c.gap; });
  DeviceBuffer y(c.tokens * c.heads * y_row * 2);
  cuda::HeadLinearArgs args;
  args.x = ConstTensor(x.device.data(), c.dtype, {c.tokens, c.heads, c.in},
                       {c.heads * x_row, x_row, 1}, gpu);
  args.w = ConstTensor(w.device.data(), c.dtype, {c.heads, c.out, c.in},
                       {w_rows * w_row, c.in_major ? w_row : 1, c.in_major ? 1 : w_row}, gpu);
  args.y = Tensor(y.data(), c.dtype, {c.tokens, c.heads, c.out}, {c.heads * y_row, y_row, 1}, gpu);

  const auto verdicts = cuda::ExplainHeadLinear(args, {});
  ASSERT_TRUE(verdicts.ok()) << verdicts.message();
  for (const KernelVerdict& verdict : *verdicts) {
    if (!verdict.refusal.empty()) continue;
    cuda::CudaContext context;
    context.kernel = verdict.kernel;
    y.Fill(0xff);
    const Status status = cuda::HeadLinear(args, context);
    ASSERT_TRUE(status.ok()) << status.message();
    ASSERT_EQ(cudaDeviceSynchronize(), cudaSuccess);
    std::vector<uint16_t> got(y.bytes() / 2);
    y.CopyTo(got.data(), y.bytes());
    int64_t wrong = 0;
    for (int64_t t = 0; t < c.tokens; ++t) {
      for (int64_t h = 0; h < c.heads; ++h) {
        for (int64_t o = 0; o < y_row; ++o) {
          const uint16_t bits = got[(t * c.heads + h) * y_row + o];
          if (o >= c.out) {
            wrong += bits != 0xffff;
            continue;
          }
          double want = 0, magnitude = 0;
          for (int64_t i = 0; i < c.in; ++i) {
            const int64_t at = c.in_major ? o * w_row + i : i * w_row + o;
            const double term = double{ToFloat(c.dtype, x.host[(t * c.heads + h) * x_row + i])} *
                                ToFloat(c.dtype, w.host[h * w_rows * w_row + at]);
            want += term;
            magnitude += std::abs(term);
          }
          // fp32 sums, then one rounding.
          const double rounding = c.dtype == DType::kBF16 ? 0x1p-8 : 0x1p-11;
          const double limit = 2e-6 * magnitude + rounding * std::abs(want);
          wrong += !(std::abs(ToFloat(c.dtype, bits) - want) <= limit);
        }
      }
    }
    EXPECT_EQ(wrong, 0) << verdict.kernel;
  }
}

INSTANTIATE_TEST_SUITE_P(Cases, HeadLinearOnDevice,
                         ::testing::Values(ProductCase{1, 3, 128, 512, DType::kBF16,
                                                       false},           // W_UK
                                           ProductCase{1, 3, 512, 128},  // W_UV
                                           ProductCase{9, 2, 192, 512, DType::kF16, false, 8},
                                           ProductCase{33, 2, 512, 256, DType::kF16, true, 16},
                                           ProductCase{70, 1, 64, 256, DType::kBF16, false},
                                           ProductCase{5, 2, 72, 24, DType::kBF16, true},
                                           ProductCase{17, 2, 40, 88, DType::kBF16, false},
                                           ProductCase{4, 2, 65, 33, DType::kBF16, true},
                                           ProductCase{4, 2, 30, 31, DType::kF16, false, 1},
                                           ProductCase{17, 2, 40, 88, DType::kBF16, false, 0, 3},
                                           // Tiles of 64 tokens.
                                           ProductCase{195, 16, 40, 504, DType::kBF16, false},
                                           ProductCase{250, 64, 200, 88, DType::kF16, true, 8},
                                           ProductCase{220, 64, 64, 88, DType::kBF16, true, 0, 1}));

TEST(HeadLinear, BadArgumentsAreNamed) {
  const Device gpu = {DeviceType::kCuda, 0};
  alignas(16) static char memory[16];
  cuda::HeadLinearArgs args;
  args.x = ConstTensor(memory, DType::kBF16, {1, 2, 8}, gpu);
  args.w = ConstTensor(memory, DType::kBF16, {2, 4, 8}, {64, 16, 2}, gpu);
  args.y = Tensor(memory, DType::kBF16, {1, 2, 4}, gpu);
  EXPECT_EQ(cuda::HeadLinear(args, {}).message(),
            "head_linear: w has inner strides 16 and 2, want one of them 1");
}

}  // namespace
}  // namespace mla::test
