// The kernels of mla_decode, as the dispatcher sees them.
#ifndef MLA_KERNELS_CUDA_MLA_DECODE_KERNEL_H_
#define MLA_KERNELS_CUDA_MLA_DECODE_KERNEL_H_

#include <cuda_runtime_api.h>

#include <cstdint>
#include <string_view>

#include "kernels/cuda/device.h"
#include "kernels/cuda/mla_decode/params.h"
#include "mla/cuda.h"

namespace mla::cuda {

struct MlaDecodeKernel {
  std::string_view name;
  // Empty if the kernel supports the call on this device; else the limit it breaks, as static text.
  // Asked only of arguments that have passed validation.
  std::string_view (*refuses)(const MlaDecodeArgs& args, const DeviceProperties& device);
  // Query rows (token, head) of one thread block; the grid has ceil(rows / that) row tiles.
  int32_t (*row_tile)(const MlaDecodeArgs& args, const DeviceProperties& device);
  // Thread blocks of this call that a multiprocessor holds at once.
  int32_t (*blocks_per_sm)(const MlaDecodeArgs& args, const DeviceProperties& device);
  // Enqueues the attention of every work item: out and lse, or the partial results of a slot.
  // `dtype` is that of q, the cache and out.
  cudaError_t (*launch)(const MlaDecodeParams& params, DType dtype, cudaStream_t stream);
  // Whether it merges the partial results itself if params.merge_arrivals is given; null: never.
  bool (*can_merge)(const MlaDecodeArgs& args) = nullptr;
};

// Hopper: wgmma and the tensor memory accelerator.
extern const MlaDecodeKernel kMlaDecodeSm90;
// The same over FP8 latents: keys are converted to bf16 ahead of the products.
extern const MlaDecodeKernel kMlaDecodeSm90Fp8;
// Also over FP8 latents: codes become operands in registers, and few query rows are not padded.
extern const MlaDecodeKernel kMlaDecodeSm90Fp8Direct;
// mma.sync and cp.async: Ampere, Ada, and what came after without its own kernel.
extern const MlaDecodeKernel kMlaDecodeSm80;
// The same over FP8 latents.
extern const MlaDecodeKernel kMlaDecodeSm80Fp8;
// Plain CUDA for every legal call.
extern const MlaDecodeKernel kMlaDecodePlain;

// Whether the code that runs on the current device waits for the kernel before it: code that was
// compiled from older PTX does not, and must not be started early.
bool WaitsOnDevice();

}  // namespace mla::cuda

#endif  // MLA_KERNELS_CUDA_MLA_DECODE_KERNEL_H_
