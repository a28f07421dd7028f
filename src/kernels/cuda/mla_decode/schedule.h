// How the keys of a batch are shared out between the parts of a grid: a pure function of the
// lengths, the same on the host (where it is tested) and on the device (where a captured graph
// replays it with new lengths).
//
// Parts are filled one after another, each up to the same share: blocks of keys, and an overhead
// for each item. A part does not begin a sequence of which it could take but little, since a split
// costs a partial result that is written, read again and merged. The share is the least with which
// the parts suffice; or one that is greater by no more than merges cost, if it saves them. A part
// thus holds the end of at most one split sequence and the beginning of at most one other: at most
// 2 * num_parts results are partial.
//
// In the batch-invariant mode a sequence is cut by its own length alone, and whole cuts are shared
// out: results then do not depend on what else is in the batch, at some loss of balance.
#ifndef MLA_KERNELS_CUDA_MLA_DECODE_SCHEDULE_H_
#define MLA_KERNELS_CUDA_MLA_DECODE_SCHEDULE_H_

#include <cstdint>

#include "kernels/cuda/mla_decode/params.h"

#ifdef __CUDACC__
#define MLA_HOST_DEVICE __host__ __device__
#else
#define MLA_HOST_DEVICE
#endif

namespace mla::cuda {

// What an item costs besides its blocks, in blocks: queries are loaded and a result is stored.
inline constexpr uint32_t kItemOverhead = 2;

// What the merging of split sequences costs a call, in blocks; and what it costs more if a part
// waits for two of them.
inline constexpr uint32_t kMergeCost = 6;
inline constexpr uint32_t kSecondMergeCost = 3;

// A part takes no fewer blocks of a sequence that it will not end. Of a small share a fraction.
inline constexpr uint32_t kMostSlackBlocks = 4;
inline constexpr uint32_t kSlackDivisor = 8;

// Batch-invariant cuts: of at least this many blocks, and no more than kInvariantMaxCuts of them.
inline constexpr uint32_t kInvariantMinBlocks = 8;
inline constexpr uint32_t kInvariantMaxCuts = 32;

struct ScheduleShape {
  int32_t num_seqs = 0;
  int32_t num_parts = 1;
  int32_t row_tiles = 1;  // of a part
  bool batch_invariant = false;
  int64_t max_kv_len = 0;  // what the page table can hold: longer lengths are cut to it
};

MLA_HOST_DEVICE inline uint32_t NumBlocks(int64_t kv_len, const ScheduleShape& shape) {
  if (kv_len < 0) kv_len = 0;
  if (kv_len > shape.max_kv_len) kv_len = shape.max_kv_len;
  return static_cast<uint32_t>((kv_len + kBlockTokens - 1) / kBlockTokens);
}

// Blocks of one batch-invariant cut of a sequence.
MLA_HOST_DEVICE inline uint32_t InvariantCutBlocks(uint32_t num_blocks) {
  const uint32_t even = (num_blocks + kInvariantMaxCuts - 1) / kInvariantMaxCuts;
  return even < kInvariantMinBlocks ? kInvariantMinBlocks : even;
}

// How far the sequences up to some place fill the parts.
struct SchedulePosition {
  int32_t part;   // the last one begun
  uint32_t used;  // of its share
  int32_t items, slots, merges;
};

// The items of a sequence: `head` of them in its first part, `per_part` in each one after that. The
// first has first_blocks, those after it more_blocks, the last what is left.
struct SequenceItems {
  uint32_t blocks, count;
  int32_t first_part;
  uint32_t used;  // of that part's share, before
  uint32_t head, per_part;
  uint32_t first_blocks, more_blocks;

  MLA_HOST_DEVICE uint32_t Begin(uint32_t i) const {
    return i == 0 ? 0 : first_blocks + (i - 1) * more_blocks;
  }
  MLA_HOST_DEVICE uint32_t End(uint32_t i) const { return i + 1 == count ? blocks : Begin(i + 1); }
  MLA_HOST_DEVICE int32_t Part(uint32_t i) const {
    if (i < head) return first_part;
    // Divisions take the device long, and are but for the batch-invariant mode.
    const uint32_t parts = per_part == 1 ? i - head : (i - head) / per_part;
    return first_part + 1 + static_cast<int32_t>(parts);
  }
  // Whether item i is the first of its part.
  MLA_HOST_DEVICE bool BeginsPart(uint32_t i) const {
    if (i < head) return i == 0 && used == 0;
    return per_part == 1 || (i - head) % per_part == 0;
  }
};

// Where a sequence may be cut anywhere. `share` >= kItemOverhead + 1.
MLA_HOST_DEVICE inline SequenceItems CutFreely(uint32_t blocks, uint32_t share,
                                               const SchedulePosition& at) {
  const uint32_t most = share - kItemOverhead;
  uint32_t room = at.used < most ? most - at.used : 0;
  uint32_t slack = share / kSlackDivisor;
  if (slack > kMostSlackBlocks) slack = kMostSlackBlocks;
  const bool fits = at.used + kItemOverhead + blocks <= share;
  const bool moves = at.used > 0 && !fits && room <= slack;
  if (moves) room = most;
  SequenceItems items = {};
  items.blocks = blocks;
  items.first_part = at.part + (moves ? 1 : 0);
  items.used = moves ? 0 : at.used;
  items.head = items.per_part = 1;
  items.first_blocks = blocks < room ? blocks : room;
  items.more_blocks = most;
  const uint32_t rest = blocks - items.first_blocks;
  items.count = 1;
  if (rest > 0) ++items.count;
  if (rest > most) items.count += (rest - 1) / most;
  return items;
}

// The batch-invariant mode. `share` >= kItemOverhead + the greatest cut.
MLA_HOST_DEVICE inline SequenceItems CutByLength(uint32_t blocks, uint32_t share,
                                                 const SchedulePosition& at) {
  const uint32_t cut = InvariantCutBlocks(blocks);
  const uint32_t cost = (blocks < cut ? blocks : cut) + kItemOverhead;
  const uint32_t fit = (share - at.used) / cost;
  const bool moves = fit == 0 && at.used > 0;
  SequenceItems items = {};
  items.blocks = blocks;
  items.count = blocks <= cut ? 1 : (blocks + cut - 1) / cut;
  items.first_part = at.part + (moves ? 1 : 0);
  items.used = moves ? 0 : at.used;
  items.per_part = share / cost;
  items.head = moves ? items.per_part : fit;
  items.first_blocks = blocks < cut ? blocks : cut;
  items.more_blocks = cut;
  return items;
}

MLA_HOST_DEVICE inline SequenceItems ItemsOf(uint32_t blocks, uint32_t share,
                                             const ScheduleShape& shape,
                                             const SchedulePosition& at) {
  return shape.batch_invariant ? CutByLength(blocks, share, at) : CutFreely(blocks, share, at);
}

MLA_HOST_DEVICE inline void Advance(const SequenceItems& items, SchedulePosition* at) {
  if (items.count == 1) {
    at->part = items.first_part;
    at->used = items.used + items.blocks + kItemOverhead;
    ++at->items;
    return;
  }
  const uint32_t last = items.count - 1;
  // The first of the sequence's items that are in the same part as its last.
  uint32_t first = last < items.head ? 0 : last;
  if (first > 0 && items.per_part > 1) first -= (last - items.head) % items.per_part;
  at->part = items.Part(last);
  at->used = (first == 0 ? items.used : 0) + items.blocks - items.Begin(first) +
             (items.count - first) * kItemOverhead;
  at->items += static_cast<int32_t>(items.count);
  at->slots += static_cast<int32_t>(items.count);
  ++at->merges;
}

// Writes item `i` of a sequence, which begins at `at`, to `sink`:
//   sink.Item(index, WorkItem)
//   sink.BeginPart(part, index, WorkItem), if it is the first of its part
//   sink.Merge(index, MergeItem), with the first item of a sequence that is split
// Each is written once, in any order. Parts that no item begins have none.
template <typename Sink>
MLA_HOST_DEVICE void WriteItem(const SequenceItems& items, const SchedulePosition& at, int32_t seq,
                               int32_t kv_len, uint32_t i, Sink& sink) {
  const bool split = items.count > 1;
  const int32_t index = at.items + static_cast<int32_t>(i);
  WorkItem item = {};
  item.seq = seq;
  item.first_block = static_cast<int32_t>(items.Begin(i));
  item.end_block = static_cast<int32_t>(items.End(i));
  item.slot = split ? at.slots + static_cast<int32_t>(i) : -1;
  item.kv_len = kv_len;
  item.merge = split ? at.merges : -1;
  item.first_slot = at.slots;
  item.num_slots = split ? static_cast<int32_t>(items.count) : 0;
  sink.Item(index, item);
  if (items.BeginsPart(i)) sink.BeginPart(items.Part(i), index, item);
  if (split && i == 0) {
    sink.Merge(at.merges, MergeItem{seq, at.slots, static_cast<int32_t>(items.count), 0});
  }
}

// What the choice of a share goes by.
struct ScheduleTotals {
  uint32_t blocks = 0;  // of all sequences
  uint32_t cut = 0;     // the greatest of the batch-invariant cuts
};

// The shares that are tried: the last has room for everything.
inline constexpr int kShares = 128;
MLA_HOST_DEVICE inline uint32_t ShareToTry(int i, const ScheduleTotals& totals,
                                           const ScheduleShape& shape) {
  const auto parts = static_cast<uint32_t>(shape.num_parts);
  const auto seqs = static_cast<uint32_t>(shape.num_seqs);
  if (i + 1 == kShares) {
    const auto items = static_cast<uint32_t>(shape.batch_invariant ? kInvariantMaxCuts : 1) * seqs;
    return totals.blocks + items * kItemOverhead + totals.cut + 1;
  }
  uint32_t least = (totals.blocks + seqs * kItemOverhead + parts - 1) / parts;
  // What the overheads of splits, what parts leave of their shares, and the cuts may add to it.
  uint32_t range = kItemOverhead + kMostSlackBlocks + 2 * (kMergeCost + kSecondMergeCost);
  if (parts > 1) range += least / (parts - 1);
  if (least < kItemOverhead + 1) least = kItemOverhead + 1;
  if (shape.batch_invariant) {
    if (least < kItemOverhead + totals.cut) least = kItemOverhead + totals.cut;
    range += totals.cut;
  }
  return least + static_cast<uint32_t>(i) * (1 + range / kShares);
}

// What a share costs: the least is best. `blocks(s)` is the number of key blocks of sequence s.
template <typename Blocks>
MLA_HOST_DEVICE uint32_t CostOfShare(uint32_t share, const ScheduleShape& shape,
                                     const Blocks& blocks) {
  SchedulePosition at = {};
  uint32_t next = shape.num_seqs > 0 ? blocks(0) : 0;
  for (int32_t seq = 0; seq < shape.num_seqs; ++seq) {
    const uint32_t present = next;  // read ahead: each step waits for the one before
    if (seq + 1 < shape.num_seqs) next = blocks(seq + 1);
    Advance(ItemsOf(present, share, shape, at), &at);
    if (at.part >= shape.num_parts) return UINT32_MAX;
  }
  if (at.merges == 0) return share;
  return share + kMergeCost + (at.items > shape.num_parts ? kSecondMergeCost : 0);
}

// Bounds that hold for all lengths: what the memory of a schedule is sized by.
MLA_HOST_DEVICE inline int64_t MaxCuts(const ScheduleShape& shape) {
  const uint32_t blocks = NumBlocks(shape.max_kv_len, shape);
  const uint32_t cuts = (blocks + kInvariantMinBlocks - 1) / kInvariantMinBlocks;
  return cuts < 1 ? 1 : cuts > kInvariantMaxCuts ? kInvariantMaxCuts : cuts;
}
MLA_HOST_DEVICE inline int64_t MaxItems(const ScheduleShape& shape) {
  return shape.batch_invariant ? shape.num_seqs * MaxCuts(shape)
                               : int64_t{shape.num_seqs} + shape.num_parts;
}
MLA_HOST_DEVICE inline int64_t MaxSlots(const ScheduleShape& shape) {
  return shape.batch_invariant ? shape.num_seqs * MaxCuts(shape) : int64_t{2} * shape.num_parts;
}
MLA_HOST_DEVICE inline int64_t MaxArrivals(const ScheduleShape& shape) {
  return int64_t{2} * shape.num_parts * shape.row_tiles;
}
MLA_HOST_DEVICE inline int64_t MaxMerges(const ScheduleShape& shape) {
  const int64_t parts = shape.num_parts;
  return !shape.batch_invariant && parts < shape.num_seqs ? parts : shape.num_seqs;
}

}  // namespace mla::cuda

#endif  // MLA_KERNELS_CUDA_MLA_DECODE_SCHEDULE_H_
