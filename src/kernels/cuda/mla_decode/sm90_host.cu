#include <cudaTypedefs.h>

#include <numeric>

#include "kernels/cuda/mla_decode/sm90_host.cuh"

namespace mla::cuda::sm90 {
namespace {

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

CUtensorMapDataType MapType(DType dtype) {
  switch (dtype) {
    case DType::kBF16: return CU_TENSOR_MAP_DATA_TYPE_BFLOAT16;
    case DType::kF16: return CU_TENSOR_MAP_DATA_TYPE_FLOAT16;
    default: return CU_TENSOR_MAP_DATA_TYPE_UINT8;
  }
}

}  // namespace

template <size_t kRank>
cudaError_t Encode(CUtensorMap* map, const void* data, DType dtype, TensorShape<kRank> shape) {
  const auto encoder = TensorMapEncoder();
  if (encoder == nullptr) return cudaErrorNotSupported;
  // The stride of an axis of extent 1 is not used, but must be a legal one.
  for (size_t i = 1; i < kRank; ++i) {
    if (shape.dims[i] == 1) shape.strides[i - 1] = shape.dims[0] * SizeOf(dtype);
  }
  std::array<uint32_t, kRank> box, steps;
  box.fill(1);
  steps.fill(1);
  box[0] = shape.box_columns;
  box[1] = shape.box_rows;
  box[2] = shape.box_planes;
  // Boxes narrower than a row of a tile are not swizzled.
  const auto swizzle = shape.box_columns * SizeOf(dtype) == kTileRowBytes
                           ? CU_TENSOR_MAP_SWIZZLE_128B
                           : CU_TENSOR_MAP_SWIZZLE_NONE;
  // Reads are promoted to no more than a row of a tile: 256 bytes would hold half of another tile,
  // which is asked for as well, or of another token.
  const CUresult result =
      encoder(map, MapType(dtype), kRank, const_cast<void*>(data), shape.dims.data(),
              shape.strides.data(), box.data(), steps.data(), CU_TENSOR_MAP_INTERLEAVE_NONE,
              swizzle, CU_TENSOR_MAP_L2_PROMOTION_L2_128B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  return result == CUDA_SUCCESS ? cudaSuccess : cudaErrorInvalidValue;
}
template cudaError_t Encode(CUtensorMap*, const void*, DType, TensorShape<3>);
template cudaError_t Encode(CUtensorMap*, const void*, DType, TensorShape<4>);

cudaError_t EncodeQueries(const MlaDecodeParams& p, DType dtype, TensorMaps* maps) {
  constexpr uint64_t kElementBytes = 2;
  const bool one_axis = p.s_q == 1 || p.q_stride_token == p.heads * p.q_stride_head;
  maps->query_heads = one_axis ? p.s_q * p.heads : p.heads;
  maps->query_rows = one_axis ? kRowTile : std::gcd(p.heads, kRowTile);
  TensorShape<4> shape;
  shape.dims = {uint64_t(p.d_k), uint64_t(maps->query_heads), uint64_t(one_axis ? 1 : p.s_q),
                uint64_t(p.num_seqs)};
  shape.strides = {uint64_t(p.heads == 1 ? p.q_stride_token : p.q_stride_head) * kElementBytes,
                   uint64_t(p.q_stride_token) * kElementBytes,
                   uint64_t(p.q_stride_seq) * kElementBytes};
  shape.box_columns = kTileColumns;
  shape.box_rows = static_cast<uint32_t>(maps->query_rows);
  return Encode(&maps->queries, p.q, dtype, shape);
}

bool IsAligned(const ConstTensor& tensor) {
  if (reinterpret_cast<uintptr_t>(tensor.data()) % kVectorBytes != 0) return false;
  const auto item = static_cast<int64_t>(SizeOf(tensor.dtype()));
  for (int axis = 0; axis + 1 < tensor.rank(); ++axis) {
    if (tensor.dim(axis) > 1 && tensor.stride(axis) * item % kVectorBytes != 0) return false;
  }
  return true;
}

void SetKeyBoxes(const MlaDecodeParams& params, TensorMaps* maps) {
  maps->key_rows = std::gcd(params.page_size, kBlockTokens);
  maps->key_boxes = kBlockTokens / maps->key_rows;
}

}  // namespace mla::cuda::sm90
