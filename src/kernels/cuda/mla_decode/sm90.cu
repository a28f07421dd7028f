// The host's side of the Hopper kernel of mla_decode: what it accepts, tensor maps, launch.
#include <cuda.h>
#include <cudaTypedefs.h>
#include <cuda_runtime.h>

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <numeric>
#include <string_view>

#include "kernels/cuda/mla_decode/kernel.h"
#include "kernels/cuda/mla_decode/sm90_kernel.cuh"

namespace mla::cuda {
namespace {

using sm90::kRowTile;
using sm90::TensorMaps;

constexpr int64_t kVectorBytes = 16;  // of TMA, and of stores: addresses and strides
constexpr int64_t kElementBytes = 2;

template <typename S>
constexpr size_t SharedBytes() {
  constexpr size_t kBytes = sizeof(sm90::SharedMemory<S>) + sm90::kSharedAlignment;
  static_assert(kBytes <= 227 * 1024);
  return kBytes;
}

bool Aligned(const void* pointer, int64_t bytes) {
  return reinterpret_cast<uintptr_t>(pointer) % static_cast<uintptr_t>(bytes) == 0;
}

// Strides of all but the innermost axis, where they are used at all.
bool StridesAligned(const ConstTensor& tensor, int64_t bytes) {
  for (int axis = 0; axis + 1 < tensor.rank(); ++axis) {
    if (tensor.dim(axis) > 1 && tensor.stride(axis) * kElementBytes % bytes != 0) return false;
  }
  return true;
}

bool IsCompiled(int64_t d_k, int64_t d_v) {
  return (d_k == 576 && d_v == 512) || (d_k == 512 && d_v == 512) || (d_k == 320 && d_v == 256) ||
         (d_k == 288 && d_v == 256);
}

std::string_view Refuses(const MlaDecodeArgs& args, const DeviceProperties& device) {
  if (device.arch != 90) return "needs compute capability 9.0";
  if (args.cache.dtype() != args.q.dtype()) return "the cache must be of the type of q";
  if (!IsCompiled(args.q.dim(3), args.kv_lora_rank)) {
    return "(d_k, d_v) must be (576, 512), (512, 512), (320, 256) or (288, 256)";
  }
  if (args.cache.dim(0) == 0) return "the cache has no pages";
  if (!Aligned(args.q.data(), kVectorBytes) || !StridesAligned(args.q, kVectorBytes)) {
    return "q and its strides must be multiples of 16 bytes";
  }
  if (!Aligned(args.cache.data(), kVectorBytes) || !StridesAligned(args.cache, kVectorBytes)) {
    return "the cache and its strides must be multiples of 16 bytes";
  }
  if (!Aligned(args.out.data(), kVectorBytes) || !StridesAligned(args.out, kVectorBytes)) {
    return "out and its strides must be multiples of 16 bytes";
  }
  if (device.max_shared_bytes < SharedBytes<sm90::Shape<576, 512>>()) {
    return "needs 227 KiB of shared memory for a thread block";
  }
  return {};
}

int32_t RowTile(const MlaDecodeArgs&, const DeviceProperties&) { return kRowTile; }
int32_t BlocksPerSm(const MlaDecodeArgs&, const DeviceProperties&) { return 1; }

// From the driver that the runtime has loaded: nothing links against it.
PFN_cuTensorMapEncodeTiled_v12000 TensorMapEncoder() {
  static const auto encoder = [] {
    void* function = nullptr;
    cudaDriverEntryPointQueryResult found = cudaDriverEntryPointSymbolNotFound;
    const cudaError_t error = cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &function,
                                                               12000, cudaEnableDefault, &found);
    if (error != cudaSuccess || found != cudaDriverEntryPointSuccess) function = nullptr;
    return reinterpret_cast<PFN_cuTensorMapEncodeTiled_v12000>(function);
  }();
  return encoder;
}

template <size_t kRank>
struct MapShape {
  std::array<uint64_t, kRank> dims;         // innermost first
  std::array<uint64_t, kRank - 1> strides;  // bytes, of all but the innermost
  uint32_t box_rows;                        // of the second axis; 64 columns
};

template <size_t kRank>
cudaError_t Encode(CUtensorMap* map, const void* data, DType dtype, MapShape<kRank> shape) {
  const auto encoder = TensorMapEncoder();
  if (encoder == nullptr) return cudaErrorNotSupported;
  // The stride of an axis of extent 1 is not used, but must be a legal one.
  for (size_t i = 1; i < kRank; ++i) {
    if (shape.dims[i] == 1) shape.strides[i - 1] = shape.dims[0] * kElementBytes;
  }
  std::array<uint32_t, kRank> box, steps;
  box.fill(1);
  steps.fill(1);
  box[0] = sm90::kTileColumns;
  box[1] = shape.box_rows;
  const CUresult result = encoder(
      map,
      dtype == DType::kBF16 ? CU_TENSOR_MAP_DATA_TYPE_BFLOAT16 : CU_TENSOR_MAP_DATA_TYPE_FLOAT16,
      kRank, const_cast<void*>(data), shape.dims.data(), shape.strides.data(), box.data(),
      steps.data(), CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B,
      CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  return result == CUDA_SUCCESS ? cudaSuccess : cudaErrorInvalidValue;
}

cudaError_t EncodeKeys(const MlaDecodeParams& p, DType dtype, TensorMaps* maps) {
  maps->key_rows = std::gcd(p.page_size, kBlockTokens);
  maps->key_boxes = kBlockTokens / maps->key_rows;
  MapShape<3> shape;
  shape.dims = {uint64_t(p.d_k), uint64_t(p.page_size), uint64_t(p.num_pages)};
  shape.strides = {uint64_t(p.cache_stride_token * kElementBytes),
                   uint64_t(p.cache_stride_page * kElementBytes)};
  shape.box_rows = static_cast<uint32_t>(maps->key_rows);
  return Encode(&maps->keys, p.cache, dtype, shape);
}

// Rows of queries with one stride between all of them are one axis; else a box is of one token.
cudaError_t EncodeQueries(const MlaDecodeParams& p, DType dtype, TensorMaps* maps) {
  const bool one_axis = p.s_q == 1 || p.q_stride_token == p.heads * p.q_stride_head;
  maps->query_heads = one_axis ? p.s_q * p.heads : p.heads;
  maps->query_rows = one_axis ? kRowTile : std::gcd(p.heads, kRowTile);
  MapShape<4> shape;
  shape.dims = {uint64_t(p.d_k), uint64_t(maps->query_heads), uint64_t(one_axis ? 1 : p.s_q),
                uint64_t(p.num_seqs)};
  shape.strides = {uint64_t((p.heads == 1 ? p.q_stride_token : p.q_stride_head) * kElementBytes),
                   uint64_t(p.q_stride_token * kElementBytes),
                   uint64_t(p.q_stride_seq * kElementBytes)};
  shape.box_rows = static_cast<uint32_t>(maps->query_rows);
  return Encode(&maps->queries, p.q, dtype, shape);
}

int64_t RowTiles(const MlaDecodeParams& params) {
  return (int64_t{params.s_q} * params.heads + kRowTile - 1) / kRowTile;
}

// The shared memory of a kernel has to be asked for once on each device.
template <typename S, typename T>
cudaError_t RaiseSharedMemory() {
  constexpr int kMaxDevices = 64;
  static std::array<std::atomic<bool>, kMaxDevices> done{};
  int device = 0;
  cudaError_t error = cudaGetDevice(&device);
  if (error != cudaSuccess || (device < kMaxDevices && done[device])) return error;
  error = cudaFuncSetAttribute(sm90::Kernel<S, T>, cudaFuncAttributeMaxDynamicSharedMemorySize,
                               static_cast<int>(SharedBytes<S>()));
  if (error == cudaSuccess && device < kMaxDevices) done[device] = true;
  return error;
}

template <typename S, typename T>
cudaError_t LaunchAs(const MlaDecodeParams& params, const TensorMaps& maps, cudaStream_t stream) {
  if (const cudaError_t error = RaiseSharedMemory<S, T>(); error != cudaSuccess) return error;
  cudaLaunchConfig_t config = {};
  config.gridDim =
      dim3(static_cast<unsigned>(RowTiles(params)), static_cast<unsigned>(params.num_parts));
  config.blockDim = dim3(sm90::kThreads);
  config.dynamicSmemBytes = SharedBytes<S>();
  config.stream = stream;
  // Its start overlaps the end of the kernel before it.
  cudaLaunchAttribute overlap = {};
  overlap.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  overlap.val.programmaticStreamSerializationAllowed = 1;
  config.attrs = &overlap;
  config.numAttrs = 1;
  return cudaLaunchKernelEx(&config, sm90::Kernel<S, T>, params, maps);
}

template <typename S>
cudaError_t LaunchShape(const MlaDecodeParams& params, DType dtype, const TensorMaps& maps,
                        cudaStream_t stream) {
  return dtype == DType::kBF16 ? LaunchAs<S, __nv_bfloat16>(params, maps, stream)
                               : LaunchAs<S, __half>(params, maps, stream);
}

cudaError_t Launch(const MlaDecodeParams& params, DType dtype, cudaStream_t stream) {
  TensorMaps maps;
  if (const cudaError_t error = EncodeKeys(params, dtype, &maps); error != cudaSuccess) {
    return error;
  }
  if (const cudaError_t error = EncodeQueries(params, dtype, &maps); error != cudaSuccess) {
    return error;
  }
  switch (params.d_k) {
    case 576: return LaunchShape<sm90::Shape<576, 512>>(params, dtype, maps, stream);
    case 512: return LaunchShape<sm90::Shape<512, 512>>(params, dtype, maps, stream);
    case 320: return LaunchShape<sm90::Shape<320, 256>>(params, dtype, maps, stream);
    case 288: return LaunchShape<sm90::Shape<288, 256>>(params, dtype, maps, stream);
    default: return cudaErrorInvalidValue;
  }
}

}  // namespace

extern const MlaDecodeKernel kMlaDecodeSm90 = {"sm90", Refuses, RowTile, BlocksPerSm, Launch};

}  // namespace mla::cuda
