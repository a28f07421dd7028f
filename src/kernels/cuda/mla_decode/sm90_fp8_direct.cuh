// The Hopper kernel of mla_decode over FP8 latents: see sm90_fp8_direct_layout.cuh for how its
// warpgroups share the work.
#ifndef MLA_KERNELS_CUDA_MLA_DECODE_SM90_FP8_DIRECT_CUH_
#define MLA_KERNELS_CUDA_MLA_DECODE_SM90_FP8_DIRECT_CUH_

#include <cstdint>

#include "kernels/cuda/mla_decode/sm90_fp8_direct_layout.cuh"
#include "kernels/cuda/mla_decode/sm90_fp8_direct_loader.cuh"
#include "kernels/cuda/mla_decode/sm90_fp8_direct_scores.cuh"
#include "kernels/cuda/mla_decode/sm90_fp8_direct_values.cuh"
#include "kernels/cuda/mla_decode/sm90_merge.cuh"

namespace mla::cuda::sm90::direct {

template <typename S>
__device__ __forceinline__ void InitFp8Barriers(Fp8SharedMemory<S>& shared) {
  for (int unit = 0; unit < S::kUnits; ++unit) {
    BarrierInit(SharedAddress(&shared.unit_loaded[unit]), 1);
    BarrierInit(SharedAddress(&shared.unit_scaled[unit]), 1);
    BarrierInit(SharedAddress(&shared.unit_freed[unit]), 8);  // the values' warps
  }
  for (int tile = 0; tile < S::kTiles; ++tile) {
    BarrierInit(SharedAddress(&shared.softmaxed[tile]), 4);  // the scores'
    BarrierInit(SharedAddress(&shared.tile_freed[tile]), 8);
  }
  FenceBarrierInit();
}

// Where the query row of this thread lies.
template <typename S>
__device__ __forceinline__ void PlaceRow(const MlaDecodeParams& params,
                                         Fp8SharedMemory<S>& shared) {
  const int thread = static_cast<int>(threadIdx.x);
  if (thread >= S::kRows) return;
  const int row = static_cast<int>(blockIdx.x) * S::kRows + thread;
  const int token = row / params.heads, head = row - token * params.heads;
  shared.rows[thread] = {token * params.q_stride_token + head * params.q_stride_head,
                         token * params.out_stride_token + head * params.out_stride_head,
                         token * params.lse_stride_token + head * params.lse_stride_head, token,
                         token < params.s_q ? 1 : 0};
}

// As Kernel of sm90_kernel.cuh. `run`: tokens of a copy (Fp8Loader).
template <typename S>
__global__ void __launch_bounds__(kThreads, 1)
    Fp8Kernel(const __grid_constant__ MlaDecodeParams params, int run) {
#if defined(MLA_CUDA_HAS_SM90A)
  extern __shared__ uint8_t dynamic[];
  const uint32_t misaligned = SharedAddress(dynamic) % kSharedAlignment;
  auto& shared = *reinterpret_cast<Fp8SharedMemory<S>*>(
      dynamic + (misaligned == 0 ? 0 : kSharedAlignment - misaligned));

  const int warpgroup = __shfl_sync(~0u, static_cast<int>(threadIdx.x) / kWarpgroup, 0);
  if (threadIdx.x == kWarp) {
    InitFp8Barriers(shared);
    InitMerge(shared.merge);
  }
  PlaceRow(params, shared);
  __syncthreads();
  WaitForPriorKernel();
  // The kernel after this one waits for the end of this grid before it reads anything.
  if (threadIdx.x == 0) AllowNextKernel();

  if (warpgroup == 0) {
    LowerRegisters<kFp8LoaderRegisters>();
    if (threadIdx.x < kWarp) {
      Fp8Loader<S>(params, run, shared).Run();
    } else if (threadIdx.x < 2 * kWarp) {
      Fp8Scaler<S>(params, shared).Run();
    } else if (S::kMerges && threadIdx.x < 3 * kWarp) {
      StartWatch<S::kRows, kFp8LatentRank> watch(params, shared.merge);
      watch.Begin();
      watch.Run();
    }
  } else if (warpgroup == 1) {
    RaiseRegisters<kFp8ScoreRegisters>();
    Fp8Scores<S>(params, shared).Run();
    if constexpr (S::kMerges) EndScores(params);
  } else {
    RaiseRegisters<kFp8ValueRegisters>();
    Fp8Values<S>(params, shared, warpgroup - 2).Run();
    if constexpr (S::kMerges) {
      auto& scratch = reinterpret_cast<MergeScratch&>(shared.queries);
      static_assert(sizeof(shared.queries) >= sizeof(MergeScratch));
      Merger<S::kRows, kFp8LatentRank, typename S::T>(params, shared.merge, scratch).Run();
    }
  }
#endif
}

}  // namespace mla::cuda::sm90::direct

#endif  // MLA_KERNELS_CUDA_MLA_DECODE_SM90_FP8_DIRECT_CUH_
