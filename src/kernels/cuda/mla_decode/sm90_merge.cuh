// How the parts of the Hopper kernel merge the partial results of split sequences, each at its end:
// no second kernel has to start, and the partial results are still in L2.
//
// All parts of a sequence (for one row tile) count themselves on one word when their results are
// stored. Those that stay wait for the last to come, and then each merges an equal stretch of the
// rows. A part stays only if all thread blocks of the grid have begun: whoever it then waits for is
// running, and arrives before it waits itself. If other work keeps some of the grid from starting,
// parts leave, and those that stay share what there is to merge; the last to arrive does so alone
// if nobody has stayed. What is added up in which order depends on the number of parts alone, so
// the result is the same in each of these cases.
#ifndef MLA_KERNELS_CUDA_MLA_DECODE_SM90_MERGE_CUH_
#define MLA_KERNELS_CUDA_MLA_DECODE_SM90_MERGE_CUH_

#include <cmath>
#include <cstdint>

#include "kernels/cuda/mla_decode/sm90_layout.cuh"

namespace mla::cuda::sm90 {

// The word on which the parts of a sequence count themselves: arrivals, and how many of them stay.
inline constexpr uint32_t kStayed = 1u << 16;

__device__ __forceinline__ uint32_t LoadAcquire(const uint32_t* from) {
  uint32_t value;
  asm volatile("ld.acquire.gpu.global.u32 %0, [%1];" : "=r"(value) : "l"(from) : "memory");
  return value;
}
__device__ __forceinline__ uint32_t AddAcquireRelease(uint32_t* to, uint32_t value) {
  uint32_t old;
  asm volatile("atom.acq_rel.gpu.global.add.u32 %0, [%1], %2;"
               : "=r"(old)
               : "l"(to), "r"(value)
               : "memory");
  return old;
}

// Counts the thread blocks of the grid that have begun, and brings the items that may have to be
// merged. One warp without other work.
template <typename S>
class StartWatch {
 public:
  __device__ __forceinline__ StartWatch(const MlaDecodeParams& params, SharedMemory<S>& shared)
      : params_(params), shared_(shared) {}

  __device__ __forceinline__ void Run() {
    if (params_.merge_arrivals == nullptr) return;
    const uint64_t blocks = uint64_t{gridDim.x} * gridDim.y;
    volatile MergeShared& merge = shared_.merge;
    uint64_t ticket = 0;
    if (threadIdx.x % kWarp == 0) {
      ticket = atomicAdd(params_.blocks_begun, 1ull);
      merge.call = static_cast<uint32_t>(ticket / blocks);
    }
    const int lane = static_cast<int>(threadIdx.x) % kWarp;
    if (lane < kMostMerges) {
      const int begin = params_.part_begin[blockIdx.y];
      const int end = params_.part_begin[blockIdx.y + 1];
      const int index = lane == 0 ? begin : max(begin + 1, end - 1);
      if (index < end) {
        shared_.merge.items[lane] = params_.items[index];
      } else {
        shared_.merge.items[lane].slot = -1;
      }
    }
    __syncwarp();
    const uint64_t all = (ticket / blocks + 1) * blocks;
    NamedBarrierArrive(kPartEndBarrier, kPartEndThreads);
    while (threadIdx.x % kWarp == 0 && !merge.ending) {
      if (*static_cast<volatile unsigned long long*>(params_.blocks_begun) >= all) {
        merge.all_started = 1;
        break;
      }
      __nanosleep(200);
    }
  }

 private:
  const MlaDecodeParams& params_;
  SharedMemory<S>& shared_;
};

// The values' warpgroups, when their last results have been stored.
template <typename S, typename T>
class Merger {
 public:
  __device__ __forceinline__ Merger(const MlaDecodeParams& params, SharedMemory<S>& shared)
      : params_(params), shared_(shared) {}

  __device__ __forceinline__ void Run() {
    if (params_.merge_arrivals == nullptr) return;
    NamedBarrierSync(kPartEndBarrier, kPartEndThreads);
    if (Thread() < kMostMerges) {
      shared_.merge.shares[Thread()] = Arrive(shared_.merge.items[Thread()]);
    }
    Sync();
    if (Thread() == 0) shared_.merge.ending = 1;
    for (int i = 0; i < kMostMerges; ++i) {
      const MergeShare share = shared_.merge.shares[i];
      if (share.rows == 0) continue;
      if (share.slots <= kAhead / 4) {
        MergeRows<4>(share);
      } else if (share.slots <= kAhead / 2) {
        MergeRows<2>(share);
      } else {
        MergeRows<1>(share);
      }
    }
  }

 private:
  static constexpr int kValuesThreads = 2 * kWarpgroup;
  static constexpr int kRowWords = S::kDv / 4;  // of four columns
  static constexpr int kAhead = 8;              // partial results of a thread that are under way

  __device__ __forceinline__ static int Thread() {
    return static_cast<int>(threadIdx.x) % kValuesThreads;
  }
  __device__ __forceinline__ static void Sync() { NamedBarrierSync(kMergeBarrier, kValuesThreads); }
  __device__ __forceinline__ int Rows() const {
    return min(kRowTile, params_.s_q * params_.heads - static_cast<int>(blockIdx.x) * kRowTile);
  }

  // Says that this part's results of the item's sequence are there, and learns what it has to
  // merge.
  __device__ __forceinline__ MergeShare Arrive(const WorkItem& item) {
    MergeShare share = {};
    if (item.slot < 0) return share;
    const int word = item.merge * static_cast<int>(gridDim.x) + static_cast<int>(blockIdx.x);
    const int words = params_.num_parts * static_cast<int>(gridDim.x);
    uint32_t* const arrivals = params_.merge_arrivals + (shared_.merge.call & 1) * words + word;
    // That of the next call, which nobody uses in this one.
    if (item.slot == item.first_slot) {
      params_.merge_arrivals[(~shared_.merge.call & 1) * words + word] = 0;
    }
    const auto& merge = const_cast<const volatile MergeShared&>(shared_.merge);
    const bool stays = merge.all_started != 0;
    const auto slots = static_cast<uint32_t>(item.num_slots);
    const uint32_t own = stays ? 1 + kStayed : 1;
    const uint32_t old = AddAcquireRelease(arrivals, own);
    uint32_t now = old + own;
    const bool last = now % kStayed == slots;
    if (!stays && !(last && now < kStayed)) return share;
    while (now % kStayed != slots) now = LoadAcquire(arrivals);
    const auto sharers = max(now / kStayed, 1u);
    const auto all = static_cast<uint32_t>(Rows() * kRowWords);
    const uint32_t index = old / kStayed;
    share.seq = item.seq;
    share.first_slot = item.first_slot;
    share.slots = item.num_slots;
    share.first = static_cast<int>(all * index / sharers);
    share.end = static_cast<int>(all * (index + 1) / sharers);
    if (share.first < share.end) {
      share.rows = (share.end - 1) / kRowWords - share.first / kRowWords + 1;
    }
    return share;
  }

  // Threads that share the splits of four columns: as many as there are threads for, if all parts
  // have stayed. No more than leave each of them a few splits.
  __device__ __forceinline__ int Groups(const MergeShare& share) const {
    const int positions = (Rows() * kRowWords + share.slots - 1) / share.slots;
    int groups = 1;
    while (groups < 16 && 2 * groups * positions <= kValuesThreads && 8 * groups <= share.slots) {
      groups *= 2;
    }
    return groups;
  }

  // kTogether: groups of four columns that a thread has at once, where there are few splits.
  template <int kTogether>
  __device__ __forceinline__ void MergeRows(const MergeShare& share) {
    // The rings are at rest: everything that was loaded has been used.
    float* const weights = reinterpret_cast<float*>(shared_.pairs);  // [rows, slots]
    const int first_row = share.first / kRowWords;
    const int groups = kTogether > 1 ? 1 : Groups(share);
    const int stride = kValuesThreads / groups;
    const int group = Thread() / stride;
    const int64_t tile_row = int64_t{blockIdx.x} * kRowTile;
    const int64_t all_rows = int64_t{params_.s_q} * params_.heads;
    const float* const part =
        params_.part_out + (share.first_slot * all_rows + tile_row) * PartPitch(S::kDv);
    const int64_t slot_step = all_rows * PartPitch(S::kDv);
    constexpr int kSlots = kAhead / kTogether;

    bool weighed = false;
    for (int base = share.first; base < share.end; base += stride * kTogether) {
      const int position = base + Thread() % stride;
      float4 sum[kTogether];
#pragma unroll
      for (float4& s : sum) s = make_float4(0, 0, 0, 0);
      for (int i = group; i < share.slots; i += kSlots * groups) {
        float4 out[kTogether][kSlots];
#pragma unroll
        for (int t = 0; t < kTogether; ++t) {
#pragma unroll
          for (int k = 0; k < kSlots; ++k) {
            const int slot = i + k * groups, at = position + t * stride;
            out[t][k] = make_float4(0, 0, 0, 0);
            if (at < share.end && slot < share.slots) {
              out[t][k] = __ldcg(reinterpret_cast<const float4*>(part + slot * slot_step) + at);
            }
          }
        }
        // The weights are made while the first results are under way.
        if (!weighed) Weigh(share, first_row, weights);
        weighed = true;
#pragma unroll
        for (int t = 0; t < kTogether; ++t) {
          const float* const row =
              weights + ((position + t * stride) / kRowWords - first_row) * share.slots;
#pragma unroll
          for (int k = 0; k < kSlots; ++k) {
            const int slot = i + k * groups, at = position + t * stride;
            const float weight = at < share.end && slot < share.slots ? row[slot] : 0.0f;
            sum[t].x += weight * out[t][k].x;
            sum[t].y += weight * out[t][k].y;
            sum[t].z += weight * out[t][k].z;
            sum[t].w += weight * out[t][k].w;
          }
        }
      }
      if (groups > 1) AddGroups(groups, stride, &sum[0]);
#pragma unroll
      for (int t = 0; t < kTogether; ++t) {
        const int at = position + t * stride;
        if (at < share.end && group == 0) {
          Store(share.seq, at / kRowWords, at % kRowWords * 4, sum[t]);
        }
      }
    }
    Sync();  // the weights have been used
  }

  // To the first group's sum those of the others, in their order.
  __device__ __forceinline__ void AddGroups(int groups, int stride, float4* sum) {
    float4* const sums = reinterpret_cast<float4*>(shared_.rests);
    Sync();
    sums[Thread()] = *sum;
    Sync();
    if (Thread() >= stride) return;
    for (int g = 1; g < groups; ++g) {
      const float4 other = sums[g * stride + Thread()];
      *sum = {sum->x + other.x, sum->y + other.y, sum->z + other.z, sum->w + other.w};
    }
  }

  // weights[row, slot] = exp(lse - lse of all slots), for the rows of the share; a warp has a row
  // at a time. Stores the lse of the rows that the share begins.
  __device__ __forceinline__ void Weigh(const MergeShare& share, int first_row,
                                        float* weights) const {
    const int lane = Thread() % kWarp;
    const int64_t all_rows = int64_t{params_.s_q} * params_.heads;
    const float* const lse =
        params_.part_lse + share.first_slot * all_rows + int64_t{blockIdx.x} * kRowTile;
    for (int r = Thread() / kWarp; r < share.rows; r += kValuesThreads / kWarp) {
      const int row = first_row + r;
      float* const to = weights + r * share.slots;
      float most = -INFINITY;
      for (int i = lane; i < share.slots; i += kWarp) {
        to[i] = __ldcg(lse + i * all_rows + row);
        most = fmaxf(most, to[i]);
      }
      most = WarpMax(most);
      if (most == -INFINITY) most = 0;  // nothing was seen, or NaNs alone
      float sum = 0;
      for (int i = lane; i < share.slots; i += kWarp) {
        to[i] = expf(to[i] - most);
        sum += to[i];
      }
      sum = WarpSum(sum);
      const float inverse = sum == 0 ? 0.0f : 1 / sum;
      for (int i = lane; i < share.slots; i += kWarp) to[i] *= inverse;
      if (lane == 0 && row * kRowWords >= share.first) {
        StoreLse(share.seq, row, sum == 0 ? -INFINITY : most + logf(sum));
      }
    }
    Sync();
  }
  __device__ __forceinline__ static float WarpMax(float v) {
    for (int d = kWarp / 2; d > 0; d /= 2) v = fmaxf(v, __shfl_xor_sync(~0u, v, d));
    return v;
  }
  __device__ __forceinline__ static float WarpSum(float v) {
    for (int d = kWarp / 2; d > 0; d /= 2) v += __shfl_xor_sync(~0u, v, d);
    return v;
  }

  __device__ __forceinline__ void StoreLse(int seq, int tile_row, float lse) const {
    if (params_.lse == nullptr) return;
    const int row = static_cast<int>(blockIdx.x) * kRowTile + tile_row;
    const int token = row / params_.heads;
    params_.lse[seq * params_.lse_stride_seq + token * params_.lse_stride_token +
                (row - token * params_.heads) * params_.lse_stride_head] = lse;
  }
  __device__ __forceinline__ void Store(int seq, int tile_row, int column, const float4& v) const {
    const int row = static_cast<int>(blockIdx.x) * kRowTile + tile_row;
    const int token = row / params_.heads;
    T* const out = static_cast<T*>(params_.out) + seq * params_.out_stride_seq +
                   token * params_.out_stride_token +
                   (row - token * params_.heads) * params_.out_stride_head + column;
    *reinterpret_cast<uint2*>(out) = make_uint2(Pack<T>(v.x, v.y), Pack<T>(v.z, v.w));
  }

  const MlaDecodeParams& params_;
  SharedMemory<S>& shared_;
};

}  // namespace mla::cuda::sm90

#endif  // MLA_KERNELS_CUDA_MLA_DECODE_SM90_MERGE_CUH_
