// The sharing-out of keys, on the host: it must hold for any lengths.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <random>
#include <vector>

#include "kernels/cuda/mla_decode/schedule.h"

namespace mla::cuda {
namespace {

struct Schedule {
  std::vector<WorkItem> items;
  std::vector<int32_t> part_begin;
  std::vector<MergeItem> merges;
  int32_t num_items = -1;

  void BeginPart(int32_t part, int32_t item) {
    EXPECT_EQ(part, static_cast<int32_t>(part_begin.size()));
    part_begin.push_back(item);
  }
  void Item(int32_t index, const WorkItem& item) {
    EXPECT_EQ(index, static_cast<int32_t>(items.size()));
    items.push_back(item);
  }
  void Merge(int32_t index, const MergeItem& item) {
    EXPECT_EQ(index, static_cast<int32_t>(merges.size()));
    merges.push_back(item);
  }
  void End(int32_t items_made, int32_t merges_made) {
    num_items = items_made;
    EXPECT_EQ(merges_made, static_cast<int32_t>(merges.size()));
  }

  int64_t slots() const {
    return merges.empty() ? 0 : merges.back().first_slot + merges.back().num_slots;
  }
};

Schedule Make(const std::vector<int32_t>& kv_lens, const ScheduleShape& shape) {
  uint32_t total = 0;
  for (const int32_t len : kv_lens) total += NumBlocks(len, shape) + kSequenceOverheadBlocks;
  Schedule schedule;
  Scheduler<Schedule>(shape, total, schedule).Run([&](int32_t s) {
    return NumBlocks(kv_lens[s], shape);
  });
  return schedule;
}

// Each sequence's blocks once and in order, parts in order, slots as the merges say, all within the
// bounds that memory is sized by.
void ExpectSound(const std::vector<int32_t>& kv_lens, const ScheduleShape& shape) {
  const Schedule schedule = Make(kv_lens, shape);
  size_t next = 0, merge = 0;
  for (size_t s = 0; s < kv_lens.size(); ++s) {
    const size_t first = next;
    int32_t block = 0;
    while (next < schedule.items.size() && schedule.items[next].seq == static_cast<int32_t>(s)) {
      const WorkItem& item = schedule.items[next++];
      EXPECT_EQ(item.first_block, block);
      EXPECT_EQ(item.end_block > item.first_block, kv_lens[s] > 0) << "an empty item";
      block = item.end_block;
    }
    EXPECT_EQ(block, static_cast<int32_t>(NumBlocks(kv_lens[s], shape)));
    ASSERT_GT(next, first);
    if (next - first == 1) {
      EXPECT_EQ(schedule.items[first].slot, -1);
      continue;
    }
    ASSERT_LT(merge, schedule.merges.size());
    const MergeItem& item = schedule.merges[merge++];
    EXPECT_EQ(item.seq, static_cast<int32_t>(s));
    ASSERT_EQ(item.num_slots, static_cast<int32_t>(next - first));
    for (size_t i = first; i < next; ++i) {
      EXPECT_EQ(schedule.items[i].slot, item.first_slot + static_cast<int32_t>(i - first));
    }
  }
  EXPECT_EQ(next, schedule.items.size());
  EXPECT_EQ(merge, schedule.merges.size());
  ASSERT_EQ(schedule.part_begin.size(), static_cast<size_t>(shape.num_parts) + 1);
  EXPECT_TRUE(std::is_sorted(schedule.part_begin.begin(), schedule.part_begin.end()));
  EXPECT_EQ(schedule.part_begin.front(), 0);
  EXPECT_EQ(schedule.part_begin.back(), schedule.num_items);
  EXPECT_LE(schedule.num_items, MaxItems(shape));
  EXPECT_LE(schedule.slots(), MaxSlots(shape));
  EXPECT_LE(static_cast<int64_t>(schedule.merges.size()), MaxMerges(shape));
}

// Blocks of the part that has the most.
int64_t MostBlocks(const Schedule& schedule) {
  int64_t most = 0;
  for (size_t part = 0; part + 1 < schedule.part_begin.size(); ++part) {
    int64_t blocks = 0;
    for (int32_t i = schedule.part_begin[part]; i < schedule.part_begin[part + 1]; ++i) {
      blocks += schedule.items[i].end_block - schedule.items[i].first_block;
    }
    most = std::max(most, blocks);
  }
  return most;
}

// No part has more than an even share and what the overheads, the overruns and the shares that were
// given up may add.
void ExpectBalanced(const std::vector<int32_t>& kv_lens, const ScheduleShape& shape) {
  int64_t cost = 0;
  for (const int32_t len : kv_lens) cost += NumBlocks(len, shape) + kSequenceOverheadBlocks;
  const int64_t even = (cost + shape.num_parts - 1) / shape.num_parts;
  EXPECT_LE(MostBlocks(Make(kv_lens, shape)), even + 2 * kMostSlackBlocks + 2);
}

std::vector<int32_t> RandomLengths(std::mt19937& rng) {
  const int32_t most = std::vector<int32_t>{3, 70, 1000, 40000, 1000000}[rng() % 5];
  std::vector<int32_t> lengths(rng() % 40);
  for (int32_t& len : lengths) len = static_cast<int32_t>(rng() % (most + 1));
  return lengths;
}

TEST(Schedule, CoversEveryBlockOnceForRandomLengths) {
  std::mt19937 rng(1);
  for (int i = 0; i < 2000; ++i) {
    const std::vector<int32_t> lengths = RandomLengths(rng);
    ScheduleShape shape;
    shape.num_seqs = static_cast<int32_t>(lengths.size());
    shape.num_parts = static_cast<int32_t>(1 + rng() % 140);
    shape.max_kv_len = lengths.empty() ? 0 : *std::max_element(lengths.begin(), lengths.end());
    for (const bool invariant : {false, true}) {
      shape.batch_invariant = invariant;
      ExpectSound(lengths, shape);
      if (!invariant && !lengths.empty()) ExpectBalanced(lengths, shape);
      if (HasFailure()) FAIL() << "case " << i << ", invariant " << invariant;
    }
  }
}

TEST(Schedule, OneLongSequenceUsesEveryPart) {
  const Schedule schedule = Make({65536}, {.num_seqs = 1, .num_parts = 132, .max_kv_len = 65536});
  EXPECT_GE(schedule.items.size(), 110u);  // 1,024 blocks, 7 to 8 for each part
  EXPECT_LE(MostBlocks(schedule), 9);
  EXPECT_EQ(schedule.merges.size(), 1u);
}

TEST(Schedule, SequencesThatFitTheirPartsAreNotSplit) {
  const std::vector<int32_t> lengths(64, 4096);
  const Schedule schedule = Make(lengths, {.num_seqs = 64, .num_parts = 66, .max_kv_len = 4096});
  EXPECT_EQ(schedule.merges.size(), 0u);
  EXPECT_EQ(MostBlocks(schedule), 64);
}

// The first part has room for a block of the second sequence, or none: it leaves it alone.
TEST(Schedule, NoSequenceIsBegunForLittle) {
  for (const int32_t blocks : {60, 61, 62}) {
    const Schedule schedule = Make({blocks * kBlockTokens, 60 * kBlockTokens, 60 * kBlockTokens},
                                   {.num_seqs = 3, .num_parts = 3, .max_kv_len = 4096});
    EXPECT_EQ(schedule.merges.size(), 0u) << blocks;
    EXPECT_EQ(MostBlocks(schedule), blocks) << blocks;
  }
}

TEST(Schedule, LengthsPastThePageTableAreCut) {
  const ScheduleShape shape = {.num_seqs = 2, .num_parts = 4, .max_kv_len = 128};
  const Schedule schedule = Make({1 << 30, -5}, shape);
  EXPECT_EQ(schedule.items.back().end_block, 0);
  EXPECT_EQ(schedule.items[schedule.items.size() - 2].end_block, 2);
}

TEST(Schedule, BatchInvariantCutsDependOnTheLengthAlone) {
  const ScheduleShape alone = {
      .num_seqs = 1, .num_parts = 132, .batch_invariant = true, .max_kv_len = 100000};
  ScheduleShape together = alone;
  together.num_seqs = 3;
  const Schedule one = Make({70000}, alone);
  const Schedule three = Make({513, 70000, 64}, together);
  std::vector<int32_t> cuts;
  for (const WorkItem& item : three.items) {
    if (item.seq == 1) cuts.push_back(item.first_block);
  }
  ASSERT_EQ(cuts.size(), one.items.size());
  for (size_t i = 0; i < cuts.size(); ++i) EXPECT_EQ(cuts[i], one.items[i].first_block);
}

}  // namespace
}  // namespace mla::cuda
