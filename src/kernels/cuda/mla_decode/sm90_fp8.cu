// The Hopper kernel of mla_decode over FP8 latents: the kernel and its host.
#include <cstdint>
#include <string_view>

#include "kernels/cuda/mla_decode/kernel.h"
#include "kernels/cuda/mla_decode/sm90_fp8.cuh"
#include "kernels/cuda/mla_decode/sm90_host.cuh"
#include "kernels/cuda/mla_decode/sm90_kernel.cuh"

namespace mla::cuda {
namespace sm90 {

// As Kernel of sm90_kernel.cuh.
__global__ void __launch_bounds__(kThreads, 1)
    Fp8Kernel(const __grid_constant__ MlaDecodeParams params,
              const __grid_constant__ Fp8TensorMaps maps) {
#if defined(MLA_CUDA_HAS_SM90A)
  extern __shared__ uint8_t dynamic[];
  const uint32_t misaligned = SharedAddress(dynamic) % kSharedAlignment;
  auto& shared = *reinterpret_cast<Fp8SharedMemory*>(
      dynamic + (misaligned == 0 ? 0 : kSharedAlignment - misaligned));

  const int warpgroup = __shfl_sync(~0u, static_cast<int>(threadIdx.x) / kWarpgroup, 0);
  if (threadIdx.x == 0) {
    PrefetchTensorMap(&maps.queries);
    PrefetchTensorMap(&maps.keys);
    PrefetchTensorMap(&maps.codes);
    PrefetchTensorMap(&maps.scales);
    InitFp8Barriers(shared);
    InitBarriers(shared.tiles);
  }
  __syncthreads();
  WaitForPriorKernel();
  // The kernel after this one waits for the end of this grid before it reads anything.
  if (threadIdx.x == 0) AllowNextKernel();

  if (warpgroup == 0) {
    LowerRegisters<kConverterRegisters>();
    Converter(params, maps, shared).Run();
  } else if (warpgroup == 1) {
    RaiseRegisters<kFp8ScoreRegisters>();
    Scores<Fp8Shape, __nv_bfloat16>(params, shared.tiles).Run();
  } else {
    RaiseRegisters<kValueRegisters>();
    Values<Fp8Shape, __nv_bfloat16>(params, shared.tiles, warpgroup - 2).Run();
  }
#endif
}

}  // namespace sm90

namespace {

constexpr size_t kSharedBytes = sm90::SharedBytes<sm90::Fp8SharedMemory>();

std::string_view Refuses(const MlaDecodeArgs& args, const DeviceProperties& device) {
  if (device.arch != 90) return "needs compute capability 9.0";
  if (args.cache.dtype() != DType::kF8E4M3) return "the cache must be of FP8 latents";
  if (args.q.dtype() != DType::kBF16) return "q must be bf16";
  if (args.cache.dim(1) % sm90::kConverterRows != 0) return "page_size must be a multiple of 16";
  if (args.cache.dim(0) == 0) return "the cache has no pages";
  if (!sm90::IsAligned(args.q)) return "q and its strides must be multiples of 16 bytes";
  if (!sm90::IsAligned(args.cache))
    return "the cache and its strides must be multiples of 16 bytes";
  if (!sm90::IsAligned(args.out)) return "out and its strides must be multiples of 16 bytes";
  if (device.max_shared_bytes < kSharedBytes) {
    return "needs 227 KiB of shared memory for a thread block";
  }
  return {};
}

int32_t RowTile(const MlaDecodeArgs&, const DeviceProperties&) { return sm90::kRowTile; }
int32_t BlocksPerSm(const MlaDecodeArgs&, const DeviceProperties&) { return 1; }

// A column range of the cached rows, `first` bytes from their beginning.
cudaError_t EncodeCache(CUtensorMap* map, const MlaDecodeParams& p, DType dtype, int64_t first,
                        uint64_t columns, uint32_t box_columns) {
  sm90::TensorShape<3> shape;
  shape.dims = {columns, uint64_t(p.page_size), uint64_t(p.num_pages)};
  shape.strides = {uint64_t(p.cache_stride_token), uint64_t(p.cache_stride_page)};
  shape.box_columns = box_columns;
  shape.box_rows = sm90::kConverterRows;
  return sm90::Encode(map, static_cast<const uint8_t*>(p.cache) + first, dtype, shape);
}

// The codes, as [num_pages, groups, page_size, 128].
cudaError_t EncodeCodes(CUtensorMap* map, const MlaDecodeParams& p) {
  sm90::TensorShape<4> shape;
  shape.dims = {kFp8LatentGroup, uint64_t(p.page_size), sm90::kGroups, uint64_t(p.num_pages)};
  shape.strides = {uint64_t(p.cache_stride_token), kFp8LatentGroup, uint64_t(p.cache_stride_page)};
  shape.box_columns = kFp8LatentGroup;
  shape.box_rows = sm90::kConverterRows;
  shape.box_planes = 2;
  return sm90::Encode(map, p.cache, DType::kF8E4M3, shape);
}

cudaError_t Launch(const MlaDecodeParams& params, DType dtype, cudaStream_t stream) {
  constexpr int kScaleBytes = kFp8LatentRank / kFp8LatentGroup * sizeof(float);
  constexpr int64_t kRopeAt = kFp8LatentRank + kScaleBytes;
  sm90::Fp8TensorMaps maps;
  cudaError_t error = EncodeCodes(&maps.codes, params);
  if (error != cudaSuccess) return error;
  error =
      EncodeCache(&maps.scales, params, DType::kF8E4M3, kFp8LatentRank, kScaleBytes, kScaleBytes);
  if (error != cudaSuccess) return error;
  error = EncodeCache(&maps.keys, params, DType::kBF16, kRopeAt, kFp8LatentRope, kFp8LatentRope);
  if (error != cudaSuccess) return error;
  error = sm90::EncodeQueries(params, dtype, &maps);
  if (error != cudaSuccess) return error;
  return sm90::LaunchKernel<sm90::Fp8Kernel>(params, maps, sm90::kRowTile, kSharedBytes, stream);
}

}  // namespace

extern const MlaDecodeKernel kMlaDecodeSm90Fp8 = {"sm90_fp8", Refuses, RowTile, BlocksPerSm,
                                                  Launch};

}  // namespace mla::cuda
