// How the work of an attention call is divided: pure functions over the lengths of the sequences.
//
// A work item is one sequence, one kv head, one tile of query rows and one range of keys. Rows are
// query tokens x the heads that share a kv head. The keys of a sequence are divided only where its
// rows alone give too few items, by a rule that sees this sequence's lengths and the model's shape
// but neither the other sequences nor the threads: a result is the same bits in any batch and on
// any number of threads.
#ifndef MLA_KERNELS_CPU_ATTENTION_PLAN_H_
#define MLA_KERNELS_CPU_ATTENTION_PLAN_H_

#include <cstdint>
#include <span>

#include "mla/attention.h"

namespace mla::cpu {

// Below this many keys a second item costs more (a merge, a wake-up) than it saves.
inline constexpr int32_t kMinSplitKeys = 256;

struct PlanShape {
  int32_t heads = 0;
  int32_t kv_heads = 0;      // divides heads
  int32_t row_tile = 0;      // most rows of an item; 0: all rows of a sequence in one item
  int32_t target_items = 0;  // keys are divided until a sequence has about so many items
};

struct SequencePlan {
  int64_t first_item;   // items [first_item, next sequence's first_item)
  int64_t first_merge;  // rows to be merged before this sequence's; (token, head) order
  int64_t first_part;   // rows of partial results before this sequence's; [splits, rows]
  int32_t row_tiles;    // per kv head
  int32_t splits;       // 1: written to out directly
  int32_t split_keys;   // keys of each split but the last; a multiple of 64 if splits > 1
};

struct AttentionPlan {
  std::span<const SequencePlan> seqs;
  int64_t num_items = 0;
  int64_t num_merge_rows = 0;  // out rows of sequences whose keys were split
  int64_t num_part_rows = 0;   // rows of partial results that these come from
};

// Fills seqs (batch.num_seqs of them) and returns the plan, which refers to them.
AttentionPlan PlanAttention(const PlanShape& shape, const PagedBatch& batch,
                            std::span<SequencePlan> seqs);

struct WorkItem {
  int32_t seq;
  int32_t kv_head;
  int64_t row_begin, row_end;  // of the q_len * (heads / kv_heads) rows of this kv head
  int32_t split;
  int64_t key_begin, key_end;  // within [0, kv_len)
};

// Item `index` of the plan, in [0, num_items). Later rows, which see more keys, come first.
WorkItem GetWorkItem(const PlanShape& shape, const PagedBatch& batch, const AttentionPlan& plan,
                     int64_t index);

// How many threads share an item, each with some of its rows: more than one only where there are
// fewer items than threads. Every one of them packs the keys for itself, so that few rows or keys
// are not shared out. Rows do not depend on each other: the bits are the same for any number.
int64_t SharesOfItem(const PlanShape& shape, const PagedBatch& batch, const AttentionPlan& plan,
                     int num_threads);

// Share `share` of `shares` of an item: it may have no rows.
WorkItem ShareOfItem(const WorkItem& item, int64_t share, int64_t shares);

// The sequence that owns merge row `row`, in [0, num_merge_rows).
int32_t FindMergeSequence(const AttentionPlan& plan, int64_t row);

}  // namespace mla::cpu

#endif  // MLA_KERNELS_CPU_ATTENTION_PLAN_H_
