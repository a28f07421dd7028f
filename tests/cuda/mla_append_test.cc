// Rotary embedding and append on the device, against fp64 on the host.
#include <cuda_runtime_api.h>
#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "base/numeric.h"
#include "cuda/decode_case.h"
#include "mla/cuda.h"

namespace mla::test {
namespace {

constexpr int32_t kTokens = 7, kPages = 5, kPageSize = 4;

struct AppendCase {
  int32_t rank = 512, rope = 64;
  DType dtype = DType::kBF16;
  DType cache = DType::kBF16;  // kF8E4M3: FP8 latents
  RopePairing pairing = RopePairing::kInterleaved;
  float magnitude = 1.25f;
  int32_t heads = 3;
  int32_t gap = 0;  // elements between the rows of c_kv, k_pe and q_pe

  int64_t RowBytes() const {
    return cache == DType::kF8E4M3 ? cuda::kFp8LatentBytes : 2 * (rank + rope);
  }
};

int64_t Bytes(DType dtype) { return dtype == DType::kF32 ? 4 : 2; }

// Rounds to the type and writes it.
float Put(DType dtype, float value, void* to) {
  if (dtype == DType::kF32) {
    std::memcpy(to, &value, 4);
    return value;
  }
  const uint16_t bits = dtype == DType::kBF16 ? F32ToBf16(value) : F32ToF16(value);
  std::memcpy(to, &bits, 2);
  return dtype == DType::kBF16 ? Bf16ToF32(bits) : F16ToF32(bits);
}

float Get(DType dtype, const void* from) {
  if (dtype == DType::kF32) {
    float value;
    std::memcpy(&value, from, 4);
    return value;
  }
  uint16_t bits;
  std::memcpy(&bits, from, 2);
  return dtype == DType::kBF16 ? Bf16ToF32(bits) : F16ToF32(bits);
}

// The value of an e4m3 code: sign, 4 bits of exponent (bias 7), 3 of mantissa.
double E4m3(uint8_t code) {
  const int exponent = (code >> 3) & 15, mantissa = code & 7;
  if (exponent == 15 && mantissa == 7) return std::numeric_limits<double>::quiet_NaN();
  const double value =
      exponent == 0 ? std::ldexp(mantissa, -9) : std::ldexp(8 + mantissa, exponent - 10);
  return (code & 0x80) != 0 ? -value : value;
}

class AppendMemory {
 public:
  explicit AppendMemory(const AppendCase& c) : case_(c) {
    std::mt19937 rng(5);
    std::normal_distribution<float> normal;
    // Gaps hold NaN.
    const auto fill = [&](int64_t rows, int64_t columns, std::vector<float>& values) {
      std::vector<uint8_t> bytes(rows * (columns + c.gap) * Bytes(c.dtype), 0xff);
      for (int64_t i = 0; i < rows * columns; ++i) {
        const int64_t at = i / columns * (columns + c.gap) + i % columns;
        values.push_back(Put(c.dtype, normal(rng), &bytes[at * Bytes(c.dtype)]));
      }
      DeviceBuffer buffer(bytes.size());
      buffer.CopyFrom(bytes.data(), bytes.size());
      return buffer;
    };
    c_kv_ = fill(kTokens, c.rank, c_kv);
    k_pe_ = fill(kTokens, c.rope, k_pe);
    q_pe_ = fill(int64_t{kTokens} * c.heads, c.rope, q_pe);
    for (int32_t i = 0; i < c.rope / 2; ++i) {
      inv_freq.push_back(std::pow(10000.0f, -2.0f * static_cast<float>(i) / c.rope));
    }
    inv_freq_ = Upload(inv_freq);
    positions_ = Upload(positions);
    slots_ = Upload(slots);
    cache_ = DeviceBuffer(kPages * kPageSize * c.RowBytes());
    cache_.Fill(0xff);

    const Device gpu = {DeviceType::kCuda, 0};
    const int64_t rank_step = c.rank + c.gap, rope_step = c.rope + c.gap;
    args.c_kv = ConstTensor(c_kv_.data(), c.dtype, {kTokens, c.rank}, {rank_step, 1}, gpu);
    args.k_pe = ConstTensor(k_pe_.data(), c.dtype, {kTokens, c.rope}, {rope_step, 1}, gpu);
    args.q_pe = Tensor(q_pe_.data(), c.dtype, {kTokens, c.heads, c.rope},
                       {c.heads * rope_step, rope_step, 1}, gpu);
    args.positions = positions_.as<int32_t>();
    args.slots = slots_.as<int64_t>();
    args.inv_freq = inv_freq_.as<float>();
    args.magnitude = c.magnitude;
    args.pairing = c.pairing;
    const bool fp8 = c.cache == DType::kF8E4M3;
    args.cache = Tensor(cache_.data(), c.cache,
                        {kPages, kPageSize, fp8 ? cuda::kFp8LatentBytes : c.rank + c.rope}, gpu);
  }

  std::vector<uint8_t> Cache() const { return Download(cache_); }
  std::vector<uint8_t> Queries() const { return Download(q_pe_); }

  std::vector<float> c_kv, k_pe, q_pe, inv_freq;
  std::vector<int32_t> positions = {0, 1, 17, 4095, 100000, 3, 9};
  // One row is not cached, one lies past the end of the cache.
  std::vector<int64_t> slots = {19, 0, 5, -1, 7, kPages* kPageSize, 8};
  cuda::MlaAppendArgs args;

 private:
  template <typename T>
  static DeviceBuffer Upload(const std::vector<T>& values) {
    DeviceBuffer buffer(values.size() * sizeof(T));
    buffer.CopyFrom(values.data(), values.size() * sizeof(T));
    return buffer;
  }
  static std::vector<uint8_t> Download(const DeviceBuffer& buffer) {
    std::vector<uint8_t> bytes(buffer.bytes());
    buffer.CopyTo(bytes.data(), bytes.size());
    return bytes;
  }

  AppendCase case_;
  DeviceBuffer c_kv_, k_pe_, q_pe_, inv_freq_, positions_, slots_, cache_;
};

// Element d of a rotated head. The angle is rounded to fp32 as the contract says; the rest is fp64.
double Rotated(const AppendCase& c, const AppendMemory& m, int32_t token, const float* head,
               int32_t d) {
  const bool interleaved = c.pairing == RopePairing::kInterleaved;
  const int32_t pair = interleaved ? d / 2 : d % (c.rope / 2);
  const bool second = interleaved ? d % 2 == 1 : d >= c.rope / 2;
  const float angle = static_cast<float>(m.positions[token]) * m.inv_freq[pair];
  const double cos = std::cos(double{angle}) * c.magnitude;
  const double sin = std::sin(double{angle}) * c.magnitude;
  const double x = head[interleaved ? 2 * pair : pair];
  const double y = head[interleaved ? 2 * pair + 1 : pair + c.rope / 2];
  return second ? x * sin + y * cos : x * cos - y * sin;
}

// Within half a unit in the last place of the type, and fp32's own error.
void ExpectRounded(DType dtype, float got, double want, const std::string& what) {
  const double bits = dtype == DType::kF32 ? 0 : dtype == DType::kBF16 ? 0x1p-8 : 0x1p-11;
  EXPECT_LE(std::abs(got - want), 2e-6 + bits * std::abs(want)) << what;
}

void ExpectLatent(const AppendCase& c, const uint8_t* row, const float* c_kv) {
  if (c.cache != DType::kF8E4M3) {
    for (int32_t d = 0; d < c.rank; ++d) {
      uint8_t want[4];
      Put(c.cache, c_kv[d], want);
      EXPECT_EQ(Get(c.cache, row + 2 * d), Get(c.cache, want)) << "column " << d;
    }
    return;
  }
  for (int32_t group = 0; group < 4; ++group) {
    const float scale = Get(DType::kF32, row + 512 + 4 * group);
    int exponent;
    EXPECT_EQ(std::frexp(scale, &exponent), 0.5f) << "no power of two: " << scale;
    float amax = 0;
    for (int32_t d = group * 128; d < (group + 1) * 128; ++d) {
      amax = std::max(amax, std::abs(c_kv[d]));
      // The nearest code: no other is nearer.
      const double got = E4m3(row[d]), want = double{c_kv[d]} / scale;
      for (int code = 0; code < 256; ++code) {
        if (std::isnan(E4m3(static_cast<uint8_t>(code)))) continue;
        EXPECT_LE(std::abs(got - want), std::abs(E4m3(static_cast<uint8_t>(code)) - want))
            << "column " << d;
      }
    }
    EXPECT_LE(amax, 448 * scale);
    EXPECT_GT(amax, 224 * scale) << "a smaller scale would do";
  }
}

class MlaAppendOnDevice : public ::testing::TestWithParam<AppendCase> {
 protected:
  void SetUp() override {
    const auto devices = cuda::Devices();
    if (!devices.ok()) GTEST_SKIP() << "no CUDA device: " << devices.message();
  }
};

TEST_P(MlaAppendOnDevice, RotatesAndAppends) {
  const AppendCase c = GetParam();
  AppendMemory m(c);
  const Status status = cuda::MlaAppend(m.args, {});
  ASSERT_TRUE(status.ok()) << status.message();
  ASSERT_EQ(cudaDeviceSynchronize(), cudaSuccess);

  const std::vector<uint8_t> queries = m.Queries();
  for (int32_t i = 0; i < kTokens * c.heads * (c.rope + c.gap); ++i) {
    const int32_t row = i / (c.rope + c.gap), d = i % (c.rope + c.gap);
    const float got = Get(c.dtype, &queries[i * Bytes(c.dtype)]);
    if (d >= c.rope) {
      ASSERT_TRUE(std::isnan(got)) << "a gap was written";
      continue;
    }
    ExpectRounded(c.dtype, got, Rotated(c, m, row / c.heads, &m.q_pe[row * c.rope], d),
                  Concat("q_pe ", row, ", ", d));
  }
  std::vector<uint8_t> cache = m.Cache();
  const DType rope_type = c.cache == DType::kF8E4M3 ? DType::kBF16 : c.cache;
  for (int32_t token = 0; token < kTokens; ++token) {
    const int64_t slot = m.slots[token];
    if (slot < 0 || slot >= kPages * kPageSize) continue;
    uint8_t* row = &cache[slot * c.RowBytes()];
    ExpectLatent(c, row, &m.c_kv[token * c.rank]);
    const uint8_t* rope = row + c.RowBytes() - 2 * c.rope;
    for (int32_t d = 0; d < c.rope; ++d) {
      ExpectRounded(rope_type, Get(rope_type, rope + 2 * d),
                    Rotated(c, m, token, &m.k_pe[token * c.rope], d), Concat("k_pe ", d));
    }
    std::memset(row, 0xff, c.RowBytes());
  }
  for (const uint8_t byte : cache) ASSERT_EQ(byte, 0xff) << "a slot that was not named was written";
}

INSTANTIATE_TEST_SUITE_P(
    Cases, MlaAppendOnDevice,
    ::testing::Values(
        AppendCase{}, AppendCase{.dtype = DType::kF32},
        AppendCase{.dtype = DType::kF16, .cache = DType::kF16},
        AppendCase{.rank = 256, .rope = 32, .pairing = RopePairing::kHalves},
        AppendCase{.rank = 33, .rope = 6, .dtype = DType::kF32, .cache = DType::kF16},
        AppendCase{.cache = DType::kF8E4M3},
        AppendCase{.dtype = DType::kF32, .cache = DType::kF8E4M3, .pairing = RopePairing::kHalves},
        // More heads than a thread block has.
        AppendCase{.heads = 128},
        AppendCase{.dtype = DType::kF16,
                   .cache = DType::kF16,
                   .pairing = RopePairing::kHalves,
                   .heads = 65},
        AppendCase{.rope = 6, .dtype = DType::kF32, .heads = 300},
        // More pairs than are turned at a time, more columns than threads.
        AppendCase{.rank = 2056, .rope = 272},
        AppendCase{.rank = 2051, .rope = 262, .pairing = RopePairing::kHalves},
        AppendCase{.dtype = DType::kF32, .heads = 9, .gap = 4},
        AppendCase{.cache = DType::kF8E4M3, .heads = 17, .gap = 8},
        // Rows that do not begin at multiples of 16 bytes.
        AppendCase{.cache = DType::kF8E4M3, .gap = 3},
        AppendCase{.pairing = RopePairing::kHalves, .heads = 33, .gap = 5}));

TEST(MlaAppend, BadArgumentsAreNamed) {
  // Validation needs no device: the pointers are not followed.
  alignas(16) static char memory[16];
  int32_t position = 0;
  int64_t slot = 0;
  float frequency = 1;
  const Device gpu = {DeviceType::kCuda, 0};
  cuda::MlaAppendArgs args;
  args.c_kv = ConstTensor(memory, DType::kBF16, {1, 256}, gpu);
  args.k_pe = ConstTensor(memory, DType::kBF16, {1, 64}, gpu);
  args.positions = &position;
  args.slots = &slot;
  args.inv_freq = &frequency;
  args.cache = Tensor(memory, DType::kF8E4M3, {1, 4, cuda::kFp8LatentBytes}, gpu);
  EXPECT_EQ(cuda::MlaAppend(args, {}).message(),
            "mla_append: cache is an FP8 latent, of kv_lora_rank 512 and qk_rope_head_dim 64; the "
            "call has 256 and 64");
  args.cache = Tensor(memory, DType::kBF16, {1, 4, 300}, gpu);
  EXPECT_NE(cuda::MlaAppend(args, {}).message().find("300"), std::string::npos);
  args.cache = Tensor(memory, DType::kBF16, {1, 4, 320});
  EXPECT_NE(cuda::MlaAppend(args, {}).message().find("is on the CPU"), std::string::npos);
}

}  // namespace
}  // namespace mla::test
