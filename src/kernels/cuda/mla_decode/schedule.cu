// The schedule on the device, by one thread block: each thread of four warps tries one share, then
// one thread walks through the sequences to find where each begins, and all write their items.
#include "kernels/cuda/mla_decode/schedule_kernel.h"

namespace mla::cuda {
namespace {

constexpr int kThreads = 512;
constexpr int kWarp = 32;
constexpr int kWarps = kThreads / kWarp;
constexpr int kStaged = 4096;  // sequences whose blocks wait in shared memory
constexpr unsigned kAll = 0xffffffffu;
static_assert(kShares % kWarp == 0 && kShares <= kThreads);

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
  uint32_t blocks[kStaged];
  SchedulePosition positions[kThreads];
  SchedulePosition end;
  uint32_t warp_blocks[kWarps], warp_cut[kWarps];
  uint32_t warp_cost[kShares / kWarp];
  int warp_best[kShares / kWarp];
};

// Stages the blocks of the sequences and adds them up.
__device__ ScheduleTotals ReadLengths(const int32_t* kv_lens, const ScheduleShape& shape,
                                      ScheduleShared& shared) {
  const int thread = static_cast<int>(threadIdx.x);
  ScheduleTotals totals;
  for (int32_t seq = thread; seq < shape.num_seqs; seq += kThreads) {
    const uint32_t blocks = NumBlocks(kv_lens[seq], shape);
    if (seq < kStaged) shared.blocks[seq] = blocks;
    totals.blocks += blocks;
    totals.cut = max(totals.cut, min(blocks, InvariantCutBlocks(blocks)));
  }
  totals.blocks = __reduce_add_sync(kAll, totals.blocks);
  totals.cut = __reduce_max_sync(kAll, totals.cut);
  if (thread % kWarp == 0) {
    shared.warp_blocks[thread / kWarp] = totals.blocks;
    shared.warp_cut[thread / kWarp] = totals.cut;
  }
  __syncthreads();
  totals = {};
  for (int warp = 0; warp < kWarps; ++warp) {
    totals.blocks += shared.warp_blocks[warp];
    totals.cut = max(totals.cut, shared.warp_cut[warp]);
  }
  return totals;
}

// The share that costs least, the first of several.
template <typename Blocks>
__device__ uint32_t ChooseShare(const ScheduleTotals& totals, const ScheduleShape& shape,
                                const Blocks& blocks, ScheduleShared& shared) {
  const int thread = static_cast<int>(threadIdx.x);
  if (thread < kShares) {
    const uint32_t cost = CostOfShare(ShareToTry(thread, totals, shape), shape, blocks);
    const uint32_t least = __reduce_min_sync(kAll, cost);
    const unsigned best = __ballot_sync(kAll, cost == least);
    if (thread % kWarp == 0) {
      shared.warp_cost[thread / kWarp] = least;
      shared.warp_best[thread / kWarp] = thread + __ffs(static_cast<int>(best)) - 1;
    }
  }
  __syncthreads();
  int best = 0;
  for (int warp = 1; warp < kShares / kWarp; ++warp) {
    if (shared.warp_cost[warp] < shared.warp_cost[best]) best = warp;
  }
  return ShareToTry(shared.warp_best[best], totals, shape);
}

__global__ void __launch_bounds__(kThreads)
    ScheduleKernel(const int32_t* kv_lens, ScheduleShape shape, ScheduleMemory memory) {
  __shared__ ScheduleShared shared;
  const int thread = static_cast<int>(threadIdx.x);
  const ScheduleTotals totals = ReadLengths(kv_lens, shape, shared);
  const auto blocks = [&](int32_t seq) {
    return seq < kStaged ? shared.blocks[seq] : NumBlocks(kv_lens[seq], shape);
  };
  const uint32_t share = ChooseShare(totals, shape, blocks, shared);

  DeviceSink sink{memory};
  SchedulePosition at = {};  // thread 0's: of the next sequence
  for (int32_t base = 0; base < shape.num_seqs; base += kThreads) {
    const int32_t count = min(kThreads, shape.num_seqs - base);
    if (thread == 0) {
      uint32_t next = blocks(base);
      for (int32_t i = 0; i < count; ++i) {
        const uint32_t present = next;
        if (i + 1 < count) next = blocks(base + i + 1);
        shared.positions[i] = at;
        Advance(ItemsOf(present, share, shape, at), &at);
      }
      shared.end = at;
    }
    __syncthreads();
    for (int32_t i = thread / kWarp; i < count; i += kWarps) {
      const int32_t seq = base + i;
      const SchedulePosition from = shared.positions[i];
      const SequenceItems items = ItemsOf(blocks(seq), share, shape, from);
      const auto kv_len =
          static_cast<int32_t>(min(max(int64_t{kv_lens[seq]}, int64_t{0}), shape.max_kv_len));
      for (uint32_t k = thread % kWarp; k < items.count; k += kWarp) {
        WriteItem(items, from, seq, kv_len, k, sink);
      }
    }
    __syncthreads();
  }
  for (int32_t part = shared.end.part + 1 + thread; part <= shape.num_parts; part += kThreads) {
    memory.part_begin[part] = shared.end.items;
  }
  for (int64_t i = thread; i < MaxArrivals(shape); i += kThreads) memory.merge_arrivals[i] = 0;
  if (thread == 0) {
    *memory.blocks_begun = 0;
    *memory.num_merges = shared.end.merges;
  }
}

constexpr size_t kAlign = 256;
size_t Aligned(size_t bytes) { return (bytes + kAlign - 1) / kAlign * kAlign; }

}  // namespace

size_t ScheduleMemory::Bytes(const ScheduleShape& shape) {
  return Aligned((shape.num_parts + 1) * sizeof(int32_t)) + kAlign +
         Aligned(MaxItems(shape) * sizeof(WorkItem)) + Aligned(shape.num_parts * sizeof(WorkItem)) +
         Aligned(MaxMerges(shape) * sizeof(MergeItem)) + kAlign +
         Aligned(MaxArrivals(shape) * sizeof(uint32_t));
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
}

cudaError_t LaunchSchedule(const int32_t* kv_lens, const ScheduleShape& shape,
                           const ScheduleMemory& memory, cudaStream_t stream) {
  ScheduleKernel<<<1, kThreads, 0, stream>>>(kv_lens, shape, memory);
  return cudaGetLastError();
}

}  // namespace mla::cuda
