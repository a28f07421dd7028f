#include "kernels/cpu/attention_plan.h"

#include <algorithm>

#include "base/check.h"
#include "base/numeric.h"
#include "kernels/cpu/attention_tile.h"
#include "ops/attention.h"

namespace mla::cpu {
namespace {

int64_t NumRowTiles(const PlanShape& shape, int64_t rows) {
  if (rows == 0) return 0;
  return shape.row_tile == 0 ? 1 : CeilDiv(rows, shape.row_tile);
}

}  // namespace

AttentionPlan PlanAttention(const PlanShape& shape, const PagedBatch& batch,
                            std::span<SequencePlan> seqs) {
  AttentionPlan plan;
  for (int32_t s = 0; s < batch.num_seqs; ++s) {
    const int64_t q_len = GetSequence(batch, s).q_len;
    const int64_t kv_len = batch.kv_lens[s];
    const int64_t row_tiles = NumRowTiles(shape, q_len * (shape.heads / shape.kv_heads));
    const int64_t row_items = shape.kv_heads * row_tiles;
    int64_t splits = 1, split_keys = kv_len;
    if (row_items > 0 && row_items < shape.target_items && kv_len >= 2 * kMinSplitKeys) {
      const int64_t wanted =
          std::min(CeilDiv(shape.target_items, row_items), kv_len / kMinSplitKeys);
      split_keys = CeilDiv(CeilDiv(kv_len, wanted), kKeyTile) * kKeyTile;
      splits = CeilDiv(kv_len, split_keys);
    }
    seqs[s] = SequencePlan{plan.num_items,
                           plan.num_merge_rows,
                           plan.num_part_rows,
                           static_cast<int32_t>(row_tiles),
                           static_cast<int32_t>(splits),
                           static_cast<int32_t>(split_keys)};
    plan.num_items += row_items * splits;
    if (splits > 1) {
      plan.num_merge_rows += q_len * shape.heads;
      plan.num_part_rows += q_len * shape.heads * splits;
    }
  }
  plan.seqs = seqs.first(batch.num_seqs);
  return plan;
}

WorkItem GetWorkItem(const PlanShape& shape, const PagedBatch& batch, const AttentionPlan& plan,
                     int64_t index) {
  MLA_CHECK(index >= 0 && index < plan.num_items, "item ", index, " of ", plan.num_items);
  // The last sequence that begins at or before `index` is the one with items: empty ones share
  // their first_item with their successor.
  const auto next =
      std::upper_bound(plan.seqs.begin(), plan.seqs.end(), index,
                       [](int64_t i, const SequencePlan& s) { return i < s.first_item; });
  const auto seq = static_cast<int32_t>(next - plan.seqs.begin()) - 1;
  const SequencePlan& p = plan.seqs[seq];
  const int64_t rows = int64_t{GetSequence(batch, seq).q_len} * (shape.heads / shape.kv_heads);
  const int64_t kv_len = batch.kv_lens[seq];

  int64_t local = index - p.first_item;
  const int64_t split = local % p.splits;
  local /= p.splits;
  const int64_t kv_head = local % shape.kv_heads;
  const int64_t tile = p.row_tiles - 1 - local / shape.kv_heads;
  const int64_t tile_rows = shape.row_tile == 0 ? rows : shape.row_tile;
  return WorkItem{seq,
                  static_cast<int32_t>(kv_head),
                  tile * tile_rows,
                  std::min((tile + 1) * tile_rows, rows),
                  static_cast<int32_t>(split),
                  std::min(split * p.split_keys, kv_len),
                  std::min((split + 1) * p.split_keys, kv_len)};
}

int64_t SharesOfItem(const PlanShape& shape, const PagedBatch& batch, const AttentionPlan& plan,
                     int num_threads) {
  constexpr int64_t kMinRows = 4, kMinKeys = 2 * kKeyTile;
  const int64_t wanted = num_threads / std::max<int64_t>(plan.num_items, 1);
  if (wanted < 2) return 1;
  int64_t rows = 0;  // of the longest item
  for (int32_t s = 0; s < batch.num_seqs; ++s) {
    if (plan.seqs[s].split_keys < kMinKeys) continue;
    const int64_t all = int64_t{GetSequence(batch, s).q_len} * (shape.heads / shape.kv_heads);
    rows = std::max(rows, shape.row_tile == 0 ? all : std::min<int64_t>(all, shape.row_tile));
  }
  return std::clamp<int64_t>(rows / kMinRows, 1, wanted);
}

WorkItem ShareOfItem(const WorkItem& item, int64_t share, int64_t shares) {
  const int64_t rows = item.row_end - item.row_begin;
  WorkItem part = item;
  part.row_begin = item.row_begin + rows * share / shares;
  part.row_end = item.row_begin + rows * (share + 1) / shares;
  return part;
}

int32_t FindMergeSequence(const AttentionPlan& plan, int64_t row) {
  const auto next =
      std::upper_bound(plan.seqs.begin(), plan.seqs.end(), row,
                       [](int64_t i, const SequencePlan& s) { return i < s.first_merge; });
  return static_cast<int32_t>(next - plan.seqs.begin()) - 1;
}

}  // namespace mla::cpu
