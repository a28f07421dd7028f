// How the parts of the Hopper kernels merge the partial results of split sequences, each at its
// end: no second kernel has to start, and the partial results are still in L2.
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

// What part number `index` of those that stay merges of a split sequence.
template <int kTileRows, int kDv>
__device__ __forceinline__ MergeShare ShareOf(const MlaDecodeParams& params, const WorkItem& item,
                                              uint32_t index, uint32_t sharers) {
  constexpr int kRowWords = kDv / 4;
  const int rows =
      min(kTileRows, params.s_q * params.heads - static_cast<int>(blockIdx.x) * kTileRows);
  const auto all = static_cast<uint32_t>(rows * kRowWords);
  MergeShare share;
  share.seq = item.seq;
  share.first_slot = item.first_slot;
  share.slots = item.num_slots;
  share.first = static_cast<int>(all * index / sharers);
  share.end = static_cast<int>(all * (index + 1) / sharers);
  // Threads share the splits of a word as far as there are threads for all words, if all parts
  // stay. No more than leave each of them a few splits.
  const int words = (rows * kRowWords + item.num_slots - 1) / item.num_slots;
  share.log_groups = 0;
  while (share.log_groups < kMostLogGroups && (words << (share.log_groups + 1)) <= kMergeThreads &&
         (8 << share.log_groups) <= item.num_slots) {
    ++share.log_groups;
  }
  return share;
}

__device__ __forceinline__ void InitMerge(MergeShared& merge) {
  merge.all_started = merge.ending = 0;
}

// By the scores, after all else.
__device__ __forceinline__ void EndScores(const MlaDecodeParams& params) {
  if (params.merge_arrivals != nullptr) NamedBarrierArrive(kPartEndBarrier, kPartEndThreads);
}

// Counts the thread blocks of the grid that have begun, and brings the items that may have to be
// merged. One warp: its first lane at the beginning, then, without other work, all.
template <int kTileRows, int kDv>
class StartWatch {
 public:
  __device__ __forceinline__ StartWatch(const MlaDecodeParams& params, MergeShared& merge)
      : params_(params), merge_(merge) {}

  __device__ __forceinline__ void Begin() {
    if (params_.merge_arrivals != nullptr && threadIdx.x % kWarp == 0) {
      ticket_ = atomicAdd(params_.blocks_begun, 1ull);
    }
  }
  __device__ __forceinline__ void Run() {
    if (params_.merge_arrivals == nullptr) return;
    const uint64_t blocks = uint64_t{gridDim.x} * gridDim.y;
    volatile MergeShared& merge = merge_;
    if (threadIdx.x % kWarp == 0) merge.call = static_cast<uint32_t>(ticket_ / blocks);
    const int lane = static_cast<int>(threadIdx.x) % kWarp;
    if (lane < kMostMerges) {
      const int begin = params_.part_begin[blockIdx.y];
      const int end = params_.part_begin[blockIdx.y + 1];
      const int index = lane == 0 ? begin : max(begin + 1, end - 1);
      WorkItem item = {};
      item.slot = -1;
      if (index < end) item = params_.items[index];
      merge_.items[lane] = item;
      // Most often all parts stay. The divisions are done with before it is known.
      if (item.slot >= 0) {
        const auto part = static_cast<uint32_t>(item.slot - item.first_slot);
        merge_.shares[lane] = ShareOf<kTileRows, kDv>(params_, item, part, item.num_slots);
      }
    }
    __syncwarp();
    const uint64_t all = (ticket_ / blocks + 1) * blocks;
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
  MergeShared& merge_;
  uint64_t ticket_ = 0;
};

// What groups of threads have added up. In memory that nobody uses any more when parts merge.
struct MergeScratch {
  float4 outs[kMergeThreads];
  float2 sums[kMergeThreads];
};

// The values' warpgroups, when their last results have been stored.
template <int kTileRows, int kDv, typename T>
class Merger {
 public:
  __device__ __forceinline__ Merger(const MlaDecodeParams& params, MergeShared& merge,
                                    MergeScratch& scratch)
      : params_(params), merge_(merge), scratch_(scratch) {}

  __device__ __forceinline__ void Run() {
    if (params_.merge_arrivals == nullptr) return;
    NamedBarrierSync(kPartEndBarrier, kPartEndThreads);
    if (Thread() < kMostMerges) {
      Arrive(merge_.items[Thread()], &merge_.shares[Thread()]);
    }
    Sync();
    if (Thread() == 0) merge_.ending = 1;
    for (int i = 0; i < kMostMerges; ++i) {
      const MergeShare share = merge_.shares[i];
      if (share.first >= share.end) continue;
      // As much at a time as there are registers for. What is added up in which order depends on
      // the number of splits alone.
      if (share.log_groups > 0) {
        MergeRows<1, 17>(share);
      } else if (share.slots > 4) {
        MergeRows<2, 8>(share);
      } else if (share.slots > 2) {
        MergeRows<4, 4>(share);
      } else {
        MergeRows<8, 2>(share);
      }
    }
  }

 private:
  static constexpr int kRowWords = kDv / 4;  // of four columns

  __device__ __forceinline__ static int Thread() {
    return static_cast<int>(threadIdx.x) % kMergeThreads;
  }
  __device__ __forceinline__ static void Sync() { NamedBarrierSync(kMergeBarrier, kMergeThreads); }

  // Says that this part's results of the item's sequence are there, and learns what it has to
  // merge: `share`, if all parts stay.
  __device__ __forceinline__ void Arrive(const WorkItem& item, MergeShare* share) {
    if (item.slot < 0) {
      share->first = share->end = 0;
      return;
    }
    const int word = item.merge * static_cast<int>(gridDim.x) + static_cast<int>(blockIdx.x);
    const int words = params_.num_parts * static_cast<int>(gridDim.x);
    uint32_t* const arrivals = params_.merge_arrivals + (merge_.call & 1) * words + word;
    // That of the next call, which nobody uses in this one.
    if (item.slot == item.first_slot) {
      params_.merge_arrivals[(~merge_.call & 1) * words + word] = 0;
    }
    const auto& merge = const_cast<const volatile MergeShared&>(merge_);
    const bool stays = merge.all_started != 0;
    const auto slots = static_cast<uint32_t>(item.num_slots);
    const uint32_t own = stays ? 1 + kStayed : 1;
    const uint32_t old = AddAcquireRelease(arrivals, own);
    uint32_t now = old + own;
    const bool last = now % kStayed == slots;
    if (!stays && !(last && now < kStayed)) {
      share->first = share->end = 0;
      return;
    }
    while (now % kStayed != slots) now = LoadAcquire(arrivals);
    if (now == slots * (1 + kStayed)) return;
    *share = ShareOf<kTileRows, kDv>(params_, item, old / kStayed, max(now / kStayed, 1u));
  }

  __device__ __forceinline__ static float Exp(float x) { return Exp2(x * 1.4426950408889634f); }

  // Of some splits: the sum of their results, each times exp(lse - most), and that of the factors.
  struct Merged {
    float most = -INFINITY, sum = 0;
    float4 out = {0, 0, 0, 0};

    // -inf: nothing was seen, or NaNs alone.
    __device__ __forceinline__ static float Reference(float most) {
      return most == -INFINITY ? 0.0f : most;
    }
    __device__ __forceinline__ void RaiseTo(float level) {
      const float factor = Exp(most - Reference(level));
      most = level;
      sum *= factor;
      out = {out.x * factor, out.y * factor, out.z * factor, out.w * factor};
    }
    // Results of that sum, by a factor.
    __device__ __forceinline__ void Add(float factor, float more, const float4& v) {
      sum = fmaf(factor, more, sum);
      out = {fmaf(factor, v.x, out.x), fmaf(factor, v.y, out.y), fmaf(factor, v.z, out.z),
             fmaf(factor, v.w, out.w)};
    }
  };

  // kTogether: words that a thread has at once, kSlots: splits of each. It weighs them for itself:
  // all that is to be read can then be asked for at once.
  template <int kTogether, int kSlots>
  __device__ __forceinline__ void MergeRows(const MergeShare& share) {
    const int stride = kMergeThreads >> share.log_groups;
    const int group = Thread() / stride, within = Thread() % stride;
    const int64_t all_rows = int64_t{params_.s_q} * params_.heads;
    const int64_t first_row =
        (share.first_slot + group) * all_rows + int64_t{blockIdx.x} * kTileRows;
    const int64_t step = all_rows << share.log_groups;
    for (int base = share.first; base < share.end; base += stride * kTogether) {
      const float* from_lse = params_.part_lse + first_row;
      const float* from_out = params_.part_out + first_row * PartPitch(kDv);
      Merged merged[kTogether];
#pragma unroll 1
      for (int left = share.slots - group; left > 0; left -= kSlots << share.log_groups) {
        float lse[kTogether][kSlots];
        float4 out[kTogether][kSlots];
#pragma unroll
        for (int k = 0; k < kSlots; ++k) {
#pragma unroll
          for (int t = 0; t < kTogether; ++t) {
            const int at = base + within + t * stride;
            lse[t][k] = -INFINITY;
            out[t][k] = make_float4(0, 0, 0, 0);
            if (at < share.end && (k << share.log_groups) < left) {
              lse[t][k] = __ldcg(from_lse + at / kRowWords);
              out[t][k] = __ldcg(reinterpret_cast<const float4*>(from_out) + at);
            }
          }
          from_lse += step;
          from_out += step * PartPitch(kDv);
        }
#pragma unroll
        for (int t = 0; t < kTogether; ++t) {
          float most = merged[t].most;
#pragma unroll
          for (int k = 0; k < kSlots; ++k) most = fmaxf(most, lse[t][k]);
          merged[t].RaiseTo(most);
          most = Merged::Reference(most);
#pragma unroll
          for (int k = 0; k < kSlots; ++k) merged[t].Add(Exp(lse[t][k] - most), 1, out[t][k]);
        }
      }
      if (share.log_groups > 0) AddGroups(1 << share.log_groups, stride, &merged[0]);
#pragma unroll
      for (int t = 0; t < kTogether; ++t) {
        const int at = base + within + t * stride;
        if (at < share.end && group == 0) {
          Store(share.seq, at / kRowWords, at % kRowWords * 4, merged[t]);
        }
      }
    }
  }

  // Makes the first group's those of all, in their order.
  __device__ __forceinline__ void AddGroups(int groups, int stride, Merged* merged) {
    Sync();
    scratch_.outs[Thread()] = merged->out;
    scratch_.sums[Thread()] = make_float2(merged->most, merged->sum);
    Sync();
    if (Thread() >= stride) return;
    float most = merged->most;
#pragma unroll 4
    for (int g = 1; g < groups; ++g) most = fmaxf(most, scratch_.sums[g * stride + Thread()].x);
    merged->RaiseTo(most);
    most = Merged::Reference(most);
#pragma unroll 4
    for (int g = 1; g < groups; ++g) {
      const float2 sum = scratch_.sums[g * stride + Thread()];
      merged->Add(Exp(sum.x - most), sum.y, scratch_.outs[g * stride + Thread()]);
    }
  }

  __device__ __forceinline__ void Store(int seq, int tile_row, int column,
                                        const Merged& merged) const {
    const float inverse = merged.sum == 0 ? 0.0f : 1 / merged.sum;
    const int row = static_cast<int>(blockIdx.x) * kTileRows + tile_row;
    const int token = params_.s_q == 1 ? 0 : row / params_.heads;
    const int head = row - token * params_.heads;
    T* const out = static_cast<T*>(params_.out) + seq * params_.out_stride_seq +
                   token * params_.out_stride_token + head * params_.out_stride_head + column;
    *reinterpret_cast<uint2*>(out) =
        make_uint2(Pack<T>(merged.out.x * inverse, merged.out.y * inverse),
                   Pack<T>(merged.out.z * inverse, merged.out.w * inverse));
    if (column == 0 && params_.lse != nullptr) {
      params_.lse[seq * params_.lse_stride_seq + token * params_.lse_stride_token +
                  head * params_.lse_stride_head] =
          merged.sum == 0 ? -INFINITY : Merged::Reference(merged.most) + logf(merged.sum);
    }
  }

  const MlaDecodeParams& params_;
  MergeShared& merge_;
  MergeScratch& scratch_;
};

}  // namespace mla::cuda::sm90

#endif  // MLA_KERNELS_CUDA_MLA_DECODE_SM90_MERGE_CUH_
