// The Ampere kernel of mla_decode over FP8 latents: its host's side.
#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <algorithm>
#include <cstdint>
#include <string_view>

#include "kernels/cuda/device.h"
#include "kernels/cuda/mla_decode/kernel.h"
#include "kernels/cuda/mla_decode/sm80_fp8.cuh"
#include "kernels/cuda/mla_decode/sm80_fp8.h"

namespace mla::cuda {
namespace sm80 {

Fp8Plan MakeFp8Plan(size_t max_shared_bytes, size_t shared_bytes_per_sm) {
  Fp8Plan plan;
  plan.tile.rows = 16;
  for (int blocks = plan.tile.blocks_per_sm(); blocks >= 1; --blocks) {
    const size_t bytes =
        std::min(max_shared_bytes, shared_bytes_per_sm / blocks - kReservedSharedBytes);
    for (int stages = kFp8MaxStages; stages >= kFp8MinStages; --stages) {
      if (plan.tile.shared_bytes(stages) > bytes) continue;
      plan.stages = stages;
      plan.blocks_per_sm = blocks;
      return plan;
    }
  }
  return plan;
}

}  // namespace sm80

namespace {

using sm80::Fp8Plan;
using Shape = sm80::Fp8Shape<16>;

constexpr int kMinArch = 80;
constexpr int64_t kMaxRows = int64_t{1} << 30;

Fp8Plan PlanFor(const DeviceProperties& device) {
  return sm80::MakeFp8Plan(device.max_shared_bytes, device.shared_bytes_per_sm);
}

std::string_view Refuses(const MlaDecodeArgs& args, const DeviceProperties& device) {
  if (device.arch < kMinArch) return "needs compute capability 8.0 or later";
  if (args.cache.dtype() != DType::kF8E4M3) return "the cache must be of FP8 latents";
  if (args.q.dim(1) * args.q.dim(2) > kMaxRows) return "at most 2^30 query rows per sequence";
  if (!sm80::RowsAligned(args.cache, 16)) {
    return "tokens of the cache must begin at multiples of 16 bytes";
  }
  if (!sm80::StridesFit(args.cache)) return "pages and tokens must be less than 64 GiB apart";
  if (!sm80::RowsAligned(args.q, 16)) return "rows of q must begin at multiples of 16 bytes";
  if (!sm80::RowsAligned(args.out, 16)) return "rows of out must begin at multiples of 16 bytes";
  if (PlanFor(device).stages == 0) return "needs 81 KiB of shared memory for a thread block";
  return {};
}

int32_t RowTile(const MlaDecodeArgs&, const DeviceProperties&) { return Shape::kRows; }
int32_t BlocksPerSm(const MlaDecodeArgs&, const DeviceProperties& device) {
  return PlanFor(device).blocks_per_sm;
}

template <typename T, int kStages>
cudaError_t LaunchKernel(const MlaDecodeParams& params, cudaStream_t stream) {
  const auto kernel = sm80::Fp8DecodeKernel<Shape, T, kStages>;
  constexpr size_t kSharedBytes = Shape::kTile.shared_bytes(kStages);
  const auto error =
      static_cast<cudaError_t>(AllowAllSharedMemory(reinterpret_cast<const void*>(kernel)));
  if (error != cudaSuccess) return error;
  const int64_t rows = int64_t{params.s_q} * params.heads;
  cudaLaunchConfig_t config = {};
  config.gridDim = dim3(static_cast<unsigned>((rows + Shape::kRows - 1) / Shape::kRows),
                        static_cast<unsigned>(params.num_parts));
  config.blockDim = dim3(sm80::kThreads);
  config.dynamicSmemBytes = kSharedBytes;
  config.stream = stream;
  cudaLaunchAttribute overlap = {};
  overlap.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  overlap.val.programmaticStreamSerializationAllowed = 1;
  config.attrs = &overlap;
  config.numAttrs = WaitsOnDevice() ? 1 : 0;
  const auto launched = sm80::MakeLaunched<Shape>(params, kStages);
  return cudaLaunchKernelEx(&config, kernel, params, launched);
}

template <typename T>
cudaError_t LaunchFor(const MlaDecodeParams& params, const Fp8Plan& plan, cudaStream_t stream) {
  static_assert(sm80::kFp8MinStages == 3 && sm80::kFp8MaxStages == 4);
  switch (plan.stages) {
    case 3: return LaunchKernel<T, 3>(params, stream);
    case 4: return LaunchKernel<T, 4>(params, stream);
    default: return cudaErrorInvalidConfiguration;
  }
}

cudaError_t Launch(const MlaDecodeParams& params, DType dtype, cudaStream_t stream) {
  const Result<DeviceProperties> device = CurrentDevice();
  if (!device.ok()) return cudaErrorInvalidDevice;
  const Fp8Plan plan = PlanFor(*device);
  return dtype == DType::kBF16 ? LaunchFor<__nv_bfloat16>(params, plan, stream)
                               : LaunchFor<__half>(params, plan, stream);
}

}  // namespace

extern const MlaDecodeKernel kMlaDecodeSm80Fp8 = {"sm80_fp8", Refuses, RowTile, BlocksPerSm,
                                                  Launch};

}  // namespace mla::cuda
