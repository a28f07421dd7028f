// The division of attention work: every (row, key) pair is covered once, and a sequence is divided
// in the same way whatever else is in the batch.
#include "kernels/cpu/attention_plan.h"

#include <gtest/gtest.h>

#include <tuple>
#include <utility>
#include <vector>

#include "base/numeric.h"

namespace mla::cpu {
namespace {

struct Lengths {
  std::vector<int32_t> cu_q;
  std::vector<int32_t> kv_lens;

  PagedBatch Batch() const {
    PagedBatch batch;
    batch.num_seqs = static_cast<int32_t>(kv_lens.size());
    batch.cu_q = cu_q.data();
    batch.kv_lens = kv_lens.data();
    batch.page_size = 64;
    return batch;
  }
};

Lengths MakeLengths(const std::vector<int32_t>& q_lens, std::vector<int32_t> kv_lens) {
  Lengths lengths{{3}, std::move(kv_lens)};
  for (int32_t n : q_lens) lengths.cu_q.push_back(lengths.cu_q.back() + n);
  return lengths;
}

constexpr PlanShape kShapes[] = {
    {16, 1, 64, 64}, {128, 1, 64, 64}, {3, 1, 64, 64},
    {12, 4, 64, 64}, {16, 16, 0, 32},  {1, 1, 0, 32},
};

TEST(AttentionPlanTest, CoversEveryRowAndKeyOnce) {
  const std::vector<int32_t> q_lens = {1, 0, 512, 3, 1, 7, 0};
  const std::vector<int32_t> kv_lens = {8192, 100, 700, 0, 511, 512, 5};
  const Lengths lengths = MakeLengths(q_lens, kv_lens);
  for (const PlanShape& shape : kShapes) {
    std::vector<SequencePlan> seqs(kv_lens.size());
    const AttentionPlan plan = PlanAttention(shape, lengths.Batch(), seqs);
    // covered[s][kv head][row]: keys seen so far; splits must come in order.
    std::vector<std::vector<int64_t>> covered(kv_lens.size());
    for (size_t s = 0; s < kv_lens.size(); ++s) {
      covered[s].assign(int64_t{q_lens[s]} * shape.heads, 0);
    }
    std::vector<int64_t> touched(kv_lens.size(), 0);
    for (int64_t i = 0; i < plan.num_items; ++i) {
      const WorkItem item = GetWorkItem(shape, lengths.Batch(), plan, i);
      ASSERT_LT(item.row_begin, item.row_end);
      ASSERT_LT(item.split, seqs[item.seq].splits);
      if (shape.row_tile > 0) {
        ASSERT_LE(item.row_end - item.row_begin, shape.row_tile);
      }
      const int64_t rows = int64_t{q_lens[item.seq]} * (shape.heads / shape.kv_heads);
      for (int64_t row = item.row_begin; row < item.row_end; ++row) {
        int64_t& keys = covered[item.seq][item.kv_head * rows + row];
        ASSERT_EQ(keys, item.key_begin);
        keys = item.key_end;
        ++touched[item.seq];
      }
    }
    for (size_t s = 0; s < kv_lens.size(); ++s) {
      for (int64_t keys : covered[s]) ASSERT_EQ(keys, kv_lens[s]);
      EXPECT_EQ(touched[s], int64_t{q_lens[s]} * shape.heads * seqs[s].splits);
    }
  }
}

TEST(AttentionPlanTest, SharesCoverAnItemOnce) {
  WorkItem item{};
  for (const int64_t rows : {1, 4, 16, 63}) {
    item.row_begin = 5;
    item.row_end = 5 + rows;
    for (const int64_t shares : {1, 2, 3, 7}) {
      int64_t next = item.row_begin;
      for (int64_t share = 0; share < shares; ++share) {
        const WorkItem part = ShareOfItem(item, share, shares);
        EXPECT_EQ(part.row_begin, next);
        EXPECT_LE(part.row_end - part.row_begin, CeilDiv(rows, shares));
        next = part.row_end;
      }
      EXPECT_EQ(next, item.row_end);
    }
  }
}

TEST(AttentionPlanTest, ThreadsShareItemsOnlyWhereThereAreFewer) {
  const auto shares = [](const PlanShape& shape, std::vector<int32_t> q_lens,
                         std::vector<int32_t> kv_lens, int threads) {
    const Lengths lengths = MakeLengths(q_lens, std::move(kv_lens));
    std::vector<SequencePlan> seqs(q_lens.size());
    const AttentionPlan plan = PlanAttention(shape, lengths.Batch(), seqs);
    return SharesOfItem(shape, lengths.Batch(), plan, threads);
  };
  constexpr PlanShape kShape = {16, 1, 64, 64};
  EXPECT_EQ(shares(kShape, {1}, {200}, 1), 1);
  EXPECT_EQ(shares(kShape, {1}, {200}, 2), 2);
  EXPECT_EQ(shares(kShape, {1}, {127}, 2), 1);
  EXPECT_EQ(shares(kShape, {1}, {200}, 3), 3);
  EXPECT_EQ(shares(kShape, {1}, {200}, 64), 4);  // of 4 rows
  EXPECT_EQ(shares(kShape, {1, 1}, {200, 200}, 3), 1);
  EXPECT_EQ(shares(kShape, {1, 1}, {200, 10}, 4), 2);
  EXPECT_EQ(shares(kShape, {1}, {600}, 3), 1);  // two splits
  EXPECT_EQ(shares({2, 1, 64, 64}, {1}, {200}, 2), 1);
  EXPECT_EQ(shares(kShape, {0}, {200}, 8), 1);
}

TEST(AttentionPlanTest, NumbersPartsAndMergeRowsWithoutGaps) {
  const std::vector<int32_t> q_lens = {1, 2, 0, 1, 3};
  const Lengths lengths = MakeLengths(q_lens, {8192, 64, 4096, 1024, 600});
  const PlanShape shape{16, 1, 64, 64};
  std::vector<SequencePlan> seqs(5);
  const AttentionPlan plan = PlanAttention(shape, lengths.Batch(), seqs);
  int64_t merge = 0, parts = 0;
  for (size_t s = 0; s < seqs.size(); ++s) {
    EXPECT_EQ(seqs[s].first_merge, merge);
    EXPECT_EQ(seqs[s].first_part, parts);
    if (seqs[s].splits == 1) continue;
    for (int64_t row = 0; row < q_lens[s] * 16; ++row) {
      EXPECT_EQ(FindMergeSequence(plan, merge + row), static_cast<int32_t>(s));
    }
    merge += q_lens[s] * 16;
    parts += q_lens[s] * 16 * seqs[s].splits;
  }
  EXPECT_EQ(plan.num_merge_rows, merge);
  EXPECT_EQ(plan.num_part_rows, parts);
  EXPECT_GT(merge, 0);
}

TEST(AttentionPlanTest, DividesASequenceTheSameInAnyBatch) {
  const std::vector<int32_t> q_lens = {1, 5, 64, 2, 1};
  const std::vector<int32_t> kv_lens = {8192, 513, 2000, 40000, 300};
  const Lengths together = MakeLengths(q_lens, kv_lens);
  for (const PlanShape& shape : kShapes) {
    std::vector<SequencePlan> all(q_lens.size());
    PlanAttention(shape, together.Batch(), all);
    for (size_t s = 0; s < q_lens.size(); ++s) {
      const Lengths alone = MakeLengths({q_lens[s]}, {kv_lens[s]});
      SequencePlan one;
      PlanAttention(shape, alone.Batch(), {&one, 1});
      EXPECT_EQ(std::tie(one.row_tiles, one.splits, one.split_keys),
                std::tie(all[s].row_tiles, all[s].splits, all[s].split_keys));
    }
  }
}

TEST(AttentionPlanTest, LongDecodeGivesManyItemsAndShortOneGivesOne) {
  const PlanShape shape{16, 1, 64, 64};
  SequencePlan seq;
  const auto items = [&](int32_t q_len, int32_t kv_len) {
    return PlanAttention(shape, MakeLengths({q_len}, {kv_len}).Batch(), {&seq, 1}).num_items;
  };
  EXPECT_EQ(items(1, 50), 1);
  EXPECT_EQ(items(1, 511), 1);
  EXPECT_EQ(items(1, 8192), 32);
  EXPECT_EQ(seq.split_keys, 256);
  EXPECT_EQ(items(1, 131072), 64);
  EXPECT_EQ(items(512, 8192), 128);
  EXPECT_EQ(seq.splits, 1);
  EXPECT_EQ(items(0, 8192), 0);
}

}  // namespace
}  // namespace mla::cpu
