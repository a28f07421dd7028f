// How the keys of a batch are shared out between the parts of a grid: a pure function of the
// lengths, the same on the host (where it is tested) and on the device (where a captured graph
// replays it with new lengths).
//
// Parts are filled one after another, each with its share of what is left: blocks of keys, and an
// overhead for each sequence. A part ends a sequence that would overrun its share by little, and
// does not begin one of which it could take but little, since a split costs a partial result that
// is written, read again and merged. A part thus holds the end of at most one split sequence and
// the beginning of at most one other: at most 2 * num_parts results are partial.
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

// What a sequence costs besides its blocks: its queries are loaded and its result is stored.
inline constexpr uint32_t kSequenceOverheadBlocks = 1;

// What a split costs: a part may overrun its share by as many blocks to end a sequence, and takes
// no fewer of one that it will not end. Of a small share it is but a fraction.
inline constexpr uint32_t kMostSlackBlocks = 4;
inline constexpr uint32_t kSlackDivisor = 8;

// Batch-invariant cuts: of at least this many blocks, and no more than kInvariantMaxCuts of them.
inline constexpr uint32_t kInvariantMinBlocks = 8;
inline constexpr uint32_t kInvariantMaxCuts = 32;

struct ScheduleShape {
  int32_t num_seqs = 0;
  int32_t num_parts = 1;
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

// Makes a schedule. `blocks(s)` is the number of key blocks of sequence s, `total_cost` the sum of
// blocks(s) + kSequenceOverheadBlocks. What comes out goes to `sink`, in order:
//   sink.BeginPart(part, first_item), for every part
//   sink.Item(index, WorkItem)
//   sink.Merge(index, MergeItem)
//   sink.End(num_items, num_merges)
template <typename Sink>
class Scheduler {
 public:
  MLA_HOST_DEVICE Scheduler(const ScheduleShape& shape, uint32_t total_cost, Sink& sink)
      : shape_(shape), sink_(sink), cost_left_(total_cost) {
    BeginPart(0);
  }

  template <typename Blocks>
  MLA_HOST_DEVICE void Run(const Blocks& blocks) {
    for (int32_t seq = 0; seq < shape_.num_seqs; ++seq) AddSequence(seq, blocks(seq));
    for (int32_t part = part_ + 1; part <= shape_.num_parts; ++part) {
      sink_.BeginPart(part, num_items_);
    }
    sink_.End(num_items_, num_merges_);
  }

 private:
  MLA_HOST_DEVICE void BeginPart(int32_t part) {
    // A part that took less than its share leaves more for those after it; to give a part less than
    // the first had would make no call faster, and would split more.
    if (part == 0 || used_ < share_) {
      const auto parts_left = static_cast<uint32_t>(shape_.num_parts - part);
      // Each part may begin with the rest of a sequence, whose overhead is in no one's cost yet.
      const uint32_t even = (cost_left_ + parts_left - 1) / parts_left + kSequenceOverheadBlocks;
      if (even > share_) share_ = even;
      slack_ = share_ / kSlackDivisor;
      if (slack_ > kMostSlackBlocks) slack_ = kMostSlackBlocks;
    }
    part_ = part;
    used_ = 0;
    sink_.BeginPart(part, num_items_);
  }

  MLA_HOST_DEVICE bool IsLastPart() const { return part_ + 1 == shape_.num_parts; }

  // How many of the `left` blocks the part should take; 0: none, the next part begins with them.
  MLA_HOST_DEVICE uint32_t Take(uint32_t left) const {
    const uint32_t after = used_ + kSequenceOverheadBlocks;
    if (IsLastPart() || after + left <= share_ + slack_) return left;
    const uint32_t room = share_ > after ? share_ - after : 0;
    if (used_ > 0 && room <= slack_) return 0;
    return room > 0 ? room : 1;
  }

  // The same where cuts are given: all of one or none.
  MLA_HOST_DEVICE uint32_t TakeCut(uint32_t left) const {
    const bool fits = used_ + kSequenceOverheadBlocks + left / 2 <= share_;
    return IsLastPart() || used_ == 0 || fits ? left : 0;
  }

  MLA_HOST_DEVICE void AddSequence(int32_t seq, uint32_t blocks) {
    const uint32_t cut = shape_.batch_invariant ? InvariantCutBlocks(blocks) : blocks;
    const int32_t first_slot = num_slots_;
    uint32_t begin = 0;
    cost_left_ -= kSequenceOverheadBlocks;
    do {
      const uint32_t left = blocks - begin < cut ? blocks - begin : cut;
      const uint32_t taken = shape_.batch_invariant ? TakeCut(left) : Take(left);
      if (taken == 0 && left > 0) {
        BeginPart(part_ + 1);
        continue;
      }
      const bool whole = taken == blocks;
      sink_.Item(num_items_++,
                 WorkItem{seq, static_cast<int32_t>(begin), static_cast<int32_t>(begin + taken),
                          whole ? -1 : num_slots_});
      if (!whole) ++num_slots_;
      begin += taken;
      cost_left_ -= taken;
      used_ += taken + kSequenceOverheadBlocks;
      if (used_ >= share_ && !IsLastPart()) BeginPart(part_ + 1);
    } while (begin < blocks);
    if (num_slots_ > first_slot) {
      sink_.Merge(num_merges_++, MergeItem{seq, first_slot, num_slots_ - first_slot, 0});
    }
  }

  ScheduleShape shape_;
  Sink& sink_;
  uint32_t cost_left_;  // of what no part has yet
  uint32_t share_ = 0;  // of a part
  uint32_t slack_ = 0;
  uint32_t used_ = 0;  // of the present part's share
  int32_t part_ = 0;
  int32_t num_items_ = 0;
  int32_t num_slots_ = 0;
  int32_t num_merges_ = 0;
};

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
MLA_HOST_DEVICE inline int64_t MaxMerges(const ScheduleShape& shape) {
  const int64_t parts = shape.num_parts;
  return !shape.batch_invariant && parts < shape.num_seqs ? parts : shape.num_seqs;
}

}  // namespace mla::cuda

#endif  // MLA_KERNELS_CUDA_MLA_DECODE_SCHEDULE_H_
