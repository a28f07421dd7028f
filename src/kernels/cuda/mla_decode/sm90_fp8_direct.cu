// The host's side of the Hopper kernel of mla_decode over FP8 latents.
#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>
#include <numeric>
#include <string_view>

#include "kernels/cuda/mla_decode/kernel.h"
#include "kernels/cuda/mla_decode/sm90_fp8_direct.cuh"
#include "kernels/cuda/mla_decode/sm90_host.cuh"

namespace mla::cuda {
namespace {

using sm90::direct::Fp8Shape;

std::string_view Refuses(const MlaDecodeArgs& args, const DeviceProperties& device) {
  if (device.arch != 90) return "needs compute capability 9.0";
  if (args.cache.dtype() != DType::kF8E4M3) return "the cache must be of FP8 latents";
  if (!sm90::IsAligned(args.q)) return "q and its strides must be multiples of 16 bytes";
  if (!sm90::IsAligned(args.cache))
    return "the cache and its strides must be multiples of 16 bytes";
  if (!sm90::IsAligned(args.out)) return "out and its strides must be multiples of 16 bytes";
  if (device.max_shared_bytes <
      sm90::SharedBytes<sm90::direct::Fp8SharedMemory<Fp8Shape<64, __half>>>()) {
    return "needs 227 KiB of shared memory for a thread block";
  }
  return {};
}

int32_t TileOf(int64_t rows) { return rows <= 16 ? 16 : rows <= 32 ? 32 : 64; }
int32_t RowTile(const MlaDecodeArgs& args, const DeviceProperties&) {
  return TileOf(args.q.dim(1) * args.q.dim(2));
}
int32_t BlocksPerSm(const MlaDecodeArgs&, const DeviceProperties&) { return 1; }
bool CanMerge(const MlaDecodeArgs& args) {
  return TileOf(args.q.dim(1) * args.q.dim(2)) <= sm90::direct::kMostMergedRows;
}

template <typename S>
cudaError_t LaunchShape(const MlaDecodeParams& params, cudaStream_t stream) {
  // Tokens that lie one after another in every page, as many as divide a unit of the ring.
  const bool packed = params.cache_stride_token == S::kPitch;
  const int run = packed ? std::gcd(params.page_size, S::kUnitTokens) : 1;
  return sm90::LaunchKernel<sm90::direct::Fp8Kernel<S>>(
      params, run, S::kRows, sm90::SharedBytes<sm90::direct::Fp8SharedMemory<S>>(), stream);
}

template <typename T>
cudaError_t LaunchFor(const MlaDecodeParams& params, cudaStream_t stream) {
  switch (TileOf(int64_t{params.s_q} * params.heads)) {
    case 16: return LaunchShape<Fp8Shape<16, T>>(params, stream);
    case 32: return LaunchShape<Fp8Shape<32, T>>(params, stream);
    default: return LaunchShape<Fp8Shape<64, T>>(params, stream);
  }
}

cudaError_t Launch(const MlaDecodeParams& params, DType dtype, cudaStream_t stream) {
  return dtype == DType::kBF16 ? LaunchFor<__nv_bfloat16>(params, stream)
                               : LaunchFor<__half>(params, stream);
}

}  // namespace

extern const MlaDecodeKernel kMlaDecodeSm90Fp8Direct = {"sm90_fp8_direct", Refuses, RowTile,
                                                        BlocksPerSm,       Launch,  CanMerge};

}  // namespace mla::cuda
