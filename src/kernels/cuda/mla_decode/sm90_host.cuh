// What the hosts of the Hopper kernels of mla_decode share: tensor maps and launches.
#ifndef MLA_KERNELS_CUDA_MLA_DECODE_SM90_HOST_CUH_
#define MLA_KERNELS_CUDA_MLA_DECODE_SM90_HOST_CUH_

#include <cuda.h>
#include <cuda_runtime.h>

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>

#include "kernels/cuda/mla_decode/sm90_layout.cuh"
#include "mla/tensor.h"

namespace mla::cuda::sm90 {

inline constexpr int64_t kVectorBytes = 16;  // of TMA, and of stores: addresses and strides

// A tensor and the box of it that is loaded at a time, innermost axis first; boxes have one index
// of the axes past the third.
template <size_t kRank>
struct TensorShape {
  std::array<uint64_t, kRank> dims;
  std::array<uint64_t, kRank - 1> strides;  // bytes, of all but the innermost
  uint32_t box_columns, box_rows;
  uint32_t box_planes = 1;  // along the third axis
};

// For kRank 3 and 4. cudaErrorNotSupported where the driver has no tensor maps.
template <size_t kRank>
cudaError_t Encode(CUtensorMap* map, const void* data, DType dtype, TensorShape<kRank> shape);

// Rows of queries with one stride between all of them are one axis; else a box is of one token.
cudaError_t EncodeQueries(const MlaDecodeParams& params, DType dtype, TensorMaps* maps);

// Whether the address and the strides of all but the innermost axis, where they are used at all,
// are multiples of 16 bytes.
bool IsAligned(const ConstTensor& tensor);

// As many tokens of a page as divide a block of keys, and the boxes of a block.
void SetKeyBoxes(const MlaDecodeParams& params, TensorMaps* maps);

// One thread block for each tile of `row_tile` rows and part, given `more` beside the parameters.
// Its start overlaps the end of the kernel before it. The shared memory of a kernel has to be asked
// for once on each device.
template <auto kKernel, typename More>
cudaError_t LaunchKernel(const MlaDecodeParams& params, const More& more, int row_tile,
                         size_t shared_bytes, cudaStream_t stream) {
  constexpr int kMaxDevices = 64;
  static std::array<std::atomic<bool>, kMaxDevices> raised{};
  int device = 0;
  if (const cudaError_t error = cudaGetDevice(&device); error != cudaSuccess) return error;
  if (device >= kMaxDevices || !raised[device]) {
    const cudaError_t error = cudaFuncSetAttribute(
        kKernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(shared_bytes));
    if (error != cudaSuccess) return error;
    if (device < kMaxDevices) raised[device] = true;
  }
  const int64_t tiles = (int64_t{params.s_q} * params.heads + row_tile - 1) / row_tile;
  cudaLaunchConfig_t config = {};
  config.gridDim = dim3(static_cast<unsigned>(tiles), static_cast<unsigned>(params.num_parts));
  config.blockDim = dim3(kThreads);
  config.dynamicSmemBytes = shared_bytes;
  config.stream = stream;
  cudaLaunchAttribute overlap = {};
  overlap.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  overlap.val.programmaticStreamSerializationAllowed = 1;
  config.attrs = &overlap;
  config.numAttrs = 1;
  return cudaLaunchKernelEx(&config, kKernel, params, more);
}

// The shared memory of a thread block that has `Memory`, aligned.
template <typename Memory>
constexpr size_t SharedBytes() {
  constexpr size_t kBytes = sizeof(Memory) + kSharedAlignment;
  static_assert(kBytes <= 227 * 1024);
  return kBytes;
}

}  // namespace mla::cuda::sm90

#endif  // MLA_KERNELS_CUDA_MLA_DECODE_SM90_HOST_CUH_
