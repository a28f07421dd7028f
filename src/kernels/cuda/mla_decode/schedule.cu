// The schedule on the device: lengths are read and added up by all threads, and one of them walks
// through the sequences. That takes some microseconds, once for all layers of a step.
#include "kernels/cuda/mla_decode/schedule_kernel.h"

namespace mla::cuda {
namespace {

constexpr int kThreads = 512;
constexpr int kWarp = 32;
constexpr int kStaged = 4096;  // sequences whose blocks wait in shared memory

struct DeviceSink {
  const ScheduleMemory& memory;

  __device__ void BeginPart(int32_t part, int32_t item) const { memory.part_begin[part] = item; }
  __device__ void Item(int32_t index, const WorkItem& item) const { memory.items[index] = item; }
  __device__ void Merge(int32_t index, const MergeItem& item) const {
    memory.merge_items[index] = item;
  }
  __device__ void End(int32_t, int32_t num_merges) const { *memory.num_merges = num_merges; }
};

__global__ void __launch_bounds__(kThreads)
    ScheduleKernel(const int32_t* kv_lens, ScheduleShape shape, ScheduleMemory memory) {
  __shared__ uint32_t staged[kStaged];
  __shared__ uint32_t warp_cost[kThreads / kWarp];
  uint32_t cost = 0;
  for (int32_t seq = static_cast<int32_t>(threadIdx.x); seq < shape.num_seqs; seq += kThreads) {
    const uint32_t blocks = NumBlocks(kv_lens[seq], shape);
    if (seq < kStaged) staged[seq] = blocks;
    cost += blocks + kSequenceOverheadBlocks;
  }
  cost = __reduce_add_sync(0xffffffffu, cost);
  if (threadIdx.x % kWarp == 0) warp_cost[threadIdx.x / kWarp] = cost;
  __syncthreads();
  if (threadIdx.x != 0) return;
  uint32_t total = 0;
  for (const uint32_t part : warp_cost) total += part;
  DeviceSink sink{memory};
  Scheduler<DeviceSink>(shape, total, sink).Run([&](int32_t seq) {
    return seq < kStaged ? staged[seq] : NumBlocks(kv_lens[seq], shape);
  });
}

constexpr size_t kAlign = 256;
size_t Aligned(size_t bytes) { return (bytes + kAlign - 1) / kAlign * kAlign; }

}  // namespace

size_t ScheduleMemory::Bytes(const ScheduleShape& shape) {
  return Aligned((shape.num_parts + 1) * sizeof(int32_t)) + kAlign +
         Aligned(MaxItems(shape) * sizeof(WorkItem)) +
         Aligned(MaxMerges(shape) * sizeof(MergeItem));
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
  merge_items = reinterpret_cast<MergeItem*>(take(MaxMerges(shape) * sizeof(MergeItem)));
}

cudaError_t LaunchSchedule(const int32_t* kv_lens, const ScheduleShape& shape,
                           const ScheduleMemory& memory, cudaStream_t stream) {
  ScheduleKernel<<<1, kThreads, 0, stream>>>(kv_lens, shape, memory);
  return cudaGetLastError();
}

}  // namespace mla::cuda
