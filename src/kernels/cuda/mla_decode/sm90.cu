// The host's side of the Hopper kernel of mla_decode: what it accepts, tensor maps, launch.
#include <cstdint>
#include <string_view>

#include "kernels/cuda/mla_decode/kernel.h"
#include "kernels/cuda/mla_decode/sm90_host.cuh"
#include "kernels/cuda/mla_decode/sm90_kernel.cuh"

namespace mla::cuda {
namespace {

using sm90::KeyTensorMaps;

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
  if (!sm90::IsAligned(args.q)) {
    return "q and its strides must be multiples of 16 bytes";
  }
  if (!sm90::IsAligned(args.cache)) {
    return "the cache and its strides must be multiples of 16 bytes";
  }
  if (!sm90::IsAligned(args.out)) {
    return "out and its strides must be multiples of 16 bytes";
  }
  if (device.max_shared_bytes < sm90::SharedBytes<sm90::SharedMemory<sm90::Shape<576, 512>>>()) {
    return "needs 227 KiB of shared memory for a thread block";
  }
  return {};
}

int32_t RowTile(const MlaDecodeArgs&, const DeviceProperties&) { return sm90::kRowTile; }
int32_t BlocksPerSm(const MlaDecodeArgs&, const DeviceProperties&) { return 1; }
bool CanMerge(const MlaDecodeArgs&) { return true; }

cudaError_t EncodeKeys(const MlaDecodeParams& p, DType dtype, KeyTensorMaps* maps) {
  constexpr uint64_t kElementBytes = 2;
  sm90::SetKeyBoxes(p, maps);
  sm90::TensorShape<3> shape;
  shape.dims = {uint64_t(p.d_k), uint64_t(p.page_size), uint64_t(p.num_pages)};
  shape.strides = {uint64_t(p.cache_stride_token) * kElementBytes,
                   uint64_t(p.cache_stride_page) * kElementBytes};
  shape.box_columns = sm90::kTileColumns;
  shape.box_rows = static_cast<uint32_t>(maps->key_rows);
  const cudaError_t error = sm90::Encode(&maps->keys, p.cache, dtype, shape);
  if (error != cudaSuccess || maps->key_boxes != 1) return error;
  sm90::TensorShape<4> pairs;
  pairs.dims = {sm90::kTileColumns, uint64_t(p.page_size), uint64_t(p.d_v / sm90::kTileColumns),
                uint64_t(p.num_pages)};
  pairs.strides = {shape.strides[0], sm90::kTileRowBytes, shape.strides[1]};
  pairs.box_columns = sm90::kTileColumns;
  pairs.box_rows = shape.box_rows;
  pairs.box_planes = 2;
  return sm90::Encode(&maps->key_pairs, p.cache, dtype, pairs);
}

template <typename S, typename T>
cudaError_t LaunchAs(const MlaDecodeParams& params, const KeyTensorMaps& maps,
                     cudaStream_t stream) {
  return sm90::LaunchKernel<sm90::Kernel<S, T>>(params, maps, sm90::kRowTile,
                                                sm90::SharedBytes<sm90::SharedMemory<S>>(), stream);
}

template <typename S>
cudaError_t LaunchShape(const MlaDecodeParams& params, DType dtype, const KeyTensorMaps& maps,
                        cudaStream_t stream) {
  return dtype == DType::kBF16 ? LaunchAs<S, __nv_bfloat16>(params, maps, stream)
                               : LaunchAs<S, __half>(params, maps, stream);
}

cudaError_t Launch(const MlaDecodeParams& params, DType dtype, cudaStream_t stream) {
  KeyTensorMaps maps = {};
  if (const cudaError_t error = EncodeKeys(params, dtype, &maps); error != cudaSuccess) {
    return error;
  }
  if (const cudaError_t error = sm90::EncodeQueries(params, dtype, &maps); error != cudaSuccess) {
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

extern const MlaDecodeKernel kMlaDecodeSm90 = {"sm90",      Refuses, RowTile,
                                               BlocksPerSm, Launch,  CanMerge};

}  // namespace mla::cuda
