// What every CUDA kernel of mla_decode is given, and what the schedule tells it to do. Plain data,
// passed by value to the kernels; all pointers are device memory.
#ifndef MLA_KERNELS_CUDA_MLA_DECODE_PARAMS_H_
#define MLA_KERNELS_CUDA_MLA_DECODE_PARAMS_H_

#include <cstdint>

namespace mla::cuda {

// The unit in which a sequence's keys are split between thread blocks.
inline constexpr int kBlockTokens = 64;

// A run of key blocks of one sequence, for one part of the grid.
struct alignas(16) WorkItem {
  int32_t seq;
  int32_t first_block;  // of kBlockTokens tokens
  int32_t end_block;    // == first_block where the sequence has no keys
  int32_t slot;         // of part_out and part_lse; -1: the whole sequence, straight to out and lse
  int32_t kv_len;       // of the sequence, from 0 to what a row of the page table holds
  // Where the sequence is split: the index of its MergeItem, and what that says.
  int32_t merge, first_slot, num_slots;
};
static_assert(sizeof(WorkItem) == 32);

// A sequence whose keys were split: its results lie in consecutive slots.
struct MergeItem {
  int32_t seq;
  int32_t first_slot;
  int32_t num_slots;
  int32_t unused;
};
static_assert(sizeof(MergeItem) == 16);

// Floats from one row of part_out to the next: whole 16-byte words.
constexpr int32_t PartPitch(int32_t d_v) { return (d_v + 3) / 4 * 4; }

// The query rows of a sequence are its (token, head) pairs, row = token * heads + head. A grid is
// [row tiles, num_parts]: thread block (m, p) computes the rows of tile m for the items of part p.
struct MlaDecodeParams {
  // Strides in elements, those of an FP8 cache in bytes. Innermost strides are 1.
  const void* q;  // [num_seqs, s_q, heads, d_k]
  int64_t q_stride_seq, q_stride_token, q_stride_head;
  // [num_pages, page_size, d_k]: [c_kv ; k_pe]; or the FP8 latent of mla/cuda.h
  const void* cache;
  int64_t cache_stride_page, cache_stride_token;
  const int32_t* kv_lens;     // [num_seqs]
  const int32_t* page_table;  // [num_seqs, page_table_stride]; unused entries hold anything
  int64_t page_table_stride;
  void* out;  // [num_seqs, s_q, heads, d_v]
  int64_t out_stride_seq, out_stride_token, out_stride_head;
  float* lse;  // [num_seqs, s_q, heads]; natural log, -inf for a row that sees no key; or null
  int64_t lse_stride_seq, lse_stride_token, lse_stride_head;

  int32_t num_seqs, s_q, heads;
  int32_t num_pages, page_size;
  int32_t d_k, d_v;
  float scale;
  bool cache_is_fp8;
  bool causal;  // query token i sees keys j <= kv_len - s_q + i

  // The schedule (schedule.h).
  int32_t num_parts;
  const int32_t* part_begin;  // [num_parts + 1]: part p has items [part_begin[p], part_begin[p+1])
  const WorkItem* items;
  const WorkItem* first_items;   // [num_parts]: the first of each part that has any, once more
  const int32_t* num_merges;     // [1]
  const MergeItem* merge_items;  // [*num_merges]

  // Results of split sequences: normalised output and its natural-log lse (-inf and out 0 for a row
  // that sees no key of the split).
  float* part_out;  // [slots, s_q * heads, PartPitch(d_v)]
  float* part_lse;  // [slots, s_q * heads]

  // If the kernel is to merge them itself (sm90_merge.cuh), else null. Set to 0 by the schedule,
  // and kept from call to call.
  unsigned long long* blocks_begun;  // [1]: thread blocks, of all calls with this schedule
  uint32_t* merge_arrivals;          // [2, num_parts, row tiles]: of even calls and of odd ones
};

}  // namespace mla::cuda

#endif  // MLA_KERNELS_CUDA_MLA_DECODE_PARAMS_H_
