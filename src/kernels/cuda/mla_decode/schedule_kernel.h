// The schedule of mla_decode on the device, and the merging of split sequences.
#ifndef MLA_KERNELS_CUDA_MLA_DECODE_SCHEDULE_KERNEL_H_
#define MLA_KERNELS_CUDA_MLA_DECODE_SCHEDULE_KERNEL_H_

#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>

#include "kernels/cuda/mla_decode/params.h"
#include "kernels/cuda/mla_decode/schedule.h"

namespace mla::cuda {

// Where the parts of a schedule lie in the memory that the caller gives for it.
struct ScheduleMemory {
  int32_t* part_begin;
  int32_t* num_merges;
  WorkItem* items;
  WorkItem* first_items;
  MergeItem* merge_items;
  unsigned long long* blocks_begun;
  uint32_t* merge_arrivals;
  SchedulePosition* notes;  // [spans but the first, kShares]: for the schedule's kernel alone

  static size_t Bytes(const ScheduleShape& shape);
  ScheduleMemory(void* memory, const ScheduleShape& shape);
};

// Enqueues the writing of `memory` from kv_lens (device, [shape.num_seqs]): one thread block.
cudaError_t LaunchSchedule(const int32_t* kv_lens, const ScheduleShape& shape,
                           const ScheduleMemory& memory, cudaStream_t stream);

// Enqueues the merging of params' partial results into out and lse. To follow the attention kernel
// on the stream, whose end it waits for on the device. `shape` is that of the schedule.
cudaError_t LaunchMerge(const MlaDecodeParams& params, bool is_bf16, const ScheduleShape& shape,
                        int32_t num_sms, cudaStream_t stream);

}  // namespace mla::cuda

#endif  // MLA_KERNELS_CUDA_MLA_DECODE_SCHEDULE_KERNEL_H_
