// The Hopper kernel of mla_decode: see sm90_layout.cuh for how its warpgroups share the work.
#ifndef MLA_KERNELS_CUDA_MLA_DECODE_SM90_KERNEL_CUH_
#define MLA_KERNELS_CUDA_MLA_DECODE_SM90_KERNEL_CUH_

#include <cstdint>

#include "kernels/cuda/mla_decode/sm90_layout.cuh"
#include "kernels/cuda/mla_decode/sm90_loader.cuh"
#include "kernels/cuda/mla_decode/sm90_merge.cuh"
#include "kernels/cuda/mla_decode/sm90_scores.cuh"
#include "kernels/cuda/mla_decode/sm90_values.cuh"

namespace mla::cuda::sm90 {

template <typename S>
__device__ __forceinline__ void InitBarriers(SharedMemory<S>& shared) {
  for (int slot = 0; slot < S::kPairSlots; ++slot) {
    BarrierInit(SharedAddress(&shared.pair_loaded[slot]), S::kProducers);
    BarrierInit(SharedAddress(&shared.pair_freed[slot]), 4);  // one warpgroup's warps
  }
  for (int slot = 0; slot < S::kBlockSlots; ++slot) {
    BarrierInit(SharedAddress(&shared.rest_loaded[slot]), S::kProducers);
    BarrierInit(SharedAddress(&shared.rest_freed[slot]), 8);  // both values warpgroups'
    BarrierInit(SharedAddress(&shared.softmaxed[slot]), 4);   // the scores'
    BarrierInit(SharedAddress(&shared.scored[slot]), 4);
    BarrierInit(SharedAddress(&shared.ahead[slot]), 4);
  }
  FenceBarrierInit();
}

// Thread block (m, p) computes the rows of tile m for the items of part p. Queries and results are
// of type T.
template <typename S, typename T>
__global__ void __launch_bounds__(kThreads, 1)
    Kernel(const __grid_constant__ MlaDecodeParams params,
           const __grid_constant__ KeyTensorMaps maps) {
#if defined(MLA_CUDA_HAS_SM90A)
  extern __shared__ uint8_t dynamic[];
  const uint32_t misaligned = SharedAddress(dynamic) % kSharedAlignment;
  auto& shared = *reinterpret_cast<SharedMemory<S>*>(
      dynamic + (misaligned == 0 ? 0 : kSharedAlignment - misaligned));

  const int warpgroup = __shfl_sync(~0u, static_cast<int>(threadIdx.x) / kWarpgroup, 0);
  if (threadIdx.x == 0) {
    PrefetchTensorMap(&maps.queries);
    PrefetchTensorMap(&maps.keys);
    PrefetchTensorMap(&maps.key_pairs);
    InitBarriers(shared);
    InitMerge(shared.merge);
  }
  __syncthreads();
  WaitForPriorKernel();
  // The kernel after this one waits for the end of this grid before it reads anything.
  if (threadIdx.x == 0) AllowNextKernel();

  if (warpgroup == 0) {
    LowerRegisters<kLoaderRegisters>();
    // The loaders are done some blocks ahead of the others: one of them then watches.
    StartWatch<kRowTile, S::kDv> watch(params, shared.merge);
    const int warp = __shfl_sync(~0u, static_cast<int>(threadIdx.x) / kWarp, 0);
    if (warp == 0) watch.Begin();
    if (warp < Loader<S>::kWarps) Loader<S>(params, maps, shared, warp).Run();
    if (warp == 0) watch.Run();
  } else if (warpgroup == 1) {
    RaiseRegisters<kScoreRegisters>();
    Scores<S, T>(params, shared).Run();
    EndScores(params);
  } else {
    RaiseRegisters<kValueRegisters>();
    Values<S, T>(params, shared, warpgroup - 2).Run();
    auto& scratch = reinterpret_cast<MergeScratch&>(shared.pairs);
    Merger<kRowTile, S::kDv, T>(params, shared.merge, scratch).Run();
  }
#endif
}

}  // namespace mla::cuda::sm90

#endif  // MLA_KERNELS_CUDA_MLA_DECODE_SM90_KERNEL_CUH_
