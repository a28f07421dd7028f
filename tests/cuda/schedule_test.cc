// The schedule as the device makes it: the same as on the host.
#include <cuda_runtime_api.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <random>
#include <vector>

#include "cuda/decode_case.h"
#include "cuda/schedule_case.h"
#include "kernels/cuda/mla_decode/schedule_kernel.h"
#include "mla/cuda.h"

namespace mla::test {
namespace {

using cuda::MergeItem;
using cuda::ScheduleMemory;
using cuda::ScheduleShape;
using cuda::WorkItem;

template <typename T>
std::vector<T> Download(const T* from, int64_t count) {
  std::vector<T> values(count);
  EXPECT_EQ(cudaMemcpy(values.data(), from, count * sizeof(T), cudaMemcpyDeviceToHost),
            cudaSuccess);
  return values;
}

// Of the first of `got` as many as there are of `want`.
template <typename T>
bool BeginsWith(const std::vector<T>& got, const std::vector<T>& want) {
  return got.size() >= want.size() &&
         (want.empty() || std::memcmp(got.data(), want.data(), want.size() * sizeof(T)) == 0);
}

void ExpectSameAsHost(const std::vector<int32_t>& kv_lens, const ScheduleShape& shape) {
  DeviceBuffer lengths(kv_lens.size() * sizeof(int32_t));
  lengths.CopyFrom(kv_lens.data(), lengths.bytes());
  DeviceBuffer buffer(ScheduleMemory::Bytes(shape));
  buffer.Fill(0xff);
  const ScheduleMemory memory(buffer.data(), shape);
  ASSERT_EQ(LaunchSchedule(lengths.as<int32_t>(), shape, memory, nullptr), cudaSuccess);
  ASSERT_EQ(cudaDeviceSynchronize(), cudaSuccess);

  const HostSchedule want = MakeSchedule(kv_lens, shape);
  EXPECT_EQ(Download(memory.num_merges, 1)[0], static_cast<int32_t>(want.merges.size()));
  EXPECT_EQ(Download(memory.part_begin, shape.num_parts + 1), want.part_begin);
  EXPECT_TRUE(BeginsWith(Download(memory.items, cuda::MaxItems(shape)), want.items));
  EXPECT_TRUE(BeginsWith(Download(memory.first_items, shape.num_parts), want.first_items));
  EXPECT_TRUE(BeginsWith(Download(memory.merge_items, cuda::MaxMerges(shape)), want.merges));
  EXPECT_EQ(Download(memory.blocks_begun, 1)[0], 0u);
  for (const uint32_t word : Download(memory.merge_arrivals, cuda::MaxArrivals(shape))) {
    ASSERT_EQ(word, 0u);
  }
}

class ScheduleOnDevice : public ::testing::Test {
 protected:
  void SetUp() override {
    const auto devices = cuda::Devices();
    if (!devices.ok()) GTEST_SKIP() << "no CUDA device: " << devices.message();
  }
};

TEST_F(ScheduleOnDevice, IsThatOfTheHostForRandomLengths) {
  std::mt19937 rng(3);
  for (int i = 0; i < 300; ++i) {
    std::vector<int32_t> lengths = RandomLengths(rng);
    if (i % 20 == 0) lengths.resize(500 + rng() % 1000, 777);
    ScheduleShape shape;
    shape.num_seqs = static_cast<int32_t>(lengths.size());
    shape.num_parts = static_cast<int32_t>(1 + rng() % 140);
    shape.row_tiles = static_cast<int32_t>(1 + rng() % 3);
    shape.max_kv_len = lengths.empty() ? 0 : *std::max_element(lengths.begin(), lengths.end());
    for (const bool invariant : {false, true}) {
      shape.batch_invariant = invariant;
      ExpectSameAsHost(lengths, shape);
      if (HasFailure()) {
        FAIL() << "case " << i << ", " << shape.num_seqs << " sequences, " << shape.num_parts
               << " parts, invariant " << invariant;
      }
    }
  }
}

// Around the numbers at which the kernel takes sequences together.
TEST_F(ScheduleOnDevice, IsThatOfTheHostForAnyNumberOfSequences) {
  for (const int32_t seqs : {1, 2, 15, 16, 17, 31, 33, 511, 512, 513, 4095, 4096, 4097, 8193}) {
    std::vector<int32_t> lengths(seqs);
    for (int32_t s = 0; s < seqs; ++s) lengths[s] = s * 7919 % 30011;
    lengths[0] = -5;
    lengths[seqs / 2] = 1 << 30;  // longer than the page table
    ExpectSameAsHost(lengths, {.num_seqs = seqs, .num_parts = 132, .max_kv_len = 1 << 17});
    if (HasFailure()) FAIL() << seqs << " sequences";
  }
}

}  // namespace
}  // namespace mla::test
