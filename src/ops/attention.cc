#include "ops/attention.h"

#include <cmath>
#include <string>
#include <string_view>

#include "base/numeric.h"
#include "mla/int8_latent.h"
#include "ops/shape_checks.h"

namespace mla {
namespace {

Status ValidateSequence(std::string_view op, const PagedBatch& batch, int32_t s, int64_t tokens,
                        int64_t num_pages) {
  const int32_t begin = batch.cu_q[s];
  const int32_t end = batch.cu_q[s + 1];
  if (begin < 0 || end < begin || end > tokens) {
    return InvalidArgument(op, ": cu_q gives sequence ", s, " the query tokens ", begin, " to ",
                           end, " of ", tokens);
  }
  const int32_t kv_len = batch.kv_lens[s];
  if (kv_len < 0) return InvalidArgument(op, ": kv_lens[", s, "] is ", kv_len, ", want >= 0");
  const int64_t pages = CeilDiv(kv_len, batch.page_size);
  if (pages > batch.page_table_stride) {
    return InvalidArgument(op, ": kv_lens[", s, "] is ", kv_len, ", which needs ", pages,
                           " pages of ", batch.page_size, "; page_table_stride is ",
                           batch.page_table_stride);
  }
  const int32_t* row = batch.page_table + s * batch.page_table_stride;
  for (int64_t i = 0; i < pages; ++i) {
    if (row[i] < 0 || row[i] >= num_pages) {
      return InvalidArgument(op, ": page_table[", s, "][", i, "] is ", row[i], ", the cache has ",
                             num_pages, " pages");
    }
  }
  return {};
}

// kv_b_proj's views: [heads, rows, rank] with one inner stride of 1.
Status ValidateUpProjection(const ArgName& what, const ConstTensor& w, int64_t heads,
                            int64_t rank) {
  MLA_RETURN_IF_ERROR(CheckShapeAnyStride(w, what, {heads, kAny, rank}));
  MLA_RETURN_IF_ERROR(CheckDType(w, what, kFloatTypes));
  if (w.dim(1) < 1) return InvalidArgument(what, " has shape ", w.ShapeString(), ", want no 0");
  if (w.stride(1) != 1 && w.stride(2) != 1) {
    return InvalidArgument(what, " has inner strides ", w.stride(1), " and ", w.stride(2),
                           ", want one of them 1");
  }
  return {};
}

}  // namespace

Status ValidateBatch(std::string_view op, const PagedBatch& batch, int64_t tokens,
                     const ConstTensor& cache) {
  if (batch.num_seqs < 0) {
    return InvalidArgument(op, ": num_seqs is ", batch.num_seqs, ", want >= 0");
  }
  if (batch.page_size < 1 || batch.page_size > kMaxPageSize) {
    return InvalidArgument(op, ": page_size is ", batch.page_size, ", want 1 to ", kMaxPageSize);
  }
  if (cache.dim(1) != batch.page_size) {
    return InvalidArgument(op, ": cache pages hold ", cache.dim(1), " tokens, page_size is ",
                           batch.page_size);
  }
  if (batch.num_seqs == 0) return {};
  if (batch.cu_q == nullptr || batch.kv_lens == nullptr) {
    return InvalidArgument(op, ": cu_q or kv_lens is null");
  }
  if (batch.page_table == nullptr && batch.page_table_stride > 0) {
    return InvalidArgument(op, ": page_table is null, page_table_stride is ",
                           batch.page_table_stride);
  }
  for (int32_t s = 0; s < batch.num_seqs; ++s) {
    MLA_RETURN_IF_ERROR(ValidateSequence(op, batch, s, tokens, cache.dim(0)));
  }
  return {};
}

Status ValidateScale(std::string_view op, float scale) {
  if (!std::isfinite(scale) || scale <= 0) {
    return InvalidArgument(op, ": scale is ", scale, ", want a finite number > 0");
  }
  return {};
}

Status ValidateLatentCache(std::string_view op, const ConstTensor& cache, int64_t rank,
                           int64_t rope) {
  const ArgName what(op, "cache");
  if (cache.dtype() != DType::kI8) {
    MLA_RETURN_IF_ERROR(CheckShape(cache, what, {kAny, kAny, rank + rope}));
    if (cache.dtype() == DType::kF32 || cache.dtype() == DType::kF16 ||
        cache.dtype() == DType::kBF16) {
      return {};
    }
    return InvalidArgument(what, " is ", DTypeName(cache.dtype()),
                           ", want f32, f16, bf16, or i8 for int8 latents");
  }
  const Int8LatentLayout layout{static_cast<int32_t>(rank), static_cast<int32_t>(rope)};
  MLA_RETURN_IF_ERROR(CheckShape(cache, what, {kAny, kAny, kAny}));
  if (cache.dim(2) != layout.bytes()) {
    return InvalidArgument(what, " has rows of ", cache.dim(2), " bytes, an int8 latent of ", rank,
                           " + ", rope, " numbers has ", layout.bytes());
  }
  return CheckInt8LatentRows(cache, what);
}

Status ValidateOutputs(std::string_view op, const Tensor& out, const Tensor& lse, int64_t tokens,
                       int64_t heads, int64_t d_v) {
  MLA_RETURN_IF_ERROR(CheckShape(out, ArgName(op, "out"), {tokens, heads, d_v}));
  MLA_RETURN_IF_ERROR(CheckDType(out, ArgName(op, "out"), kFloatTypes));
  if (lse.present()) {
    MLA_RETURN_IF_ERROR(CheckShape(lse, ArgName(op, "lse"), {tokens, heads}));
    MLA_RETURN_IF_ERROR(CheckDType(lse, ArgName(op, "lse"), {DType::kF32}));
  }
  return {};
}

Status Validate(const MlaAbsorbedArgs& args) {
  constexpr std::string_view kOp = "mla_absorbed";
  MLA_RETURN_IF_ERROR(CheckShape(args.q, ArgName(kOp, "q"), {kAny, kAny, kAny}));
  MLA_RETURN_IF_ERROR(CheckDType(args.q, ArgName(kOp, "q"), kFloatTypes));
  const int64_t latent_dim = args.q.dim(2);
  if (args.kv_lora_rank < 1 || args.kv_lora_rank > latent_dim) {
    return InvalidArgument(kOp, ": kv_lora_rank is ", args.kv_lora_rank, ", want 1 to ", latent_dim,
                           ", the last extent of q");
  }
  MLA_RETURN_IF_ERROR(
      ValidateLatentCache(kOp, args.cache, args.kv_lora_rank, latent_dim - args.kv_lora_rank));
  MLA_RETURN_IF_ERROR(
      ValidateOutputs(kOp, args.out, args.lse, args.q.dim(0), args.q.dim(1), args.kv_lora_rank));
  MLA_RETURN_IF_ERROR(ValidateScale(kOp, args.scale));
  return ValidateBatch(kOp, args.batch, args.q.dim(0), args.cache);
}

Status Validate(const MlaExpandedArgs& args) {
  constexpr std::string_view kOp = "mla_expanded";
  MLA_RETURN_IF_ERROR(CheckShape(args.q, ArgName(kOp, "q"), {kAny, kAny, kAny}));
  MLA_RETURN_IF_ERROR(CheckDType(args.q, ArgName(kOp, "q"), kFloatTypes));
  if (args.w_uk.rank() != 3) {
    return InvalidArgument(kOp, ": w_uk has rank ", args.w_uk.rank(), ", want 3");
  }
  const int64_t heads = args.q.dim(1);
  const int64_t rank = args.w_uk.dim(2);
  MLA_RETURN_IF_ERROR(ValidateUpProjection(ArgName(kOp, "w_uk"), args.w_uk, heads, rank));
  MLA_RETURN_IF_ERROR(ValidateUpProjection(ArgName(kOp, "w_uv"), args.w_uv, heads, rank));
  if (args.w_uk.dtype() != args.w_uv.dtype()) {
    return InvalidArgument(kOp, ": w_uk is ", DTypeName(args.w_uk.dtype()), " and w_uv is ",
                           DTypeName(args.w_uv.dtype()), ", want one dtype");
  }
  const int64_t rope = args.q.dim(2) - args.w_uk.dim(1);
  if (rope < 0 || rank < 1) {
    return InvalidArgument(kOp, ": q's last extent ", args.q.dim(2), " and w_uk ",
                           args.w_uk.ShapeString(), " ask for a cache row of ", rank, " + ", rope,
                           " numbers");
  }
  MLA_RETURN_IF_ERROR(ValidateLatentCache(kOp, args.cache, rank, rope));
  MLA_RETURN_IF_ERROR(
      ValidateOutputs(kOp, args.out, args.lse, args.q.dim(0), heads, args.w_uv.dim(1)));
  MLA_RETURN_IF_ERROR(ValidateScale(kOp, args.scale));
  return ValidateBatch(kOp, args.batch, args.q.dim(0), args.cache);
}

Status Validate(const GqaArgs& args) {
  constexpr std::string_view kOp = "gqa";
  MLA_RETURN_IF_ERROR(CheckShape(args.q, ArgName(kOp, "q"), {kAny, kAny, kAny}));
  MLA_RETURN_IF_ERROR(CheckDType(args.q, ArgName(kOp, "q"), kFloatTypes));
  MLA_RETURN_IF_ERROR(
      CheckShape(args.k_cache, ArgName(kOp, "k_cache"), {kAny, kAny, kAny, args.q.dim(2)}));
  MLA_RETURN_IF_ERROR(CheckDType(args.k_cache, ArgName(kOp, "k_cache"), kFloatTypes));
  const int64_t kv_heads = args.k_cache.dim(2);
  MLA_RETURN_IF_ERROR(CheckShape(args.v_cache, ArgName(kOp, "v_cache"),
                                 {args.k_cache.dim(0), args.k_cache.dim(1), kv_heads, kAny}));
  MLA_RETURN_IF_ERROR(CheckDType(args.v_cache, ArgName(kOp, "v_cache"), {args.k_cache.dtype()}));
  if (args.q.dim(2) < 1 || args.v_cache.dim(3) < 1) {
    return InvalidArgument(kOp, ": d_k is ", args.q.dim(2), " and d_v is ", args.v_cache.dim(3),
                           ", want 1 or more");
  }
  if (kv_heads < 1 || args.q.dim(1) % kv_heads != 0) {
    return InvalidArgument(kOp, ": ", args.q.dim(1), " heads are not a multiple of ", kv_heads,
                           " kv_heads");
  }
  MLA_RETURN_IF_ERROR(
      ValidateOutputs(kOp, args.out, args.lse, args.q.dim(0), args.q.dim(1), args.v_cache.dim(3)));
  MLA_RETURN_IF_ERROR(ValidateScale(kOp, args.scale));
  return ValidateBatch(kOp, args.batch, args.q.dim(0), args.k_cache);
}

Status Validate(const MergeArgs& args) {
  constexpr std::string_view kOp = "merge_partials";
  MLA_RETURN_IF_ERROR(
      CheckShape(args.part_out, ArgName(kOp, "part_out"), {kAny, kAny, kAny, kAny}));
  MLA_RETURN_IF_ERROR(CheckDType(args.part_out, ArgName(kOp, "part_out"), {DType::kF32}));
  MLA_RETURN_IF_ERROR(
      CheckShape(args.part_lse, ArgName(kOp, "part_lse"),
                 {args.part_out.dim(0), args.part_out.dim(1), args.part_out.dim(2)}));
  MLA_RETURN_IF_ERROR(CheckDType(args.part_lse, ArgName(kOp, "part_lse"), {DType::kF32}));
  return ValidateOutputs(kOp, args.out, args.lse, args.part_out.dim(1), args.part_out.dim(2),
                         args.part_out.dim(3));
}

}  // namespace mla
