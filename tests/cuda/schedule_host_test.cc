// The sharing-out of keys, on the host: it must hold for any lengths.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <random>
#include <vector>

#include "cuda/schedule_case.h"
#include "kernels/cuda/mla_decode/schedule.h"

namespace mla::cuda {
namespace {

using test::HostSchedule;
using test::MakeSchedule;
using test::RandomLengths;

// Each sequence's blocks once and in order, parts in order, slots as the merges say, all within the
// bounds that memory is sized by.
void ExpectSound(const std::vector<int32_t>& kv_lens, const ScheduleShape& shape) {
  const HostSchedule schedule = MakeSchedule(kv_lens, shape);
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
  EXPECT_EQ(schedule.part_begin.back(), static_cast<int32_t>(schedule.items.size()));
  for (size_t part = 0; part < schedule.first_items.size(); ++part) {
    const WorkItem& first = schedule.items[schedule.part_begin[part]];
    EXPECT_EQ(schedule.first_items[part].seq, first.seq);
    EXPECT_EQ(schedule.first_items[part].first_block, first.first_block);
  }
  EXPECT_LE(static_cast<int64_t>(schedule.items.size()), MaxItems(shape));
  EXPECT_LE(schedule.slots(), MaxSlots(shape));
  EXPECT_LE(static_cast<int64_t>(schedule.merges.size()), MaxMerges(shape));
}

// Blocks of the part that has the most.
int64_t MostBlocks(const HostSchedule& schedule) {
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

// No part has more than an even share and what the overheads, what parts leave of their shares, and
// merges that are avoided may add.
void ExpectBalanced(const std::vector<int32_t>& kv_lens, const ScheduleShape& shape) {
  int64_t cost = 0;
  for (const int32_t len : kv_lens) cost += NumBlocks(len, shape) + kItemOverhead;
  const int64_t even = (cost + shape.num_parts - 1) / shape.num_parts;
  const int64_t step = 1 + cost / shape.num_parts / kShares;
  EXPECT_LE(MostBlocks(MakeSchedule(kv_lens, shape)),
            even + kMostSlackBlocks + kMergeCost + kSecondMergeCost + 2 + step);
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

// The lean step goes where the definition says. `lengths`: of the sequences' blocks.
template <typename Cut, bool kShort>
void ExpectStepsAdvance(uint32_t share, const std::vector<uint32_t>& lengths) {
  Cut cut(share);
  SchedulePosition step = SchedulePosition::Start();
  for (const uint32_t blocks : lengths) {
    SchedulePosition want = step;
    Advance(cut.Items(blocks, want), share, &want);
    cut.template Step<kShort>(blocks, &step);
    ASSERT_EQ(step.part, want.part) << "share " << share << ", " << blocks << " blocks";
    ASSERT_EQ(step.left, want.left) << "share " << share << ", " << blocks << " blocks";
    ASSERT_EQ(step.more_items, want.more_items) << "share " << share << ", " << blocks;
    ASSERT_EQ(step.merges, want.merges) << "share " << share << ", " << blocks;
  }
}

TEST(Schedule, StepIsAdvance) {
  std::mt19937 rng(2);
  const auto below = [&](uint32_t most) { return static_cast<uint32_t>(rng()) % most; };
  int short_walks = 0;
  for (int i = 0; i < 40000; ++i) {
    const uint32_t shares[] = {3 + below(4), 3 + below(60), 3 + below(5000), 3 + below(1u << 26)};
    const uint32_t share = shares[rng() % 4];
    const uint32_t bounds[] = {4, 9, share - 1, share, 2 * share, 7 * share, 1u << 25};
    std::vector<uint32_t> lengths(30);
    const uint32_t bound = bounds[rng() % 7];
    for (uint32_t& blocks : lengths) blocks = below(bound);
    const uint32_t most = *std::max_element(lengths.begin(), lengths.end());
    const uint32_t greatest_cut = std::min(most, InvariantCutBlocks(most));
    const bool cuts_fit = share >= greatest_cut + kItemOverhead;
    ExpectStepsAdvance<FreeCut, false>(share, lengths);
    if (cuts_fit) ExpectStepsAdvance<InvariantCut, false>(share, lengths);
    if (FreeCut(share).AreShort(most)) {
      ++short_walks;
      ExpectStepsAdvance<FreeCut, true>(share, lengths);
    }
    if (cuts_fit && InvariantCut(share).AreShort(most)) {
      ++short_walks;
      ExpectStepsAdvance<InvariantCut, true>(share, lengths);
    }
    if (HasFatalFailure()) return;
  }
  EXPECT_GT(short_walks, 1000);
}

TEST(Schedule, OneLongSequenceUsesEveryPart) {
  const HostSchedule schedule =
      MakeSchedule({65536}, {.num_seqs = 1, .num_parts = 132, .max_kv_len = 65536});
  EXPECT_EQ(schedule.items.size(), 128u);
  EXPECT_EQ(MostBlocks(schedule), 8);  // of 1,024
  EXPECT_EQ(schedule.merges.size(), 1u);
}

TEST(Schedule, SequencesThatFitTheirPartsAreNotSplit) {
  const std::vector<int32_t> lengths(64, 4096);
  const HostSchedule schedule =
      MakeSchedule(lengths, {.num_seqs = 64, .num_parts = 66, .max_kv_len = 4096});
  EXPECT_EQ(schedule.merges.size(), 0u);
  EXPECT_EQ(MostBlocks(schedule), 64);
}

// 63 blocks each would do, but most parts would then have pieces of two sequences.
TEST(Schedule, PiecesOfASequenceFillTheirParts) {
  const std::vector<int32_t> lengths(64, 8192);
  const HostSchedule schedule =
      MakeSchedule(lengths, {.num_seqs = 64, .num_parts = 132, .max_kv_len = 8192});
  EXPECT_EQ(schedule.items.size(), 128u);
  EXPECT_EQ(MostBlocks(schedule), 64);
}

// The first part has room for a block of the second sequence, or none: it leaves it alone.
TEST(Schedule, NoSequenceIsBegunForLittle) {
  for (const int32_t blocks : {60, 61, 62}) {
    const HostSchedule schedule =
        MakeSchedule({blocks * kBlockTokens, 60 * kBlockTokens, 60 * kBlockTokens},
                     {.num_seqs = 3, .num_parts = 3, .max_kv_len = 4096});
    EXPECT_EQ(schedule.merges.size(), 0u) << blocks;
    EXPECT_EQ(MostBlocks(schedule), blocks) << blocks;
  }
}

TEST(Schedule, LengthsPastThePageTableAreCut) {
  const ScheduleShape shape = {.num_seqs = 2, .num_parts = 4, .max_kv_len = 128};
  const HostSchedule schedule = MakeSchedule({1 << 30, -5}, shape);
  EXPECT_EQ(schedule.items.back().end_block, 0);
  EXPECT_EQ(schedule.items[schedule.items.size() - 2].end_block, 2);
}

TEST(Schedule, BatchInvariantCutsDependOnTheLengthAlone) {
  const ScheduleShape alone = {
      .num_seqs = 1, .num_parts = 132, .batch_invariant = true, .max_kv_len = 100000};
  ScheduleShape together = alone;
  together.num_seqs = 3;
  const HostSchedule one = MakeSchedule({70000}, alone);
  const HostSchedule three = MakeSchedule({513, 70000, 64}, together);
  std::vector<int32_t> cuts;
  for (const WorkItem& item : three.items) {
    if (item.seq == 1) cuts.push_back(item.first_block);
  }
  ASSERT_EQ(cuts.size(), one.items.size());
  for (size_t i = 0; i < cuts.size(); ++i) EXPECT_EQ(cuts[i], one.items[i].first_block);
}

}  // namespace
}  // namespace mla::cuda
