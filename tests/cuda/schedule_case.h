// The schedule of mla_decode made on the host, as the device makes it but one step after another.
#ifndef MLA_TESTS_CUDA_SCHEDULE_CASE_H_
#define MLA_TESTS_CUDA_SCHEDULE_CASE_H_

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <random>
#include <vector>

#include "kernels/cuda/mla_decode/schedule.h"

namespace mla::test {

struct HostSchedule {
  std::vector<cuda::WorkItem> items;
  std::vector<int32_t> part_begin;
  std::vector<cuda::WorkItem> first_items;
  std::vector<cuda::MergeItem> merges;

  void BeginPart(int32_t part, int32_t index, const cuda::WorkItem& item) {
    EXPECT_EQ(part, static_cast<int32_t>(part_begin.size())) << "a part is left out";
    part_begin.push_back(index);
    first_items.push_back(item);
  }
  void Item(int32_t index, const cuda::WorkItem& item) {
    EXPECT_EQ(index, static_cast<int32_t>(items.size()));
    items.push_back(item);
  }
  void Merge(int32_t index, const cuda::MergeItem& item) {
    EXPECT_EQ(index, static_cast<int32_t>(merges.size()));
    merges.push_back(item);
  }

  int64_t slots() const {
    return merges.empty() ? 0 : merges.back().first_slot + merges.back().num_slots;
  }
};

// With plain Advance, by the definition of the items alone.
template <typename Cut>
HostSchedule MakeScheduleBy(const std::vector<int32_t>& kv_lens, const cuda::ScheduleShape& shape) {
  const auto blocks = [&](int32_t s) { return cuda::NumBlocks(kv_lens[s], shape); };
  cuda::ScheduleTotals totals;
  for (int32_t s = 0; s < shape.num_seqs; ++s) {
    totals.blocks += blocks(s);
    totals.most = std::max(totals.most, blocks(s));
  }
  uint32_t share = 0, cost = UINT32_MAX;
  for (int i = 0; i < cuda::kShares; ++i) {
    const uint32_t tried = cuda::ShareToTry(i, totals, shape);
    const Cut cut(tried);
    cuda::SchedulePosition end = cuda::SchedulePosition::Start();
    for (int32_t s = 0; s < shape.num_seqs; ++s) {
      cuda::Advance(cut.Items(blocks(s), end), tried, &end);
    }
    const uint32_t its_cost = cuda::CostOfShare(tried, end, shape);
    if (its_cost < cost) share = tried;
    cost = std::min(cost, its_cost);
  }
  EXPECT_LT(cost, UINT32_MAX) << "no share suffices";
  const Cut cut(share);
  HostSchedule schedule;
  cuda::SchedulePosition at = cuda::SchedulePosition::Start();
  for (int32_t s = 0; s < shape.num_seqs; ++s) {
    const cuda::SequenceItems items = cut.Items(blocks(s), at);
    const auto kv_len = static_cast<int32_t>(std::clamp<int64_t>(kv_lens[s], 0, shape.max_kv_len));
    for (uint32_t i = 0; i < items.count; ++i) WriteItem(items, at, s, kv_len, i, schedule);
    cuda::Advance(items, share, &at);
  }
  EXPECT_EQ(shape.num_seqs + at.more_items, static_cast<int32_t>(schedule.items.size()));
  EXPECT_EQ(at.merges, static_cast<int32_t>(schedule.merges.size()));
  schedule.part_begin.resize(shape.num_parts + 1, static_cast<int32_t>(schedule.items.size()));
  return schedule;
}

inline HostSchedule MakeSchedule(const std::vector<int32_t>& kv_lens,
                                 const cuda::ScheduleShape& shape) {
  return shape.batch_invariant ? MakeScheduleBy<cuda::InvariantCut>(kv_lens, shape)
                               : MakeScheduleBy<cuda::FreeCut>(kv_lens, shape);
}

// A few lengths, at times thousands: all short, all long or between.
inline std::vector<int32_t> RandomLengths(std::mt19937& rng) {
  const int32_t most = std::vector<int32_t>{3, 70, 1000, 40000, 1000000}[rng() % 5];
  std::vector<int32_t> lengths(rng() % (rng() % 50 == 0 ? 5000 : 40));
  for (int32_t& len : lengths) len = static_cast<int32_t>(rng() % (most + 1));
  return lengths;
}

}  // namespace mla::test

#endif  // MLA_TESTS_CUDA_SCHEDULE_CASE_H_
