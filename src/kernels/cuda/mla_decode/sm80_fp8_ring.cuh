// How tiles of FP8 latents come into the ring of stages: by the threads' own copies of 16 bytes, or
// from compute capability 9.0 on by copies of whole tokens that one warp asks for, which spare the
// others the instructions and the path to shared memory.
#ifndef MLA_KERNELS_CUDA_MLA_DECODE_SM80_FP8_RING_CUH_
#define MLA_KERNELS_CUDA_MLA_DECODE_SM80_FP8_RING_CUH_

#include <cstdint>

#include "kernels/cuda/mla_decode/params.h"
#include "kernels/cuda/mla_decode/sm80_feeder.cuh"
#include "kernels/cuda/ptx_sm80.cuh"
#include "kernels/cuda/ptx_sm90.cuh"

namespace mla::cuda::sm80 {

// The stages begin at `stages`, after them lie the barriers. Feed(stage) begins the copies of the
// next tile, if there is one; a thread may use tile n after BeforeSync<k>, with tiles up to n + k
// fed, a barrier of all threads, and BeforeUse(stage, parity), parity that of n / kStages.
template <typename S, int kStages>
class CopyRing {
 public:
  __device__ CopyRing(const MlaDecodeParams& params, const Launched& launched, uint32_t stages)
      : feeder_(params, launched), stages_(stages) {}

  __device__ __forceinline__ void Feed(int stage) {
    feeder_.Feed(stages_ + stage * S::kStageBytes);
    feeder_.Advance();
  }
  template <int kYounger>
  __device__ __forceinline__ void BeforeSync() const {
    WaitCopies<kYounger>();
  }
  __device__ __forceinline__ void BeforeUse(int, uint32_t) const {}

 private:
  Feeder<S> feeder_;
  uint32_t stages_;
};

template <typename S, int kStages>
class BulkRing {
 public:
  __device__ BulkRing(const MlaDecodeParams& params, const Launched& launched, uint32_t stages)
      : params_(params), launched_(launched), cursor_(params, launched), stages_(stages) {
    if (threadIdx.x < kStages) sm90::BarrierInit(Barrier(static_cast<int>(threadIdx.x)), 1);
    if (threadIdx.x == 0) sm90::FenceBarrierInit();
    __syncthreads();
  }

  // By the first warp, whose lanes have a token each. Tokens that lie one after another in a page
  // are one copy: a warp's copies are asked for one by one.
  __device__ __forceinline__ void Feed(int stage) {
    static_assert(S::kTokens == kWarp);
    if (threadIdx.x >= kWarp || cursor_.left() <= 0) return;
    const int32_t tokens = min(cursor_.left(), S::kTokens);
    const int token = cursor_.my_token();
    const uint32_t to = stages_ + stage * S::kStageBytes + token * S::kKeyPitch;
    if (token == 0) sm90::BarrierArriveExpectBytes(Barrier(stage), tokens * S::kTokenBytes);
    if (!cursor_.filled()) {
      // P is 0 there, and codes are always finite: only the scales have to be.
      sm90::StoreShared16(to + S::kScalesAt, make_uint4(0, 0, 0, 0));
      sm90::FenceSharedToAsync();  // before the stage is next copied to
    } else if (!launched_.packed || token == 0 || cursor_.in_page() == 0) {
      const int32_t run =
          launched_.packed ? min(params_.page_size - cursor_.in_page(), tokens - token) : 1;
      sm90::BulkLoad(to, cursor_.Token(), run * S::kTokenBytes, Barrier(stage));
    }
    cursor_.Advance();
  }
  template <int kYounger>
  __device__ __forceinline__ void BeforeSync() const {}
  __device__ __forceinline__ void BeforeUse(int stage, uint32_t parity) const {
    sm90::BarrierWait(Barrier(stage), parity);
  }

 private:
  __device__ uint32_t Barrier(int stage) const {
    return stages_ + kStages * S::kStageBytes + stage * 8;
  }

  const MlaDecodeParams& params_;
  const Launched& launched_;
  TokenCursor<S, 1> cursor_;
  uint32_t stages_;
};

#if __CUDA_ARCH__ >= 900
template <typename S, int kStages>
using Ring = BulkRing<S, kStages>;
#else
template <typename S, int kStages>
using Ring = CopyRing<S, kStages>;
#endif

}  // namespace mla::cuda::sm80

#endif  // MLA_KERNELS_CUDA_MLA_DECODE_SM80_FP8_RING_CUH_
