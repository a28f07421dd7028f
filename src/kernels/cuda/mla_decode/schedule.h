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
struct alignas(16) SchedulePosition {
  int32_t part;        // the last one begun, -1 before the first
  uint32_t left;       // of its share
  int32_t more_items;  // than sequences
  int32_t merges;

  MLA_HOST_DEVICE static SchedulePosition Start() { return {-1, 0, 0, 0}; }
  MLA_HOST_DEVICE int32_t slots() const { return more_items + merges; }
};

// The items of a sequence: `head` of them in its first part, `per_part` in each one after that. The
// first has first_blocks, those after it more_blocks, the last what is left.
struct SequenceItems {
  uint32_t blocks, count;
  int32_t first_part;
  bool begins_part;  // with its first item
  uint32_t left;     // of the first part's share, before
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
    if (i < head) return i == 0 && begins_part;
    return per_part == 1 || (i - head) % per_part == 0;
  }
};

// Goes past a sequence of these items.
MLA_HOST_DEVICE inline void Advance(const SequenceItems& items, uint32_t share,
                                    SchedulePosition* at) {
  const uint32_t last = items.count - 1;
  // The first of the sequence's items that are in the same part as its last.
  uint32_t first = last < items.head ? 0 : last;
  if (first > 0 && items.per_part > 1) first -= (last - items.head) % items.per_part;
  at->part = items.Part(last);
  at->left = (first == 0 ? items.left : share) - (items.blocks - items.Begin(first)) -
             (items.count - first) * kItemOverhead;
  at->more_items += static_cast<int32_t>(last);
  if (last > 0) ++at->merges;
}

// Divides by the same number again and again. The device takes long for a division of its own.
class Divisor {
 public:
  MLA_HOST_DEVICE explicit Divisor(uint32_t by) : by_(by), inverse_(UINT32_MAX / by) {}

  MLA_HOST_DEVICE uint32_t Quotient(uint32_t x) const {
    // inverse_ is no more than 2^32 / by_ and no less than 1 below: this is right or 1 too small.
    const auto quotient = static_cast<uint32_t>((uint64_t{x} * inverse_) >> 32);
    return x - quotient * by_ < by_ ? quotient : quotient + 1;
  }

 private:
  uint32_t by_, inverse_;
};

// Where a sequence may be cut anywhere. `share` >= kItemOverhead + 1.
class FreeCut {
 public:
  MLA_HOST_DEVICE explicit FreeCut(uint32_t share)
      : share_(share), most_(share - kItemOverhead), by_most_(most_) {
    const uint32_t slack = share / kSlackDivisor;
    moves_within_ = kItemOverhead + (slack < kMostSlackBlocks ? slack : kMostSlackBlocks);
  }

  MLA_HOST_DEVICE SequenceItems Items(uint32_t blocks, const SchedulePosition& at) const {
    uint32_t room = at.left > kItemOverhead ? at.left - kItemOverhead : 0;
    const bool moves = blocks + kItemOverhead > at.left && at.left <= moves_within_;
    if (moves) room = most_;
    SequenceItems items = {};
    items.blocks = blocks;
    items.first_part = at.part + (moves ? 1 : 0);
    items.begins_part = moves;
    items.left = moves ? share_ : at.left;
    items.head = items.per_part = 1;
    items.first_blocks = blocks < room ? blocks : room;
    items.more_blocks = most_;
    const uint32_t rest = blocks - items.first_blocks;
    items.count = 1;
    if (rest > 0) ++items.count;
    if (rest > most_) items.count += (rest - 1) / most_;
    return items;
  }

  // Whether a sequence of up to `blocks` is cut once at most.
  MLA_HOST_DEVICE bool AreShort(uint32_t blocks) const { return blocks + kItemOverhead <= most_; }

  // Advance past Items(blocks, *at), in few operations, of which but a comparison, a subtraction,
  // a minimum and a choice wait for the step before: sequences are walked through one after
  // another. kShort: where AreShort(blocks).
  template <bool kShort>
  MLA_HOST_DEVICE void Step(uint32_t blocks, SchedulePosition* at) {
    // The cost of the sequence, if it is not cut, is whole * most_ + rest + 1.
    const uint32_t cost_but_one = blocks + kItemOverhead - 1;
    const uint32_t whole = kShort ? 0 : by_most_.Quotient(cost_but_one);
    const uint32_t rest = cost_but_one - whole * most_;
    // Each part more brings room for most_ blocks. In the part that is begun at most most_ is left,
    // so that the rest takes one part more, or none.
    const uint32_t left = at->left - rest - 1;
    const uint32_t left_one_more = left + most_;
    const uint32_t left_here = left < left_one_more ? left : left_one_more;  // one has wrapped
    const uint32_t more_here = whole + (left >> 31);
    // A new part has room for kItemOverhead more than most_: some parts fewer may do.
    uint32_t fewer = rest < kItemOverhead ? (most_ < kItemOverhead ? 2 : 1) : 0;
    if (fewer > whole) fewer = whole;
    const uint32_t left_there = share_ - 1 - rest - fewer * most_;

    const bool moves = at->left <= (cost_but_one < moves_within_ ? cost_but_one : moves_within_);
    const uint32_t more_there = whole - fewer;
    at->left = moves ? left_there : left_here;
    at->part += static_cast<int32_t>(moves ? more_there + 1 : more_here);
    const uint32_t more = moves ? more_there : more_here;
    at->more_items += static_cast<int32_t>(more);
    at->merges += kShort ? static_cast<int32_t>(more) : more > 0 ? 1 : 0;
  }

 private:
  static_assert(kItemOverhead == 2, "how many parts fewer a new part may save");
  uint32_t share_, most_;
  Divisor by_most_;
  uint32_t moves_within_;  // begins a new part rather than cut a sequence where no more is left
};

// The batch-invariant mode. `share` >= kItemOverhead + the greatest cut.
class InvariantCut {
 public:
  MLA_HOST_DEVICE explicit InvariantCut(uint32_t share)
      : share_(share), cut_(1), per_part_(1), by_cut_(1), by_cost_(1), by_per_part_(1) {}

  MLA_HOST_DEVICE SequenceItems Items(uint32_t blocks, const SchedulePosition& at) const {
    const uint32_t cut = InvariantCutBlocks(blocks);
    const uint32_t cost = (blocks < cut ? blocks : cut) + kItemOverhead;
    const uint32_t fit = at.left / cost;
    const bool moves = fit == 0;
    SequenceItems items = {};
    items.blocks = blocks;
    items.count = blocks <= cut ? 1 : (blocks + cut - 1) / cut;
    items.first_part = at.part + (moves ? 1 : 0);
    items.begins_part = moves;
    items.left = moves ? share_ : at.left;
    items.per_part = share_ / cost;
    items.head = moves ? items.per_part : fit;
    items.first_blocks = blocks < cut ? blocks : cut;
    items.more_blocks = cut;
    return items;
  }

  // Whether a sequence of up to `blocks` is not cut.
  MLA_HOST_DEVICE bool AreShort(uint32_t blocks) const { return blocks <= kInvariantMinBlocks; }

  // Advance past Items(blocks, *at). Cuts of most sequences are of the same size, and so are the
  // divisors. kShort: where AreShort(blocks).
  template <bool kShort>
  MLA_HOST_DEVICE void Step(uint32_t blocks, SchedulePosition* at) {
    const uint32_t cut = InvariantCutBlocks(blocks);
    if (kShort || blocks <= cut) {
      const bool moves = blocks + kItemOverhead > at->left;
      at->part += moves ? 1 : 0;
      at->left = (moves ? share_ : at->left) - blocks - kItemOverhead;
      return;
    }
    if (cut != cut_) SetCut(cut);
    const uint32_t count = by_cut_.Quotient(blocks - 1) + 1;
    const uint32_t fit = by_cost_.Quotient(at->left);
    if (count <= fit) {
      at->left -= blocks + count * kItemOverhead;
    } else {
      const uint32_t more_parts = by_per_part_.Quotient(count - fit - 1) + 1;
      const uint32_t first = fit + (more_parts - 1) * per_part_;  // of the items in the last part
      at->part += static_cast<int32_t>(more_parts);
      at->left = share_ - (blocks - first * cut) - (count - first) * kItemOverhead;
    }
    at->more_items += static_cast<int32_t>(count - 1);
    ++at->merges;
  }

 private:
  MLA_HOST_DEVICE void SetCut(uint32_t cut) {
    cut_ = cut;
    by_cut_ = Divisor(cut);
    by_cost_ = Divisor(cut + kItemOverhead);
    per_part_ = by_cost_.Quotient(share_);
    by_per_part_ = Divisor(per_part_);
  }

  uint32_t share_;
  // Of the last sequence that was cut.
  uint32_t cut_, per_part_;  // blocks, and items that a part has room for
  Divisor by_cut_, by_cost_, by_per_part_;
};

// Writes item `i` of a sequence, which begins at `at`, to `sink`:
//   sink.Item(index, WorkItem)
//   sink.BeginPart(part, index, WorkItem), if it is the first of its part
//   sink.Merge(index, MergeItem), with the first item of a sequence that is split
// Each is written once, in any order. Parts that no item begins have none.
template <typename Sink>
MLA_HOST_DEVICE void WriteItem(const SequenceItems& items, const SchedulePosition& at, int32_t seq,
                               int32_t kv_len, uint32_t i, Sink& sink) {
  const bool split = items.count > 1;
  const int32_t index = seq + at.more_items + static_cast<int32_t>(i);
  WorkItem item = {};
  item.seq = seq;
  item.first_block = static_cast<int32_t>(items.Begin(i));
  item.end_block = static_cast<int32_t>(items.End(i));
  item.slot = split ? at.slots() + static_cast<int32_t>(i) : -1;
  item.kv_len = kv_len;
  item.merge = split ? at.merges : -1;
  item.first_slot = at.slots();
  item.num_slots = split ? static_cast<int32_t>(items.count) : 0;
  sink.Item(index, item);
  if (items.BeginsPart(i)) sink.BeginPart(items.Part(i), index, item);
  if (split && i == 0) {
    sink.Merge(at.merges, MergeItem{seq, at.slots(), static_cast<int32_t>(items.count), 0});
  }
}

// What the choice of a share goes by.
struct ScheduleTotals {
  uint32_t blocks = 0;  // of all sequences
  uint32_t most = 0;    // of one

  // The greatest of the batch-invariant cuts.
  MLA_HOST_DEVICE uint32_t cut() const {
    const uint32_t cut = InvariantCutBlocks(most);
    return most < cut ? most : cut;
  }
};

// The shares that are tried: the last has room for everything.
inline constexpr int kShares = 128;

// Sequences between two places that the device notes while it tries a share.
inline constexpr int kSpan = 16;

MLA_HOST_DEVICE inline uint32_t ShareToTry(int i, const ScheduleTotals& totals,
                                           const ScheduleShape& shape) {
  const auto parts = static_cast<uint32_t>(shape.num_parts);
  const auto seqs = static_cast<uint32_t>(shape.num_seqs);
  if (i + 1 == kShares) {
    const auto items = static_cast<uint32_t>(shape.batch_invariant ? kInvariantMaxCuts : 1) * seqs;
    return totals.blocks + items * kItemOverhead + totals.cut() + 1;
  }
  uint32_t least = (totals.blocks + seqs * kItemOverhead + parts - 1) / parts;
  // What the overheads of splits, what parts leave of their shares, and the cuts may add to it.
  uint32_t range = kItemOverhead + kMostSlackBlocks + 2 * (kMergeCost + kSecondMergeCost);
  if (parts > 1) range += least / (parts - 1);
  if (least < kItemOverhead + 1) least = kItemOverhead + 1;
  if (shape.batch_invariant) {
    if (least < kItemOverhead + totals.cut()) least = kItemOverhead + totals.cut();
    range += totals.cut();
  }
  return least + static_cast<uint32_t>(i) * (1 + range / kShares);
}

// What a share costs with which the walk ended at `end`: the least is best.
MLA_HOST_DEVICE inline uint32_t CostOfShare(uint32_t share, const SchedulePosition& end,
                                            const ScheduleShape& shape) {
  if (end.part >= shape.num_parts) return UINT32_MAX;
  if (end.merges == 0) return share;
  const bool second = shape.num_seqs + end.more_items > shape.num_parts;
  return share + kMergeCost + (second ? kSecondMergeCost : 0);
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
