// The schedule on the device, by one thread block. Each thread of four warps tries one share: it
// walks through all sequences, and notes how far it is at every kSpan-th. From what the thread with
// the best share has noted, one thread for each sequence finds where that begins, and then one for
// each item finds its sequence.
#include <algorithm>

#include "kernels/cuda/mla_decode/schedule_kernel.h"

namespace mla::cuda {
namespace {

constexpr int kThreads = 512;
constexpr int kWarp = 32;
constexpr int kWarps = kThreads / kWarp;
constexpr int kStaged = 4096;  // sequences whose blocks are in shared memory at a time
constexpr int kAhead = 4;      // sequences that are read together
constexpr unsigned kAll = 0xffffffffu;
static_assert(kShares % kWarp == 0 && kShares <= kThreads);
static_assert(kStaged % kSpan == 0 && kThreads % kSpan == 0 && kWarp % kSpan == 0);
static_assert(kSpan % kAhead == 0 && kAhead == 4, "a read of 16 bytes");

struct DeviceSink {
  const ScheduleMemory& memory;

  __device__ void BeginPart(int32_t part, int32_t index, const WorkItem& item) const {
    memory.part_begin[part] = index;
    memory.first_items[part] = item;
  }
  __device__ void Item(int32_t index, const WorkItem& item) const { memory.items[index] = item; }
  __device__ void Merge(int32_t index, const MergeItem& item) const {
    memory.merge_items[index] = item;
  }
};

struct ScheduleShared {
  alignas(16) uint32_t blocks[kStaged + kAhead];
  SchedulePosition positions[kThreads + 1];  // where sequences begin, and the end of the last
  int32_t kv_lens[kThreads];
  uint32_t warp_blocks[kWarps], warp_most[kWarps];
  uint32_t warp_cost[kShares / kWarp], warp_share[kShares / kWarp];
  int warp_best[kShares / kWarp];
};

__device__ int Thread() { return static_cast<int>(threadIdx.x); }

// Adds up the blocks of the sequences, and stages those of the first.
__device__ ScheduleTotals ReadLengths(const int32_t* kv_lens, const ScheduleShape& shape,
                                      ScheduleShared& shared) {
  ScheduleTotals totals;
#pragma unroll 2
  for (int32_t seq = Thread(); seq < shape.num_seqs; seq += kThreads) {
    const uint32_t blocks = NumBlocks(kv_lens[seq], shape);
    if (seq < kStaged) shared.blocks[seq] = blocks;
    totals.blocks += blocks;
    totals.most = max(totals.most, blocks);
  }
  totals.blocks = __reduce_add_sync(kAll, totals.blocks);
  totals.most = __reduce_max_sync(kAll, totals.most);
  if (Thread() % kWarp == 0) {
    shared.warp_blocks[Thread() / kWarp] = totals.blocks;
    shared.warp_most[Thread() / kWarp] = totals.most;
  }
  __syncthreads();
  totals = {};
  for (int warp = 0; warp < kWarps; ++warp) {
    totals.blocks += shared.warp_blocks[warp];
    totals.most = max(totals.most, shared.warp_most[warp]);
  }
  return totals;
}

// A compiler puts a plain load off until what it brings is needed, and then waits for it.
__device__ __forceinline__ uint4 LoadAhead(const uint32_t* from) {
  uint4 v;
  asm volatile("ld.shared.v4.u32 {%0, %1, %2, %3}, [%4];"
               : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
               : "r"(static_cast<uint32_t>(__cvta_generic_to_shared(from)))
               : "memory");
  return v;
}

// Walks through the staged sequences, the first of which is number `base`, and writes to *note,
// which goes down the column of a share, where each kSpan-th begins, but not the very first.
template <bool kShort, typename Cut>
__device__ void Walk(Cut& cut, const uint32_t* blocks, int32_t base, int32_t count,
                     int32_t num_parts, SchedulePosition** note, SchedulePosition* at) {
  uint4 next = LoadAhead(blocks);
  for (int32_t i = 0; i < count && at->part < num_parts;) {
    if (base + i > 0) {
      **note = *at;
      *note += kShares;
    }
    const int32_t end = min(i + kSpan, count);
#pragma unroll 1
    for (; i + kAhead <= end; i += kAhead) {
      const uint4 present = next;
      next = LoadAhead(blocks + i + kAhead);
      cut.template Step<kShort>(present.x, at);
      cut.template Step<kShort>(present.y, at);
      cut.template Step<kShort>(present.z, at);
      cut.template Step<kShort>(present.w, at);
    }
#pragma unroll 1
    for (; i < end; ++i) cut.template Step<kShort>(blocks[i], at);
  }
}

struct Choice {
  uint32_t share;
  int index;  // of those that are tried
};

// The share that costs least, the first of several.
template <typename Cut>
__device__ Choice ChooseShare(const int32_t* kv_lens, const ScheduleTotals& totals,
                              const ScheduleShape& shape, SchedulePosition* notes,
                              ScheduleShared& shared) {
  const bool tries = Thread() < kShares;
  const uint32_t share = tries ? ShareToTry(Thread(), totals, shape) : kItemOverhead + 1;
  Cut cut(share);
  const bool are_short = __all_sync(kAll, cut.AreShort(totals.most));
  SchedulePosition at = SchedulePosition::Start();
  SchedulePosition* note = notes + Thread();
#pragma unroll 1
  for (int32_t base = 0; base < shape.num_seqs; base += kStaged) {
    const int32_t count = min(kStaged, shape.num_seqs - base);
    if (base > 0) {
      __syncthreads();
#pragma unroll 1
      for (int32_t i = Thread(); i < count; i += kThreads) {
        shared.blocks[i] = NumBlocks(kv_lens[base + i], shape);
      }
      __syncthreads();
    }
    if (tries && are_short) {
      Walk<true>(cut, shared.blocks, base, count, shape.num_parts, &note, &at);
    } else if (tries) {
      Walk<false>(cut, shared.blocks, base, count, shape.num_parts, &note, &at);
    }
  }
  if (tries) {
    const uint32_t cost = CostOfShare(share, at, shape);
    const uint32_t least = __reduce_min_sync(kAll, cost);
    const int best = __ffs(static_cast<int>(__ballot_sync(kAll, cost == least))) - 1;
    if (Thread() % kWarp == best) {
      shared.warp_cost[Thread() / kWarp] = least;
      shared.warp_share[Thread() / kWarp] = share;
      shared.warp_best[Thread() / kWarp] = Thread();
    }
  }
  __syncthreads();
  int best = 0;
  for (int warp = 1; warp < kShares / kWarp; ++warp) {
    if (shared.warp_cost[warp] < shared.warp_cost[best]) best = warp;
  }
  return {shared.warp_share[best], shared.warp_best[best]};
}

// Where the `count` sequences from `base` on begin. `notes` is the column of the share.
template <typename Cut>
__device__ void FindPositions(Cut& cut, bool are_short, const int32_t* kv_lens,
                              const ScheduleShape& shape, int32_t base, int32_t count,
                              const SchedulePosition* notes, ScheduleShared& shared) {
  const int32_t i = Thread(), seq = base + i, lane = i % kSpan;
  const int32_t steps = min(count - i / kWarp * kWarp, kSpan);  // of this warp
  if (steps <= 0) return;
  int32_t kv_len = 0;
  SchedulePosition at = SchedulePosition::Start();
  if (i < count) {
    kv_len = static_cast<int32_t>(min(max(int64_t{kv_lens[seq]}, int64_t{0}), shape.max_kv_len));
    const int32_t span = seq / kSpan;
    if (span > 0) at = notes[(span - 1) * kShares];
  }
  const uint32_t own_blocks = NumBlocks(kv_len, shape);
  SchedulePosition begin = at;
#pragma unroll 1
  for (int32_t k = 0; k < steps; ++k) {
    const uint32_t blocks = __shfl_sync(kAll, own_blocks, k, kSpan);
    if (k == lane) begin = at;
    if (k > lane) continue;
    if (are_short) {
      cut.template Step<true>(blocks, &at);
    } else {
      cut.template Step<false>(blocks, &at);
    }
  }
  if (i >= count) return;
  shared.positions[i] = begin;
  shared.kv_lens[i] = kv_len;
  if (i + 1 == count) shared.positions[count] = at;
}

// Writes the items of the `count` sequences whose positions are known.
template <typename Cut>
__device__ void WriteItems(const Cut& cut, const ScheduleShape& shape, int32_t base, int32_t count,
                           const ScheduleShared& shared, DeviceSink& sink) {
  // The first item of a sequence, of these.
  const int32_t before = shared.positions[0].more_items;
  const auto first = [&](int32_t i) { return i + shared.positions[i].more_items - before; };
  const int32_t items = first(count);
  for (int32_t item = Thread(); item < items; item += kThreads) {
    int32_t low = 0;  // the last whose first item is this or one before
#pragma unroll 1
    for (int32_t high = count; high - low > 1;) {
      const int32_t middle = (low + high) / 2;
      if (first(middle) <= item) {
        low = middle;
      } else {
        high = middle;
      }
    }
    const SchedulePosition at = shared.positions[low];
    const int32_t kv_len = shared.kv_lens[low];
    WriteItem(cut.Items(NumBlocks(kv_len, shape), at), at, base + low, kv_len,
              static_cast<uint32_t>(item - first(low)), sink);
  }
}

// Cut: of the shape's mode.
template <typename Cut>
__global__ void __launch_bounds__(kThreads)
    ScheduleKernel(const int32_t* kv_lens, ScheduleShape shape, ScheduleMemory memory) {
  __shared__ ScheduleShared shared;
#pragma unroll 1
  for (int64_t i = Thread(); i < MaxArrivals(shape); i += kThreads) memory.merge_arrivals[i] = 0;
  const ScheduleTotals totals = ReadLengths(kv_lens, shape, shared);
  const Choice choice = ChooseShare<Cut>(kv_lens, totals, shape, memory.notes, shared);
  Cut cut(choice.share);
  const bool are_short = cut.AreShort(totals.most);
  DeviceSink sink{memory};
  SchedulePosition end = SchedulePosition::Start();
  for (int32_t base = 0; base < shape.num_seqs; base += kThreads) {
    const int32_t count = min(kThreads, shape.num_seqs - base);
    FindPositions(cut, are_short, kv_lens, shape, base, count, memory.notes + choice.index, shared);
    __syncthreads();
    WriteItems(cut, shape, base, count, shared, sink);
    end = shared.positions[count];
    __syncthreads();
  }
  const int32_t num_items = shape.num_seqs + end.more_items;
#pragma unroll 1
  for (int32_t part = end.part + 1 + Thread(); part <= shape.num_parts; part += kThreads) {
    memory.part_begin[part] = num_items;
  }
  if (Thread() == 0) {
    *memory.blocks_begun = 0;
    *memory.num_merges = end.merges;
  }
}

constexpr size_t kAlign = 256;
size_t Aligned(size_t bytes) { return (bytes + kAlign - 1) / kAlign * kAlign; }

size_t NumNotes(const ScheduleShape& shape) {
  return size_t{kShares} * (std::max(shape.num_seqs - 1, 0) / kSpan);
}

}  // namespace

size_t ScheduleMemory::Bytes(const ScheduleShape& shape) {
  return Aligned((shape.num_parts + 1) * sizeof(int32_t)) + kAlign +
         Aligned(MaxItems(shape) * sizeof(WorkItem)) + Aligned(shape.num_parts * sizeof(WorkItem)) +
         Aligned(MaxMerges(shape) * sizeof(MergeItem)) + kAlign +
         Aligned(MaxArrivals(shape) * sizeof(uint32_t)) +
         Aligned(NumNotes(shape) * sizeof(SchedulePosition));
}

ScheduleMemory::ScheduleMemory(void* memory, const ScheduleShape& shape) {
  char* next = static_cast<char*>(memory);
  const auto take = [&next](size_t bytes) {
    char* here = next;
    next += Aligned(bytes);
    return here;
  };
  part_begin = reinterpret_cast<int32_t*>(take((shape.num_parts + 1) * sizeof(int32_t)));
  num_merges = reinterpret_cast<int32_t*>(take(sizeof(int32_t)));
  items = reinterpret_cast<WorkItem*>(take(MaxItems(shape) * sizeof(WorkItem)));
  first_items = reinterpret_cast<WorkItem*>(take(shape.num_parts * sizeof(WorkItem)));
  merge_items = reinterpret_cast<MergeItem*>(take(MaxMerges(shape) * sizeof(MergeItem)));
  blocks_begun = reinterpret_cast<unsigned long long*>(take(sizeof(unsigned long long)));
  merge_arrivals = reinterpret_cast<uint32_t*>(take(MaxArrivals(shape) * sizeof(uint32_t)));
  notes = reinterpret_cast<SchedulePosition*>(take(NumNotes(shape) * sizeof(SchedulePosition)));
}

cudaError_t LaunchSchedule(const int32_t* kv_lens, const ScheduleShape& shape,
                           const ScheduleMemory& memory, cudaStream_t stream) {
  if (shape.batch_invariant) {
    ScheduleKernel<InvariantCut><<<1, kThreads, 0, stream>>>(kv_lens, shape, memory);
  } else {
    ScheduleKernel<FreeCut><<<1, kThreads, 0, stream>>>(kv_lens, shape, memory);
  }
  return cudaGetLastError();
}

}  // namespace mla::cuda
