#include "ops/mla_decode.h"

#include <cmath>
#include <cstdint>
#include <limits>
#include <string>
#include <string_view>

#include "base/numeric.h"
#include "mla/attention.h"
#include "ops/shape_checks.h"

namespace mla {
namespace {

constexpr std::string_view kOp = "mla_decode";
constexpr int64_t kMemoryAlignment = 256;
constexpr int64_t kFp8RowAlignment = 16;

ArgName Field(std::string_view name) { return {kOp, name}; }

Status ValidateQuery(const ConstTensor& q) {
  MLA_RETURN_IF_ERROR(CheckShape(q, Field("q"), {kAny, kAny, kAny, kAny}));
  MLA_RETURN_IF_ERROR(CheckDType(q, Field("q"), {DType::kBF16, DType::kF16}));
  for (int axis = 1; axis < 4; ++axis) {
    if (q.dim(axis) < 1) {
      return InvalidArgument(kOp, ": q has shape ", q.ShapeString(), ", want no 0 but num_seqs");
    }
  }
  // Rows and sequences are counted in 32 bits on the device.
  constexpr int64_t kMost = std::numeric_limits<int32_t>::max() / 4;
  const auto rows = CheckedMul(q.dim(1), q.dim(2));
  if (!rows || *rows > kMost || q.dim(0) > kMost || q.dim(3) > kMost) {
    return InvalidArgument(kOp, ": q has shape ", q.ShapeString(), ", want num_seqs, s_q * heads ",
                           "and d_k of at most ", kMost);
  }
  return {};
}

// The pages of a cache of rows of d_k, of `dtype`; or of FP8 latents.
Status ValidateCache(std::string_view op, const ConstTensor& cache, int64_t rank, int64_t rope,
                     std::initializer_list<DType> dtypes) {
  const ArgName field(op, "cache");
  if (cache.dtype() == DType::kF8E4M3) {
    if (rank != cuda::kFp8LatentRank || rope != cuda::kFp8LatentRope) {
      return InvalidArgument(field, " is an FP8 latent, of kv_lora_rank ", cuda::kFp8LatentRank,
                             " and qk_rope_head_dim ", cuda::kFp8LatentRope, "; the call has ",
                             rank, " and ", rope);
    }
    MLA_RETURN_IF_ERROR(CheckShape(cache, field, {kAny, kAny, cuda::kFp8LatentBytes}));
    const auto address = reinterpret_cast<uintptr_t>(cache.data());
    for (const int64_t bytes : {static_cast<int64_t>(address), cache.stride(0), cache.stride(1)}) {
      if (bytes % kFp8RowAlignment != 0) {
        return InvalidArgument(field, " is an FP8 latent with an address or stride of ", bytes,
                               " bytes, want multiples of ", kFp8RowAlignment);
      }
    }
  } else {
    MLA_RETURN_IF_ERROR(CheckShape(cache, field, {kAny, kAny, rank + rope}));
    MLA_RETURN_IF_ERROR(CheckDType(cache, field, dtypes));
  }
  if (cache.dim(1) < 1 || cache.dim(1) > kMaxPageSize) {
    return InvalidArgument(op, ": cache pages hold ", cache.dim(1), " tokens, want 1 to ",
                           kMaxPageSize);
  }
  if (cache.dim(0) > std::numeric_limits<int32_t>::max()) {
    return InvalidArgument(op, ": cache has ", cache.dim(0), " pages, want at most 2^31 - 1");
  }
  return {};
}

Status CheckOnDevice(std::string_view op, std::initializer_list<ConstTensor> tensors) {
  for (const ConstTensor& tensor : tensors) {
    if (tensor.present() && tensor.device().type != DeviceType::kCuda) {
      return InvalidArgument(op, ": a tensor of shape ", tensor.ShapeString(),
                             " is on the CPU, want all of them on a CUDA device");
    }
  }
  return {};
}

Status CheckMemory(const void* memory, std::string_view name) {
  if (memory == nullptr) return InvalidArgument(kOp, ": ", name, " is null");
  const auto address = reinterpret_cast<uintptr_t>(memory);
  if (address % kMemoryAlignment != 0) {
    return InvalidArgument(kOp, ": ", name, " lies at ", memory, ", want a multiple of ",
                           kMemoryAlignment, " bytes");
  }
  return {};
}

}  // namespace

Status ValidateShapes(const cuda::MlaDecodeArgs& args) {
  MLA_RETURN_IF_ERROR(ValidateQuery(args.q));
  const int64_t num_seqs = args.q.dim(0), s_q = args.q.dim(1), heads = args.q.dim(2);
  const int64_t d_k = args.q.dim(3);
  if (args.kv_lora_rank < 1 || args.kv_lora_rank > d_k) {
    return InvalidArgument(kOp, ": kv_lora_rank is ", args.kv_lora_rank, ", want 1 to ", d_k,
                           ", the last extent of q");
  }
  MLA_RETURN_IF_ERROR(
      ValidateCache(kOp, args.cache, args.kv_lora_rank, d_k - args.kv_lora_rank, {args.q.dtype()}));
  MLA_RETURN_IF_ERROR(
      CheckShape(args.out, Field("out"), {num_seqs, s_q, heads, args.kv_lora_rank}));
  MLA_RETURN_IF_ERROR(CheckDType(args.out, Field("out"), {args.q.dtype()}));
  if (args.lse.present()) {
    MLA_RETURN_IF_ERROR(CheckShapeAnyStride(args.lse, Field("lse"), {num_seqs, s_q, heads}));
    MLA_RETURN_IF_ERROR(CheckDType(args.lse, Field("lse"), {DType::kF32}));
  }
  MLA_RETURN_IF_ERROR(CheckOnDevice(kOp, {args.q, args.cache, args.out, args.lse}));
  if (num_seqs > 0 && (args.kv_lens == nullptr || args.page_table == nullptr)) {
    return InvalidArgument(kOp, ": kv_lens or page_table is null");
  }
  if (args.page_table_stride < 0 ||
      args.page_table_stride > std::numeric_limits<int32_t>::max() / kMaxPageSize) {
    return InvalidArgument(kOp, ": page_table_stride is ", args.page_table_stride, ", want 0 to ",
                           std::numeric_limits<int32_t>::max() / kMaxPageSize);
  }
  if (!std::isfinite(args.scale) || args.scale <= 0) {
    return InvalidArgument(kOp, ": scale is ", args.scale, ", want a finite number > 0");
  }
  return {};
}

Status Validate(const cuda::MlaDecodeArgs& args) {
  MLA_RETURN_IF_ERROR(ValidateShapes(args));
  MLA_RETURN_IF_ERROR(CheckMemory(args.schedule, "schedule"));
  return CheckMemory(args.workspace, "workspace");
}

Status Validate(const cuda::MlaAppendArgs& args) {
  constexpr std::string_view kAppend = "mla_append";
  MLA_RETURN_IF_ERROR(CheckShape(args.c_kv, "mla_append: c_kv", {kAny, kAny}));
  MLA_RETURN_IF_ERROR(CheckDType(args.c_kv, "mla_append: c_kv", kFloatTypes));
  const int64_t tokens = args.c_kv.dim(0), rank = args.c_kv.dim(1);
  MLA_RETURN_IF_ERROR(CheckShape(args.k_pe, "mla_append: k_pe", {tokens, kAny}));
  MLA_RETURN_IF_ERROR(CheckDType(args.k_pe, "mla_append: k_pe", {args.c_kv.dtype()}));
  const int64_t rope = args.k_pe.dim(1);
  if (rank < 1 || rope % 2 != 0) {
    return InvalidArgument(kAppend, ": c_kv has shape ", args.c_kv.ShapeString(), " and k_pe ",
                           args.k_pe.ShapeString(), ", want a rank of at least 1 and an even rope");
  }
  if (args.q_pe.present()) {
    MLA_RETURN_IF_ERROR(CheckShape(args.q_pe, "mla_append: q_pe", {tokens, kAny, rope}));
    MLA_RETURN_IF_ERROR(CheckDType(args.q_pe, "mla_append: q_pe", {args.c_kv.dtype()}));
  }
  MLA_RETURN_IF_ERROR(ValidateCache(kAppend, args.cache, rank, rope, {DType::kBF16, DType::kF16}));
  MLA_RETURN_IF_ERROR(
      CheckOnDevice(kAppend, {args.c_kv, args.k_pe, ConstTensor(args.q_pe), args.cache}));
  if (tokens > 0 && (args.positions == nullptr || args.slots == nullptr ||
                     (rope > 0 && args.inv_freq == nullptr))) {
    return InvalidArgument(kAppend, ": positions, slots or inv_freq is null");
  }
  if (!std::isfinite(args.magnitude)) {
    return InvalidArgument(kAppend, ": magnitude is ", args.magnitude, ", want a finite number");
  }
  return {};
}

Status Validate(const cuda::HeadLinearArgs& args) {
  constexpr std::string_view kHeadLinear = "head_linear";
  MLA_RETURN_IF_ERROR(CheckShape(args.x, "head_linear: x", {kAny, kAny, kAny}));
  MLA_RETURN_IF_ERROR(CheckDType(args.x, "head_linear: x", {DType::kBF16, DType::kF16}));
  const int64_t tokens = args.x.dim(0), heads = args.x.dim(1), in = args.x.dim(2);
  MLA_RETURN_IF_ERROR(CheckShapeAnyStride(args.w, "head_linear: w", {heads, kAny, in}));
  MLA_RETURN_IF_ERROR(CheckDType(args.w, "head_linear: w", {args.x.dtype()}));
  if (args.w.stride(1) != 1 && args.w.stride(2) != 1) {
    return InvalidArgument(kHeadLinear, ": w has inner strides ", args.w.stride(1), " and ",
                           args.w.stride(2), ", want one of them 1");
  }
  MLA_RETURN_IF_ERROR(CheckShape(args.y, "head_linear: y", {tokens, heads, args.w.dim(1)}));
  MLA_RETURN_IF_ERROR(CheckDType(args.y, "head_linear: y", {args.x.dtype()}));
  constexpr int64_t kMost = std::numeric_limits<int32_t>::max() / 4;
  if (tokens > kMost || heads > 65535 || in > kMost || args.w.dim(1) > kMost) {
    return InvalidArgument(kHeadLinear, ": x has shape ", args.x.ShapeString(), " and w ",
                           args.w.ShapeString(), ", want at most 65535 heads and ", kMost,
                           " of the rest");
  }
  return CheckOnDevice(kHeadLinear, {args.x, args.w, args.y});
}

}  // namespace mla
