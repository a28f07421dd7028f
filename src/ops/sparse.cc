#include "ops/sparse.h"

#include "ops/attention.h"
#include "ops/shape_checks.h"

namespace mla {
namespace {

// Every index of the batch's tokens lies in its sequence.
Status ValidateIndices(const MlaSparseArgs& args) {
  const int64_t top_k = args.indices.dim(1);
  for (int32_t s = 0; s < args.batch.num_seqs; ++s) {
    const SequenceSpan seq = GetSequence(args.batch, s);
    for (int64_t token = seq.q_begin; token < seq.q_begin + seq.q_len; ++token) {
      const int32_t* row = args.indices.as<int32_t>() + token * args.indices.stride(0);
      for (int64_t k = 0; k < top_k; ++k) {
        if (row[k] < -1 || row[k] >= seq.kv_len) {
          return InvalidArgument("mla_sparse: indices[", token, "][", k, "] is ", row[k],
                                 ", want -1 to ", seq.kv_len - 1, ", the last of sequence ", s);
        }
      }
    }
  }
  return {};
}

}  // namespace

Status Validate(const MlaIndexTopkArgs& args) {
  MLA_RETURN_IF_ERROR(CheckShape(args.q, "mla_index_topk: q", {kAny, kAny, kAny}));
  MLA_RETURN_IF_ERROR(CheckDType(args.q, "mla_index_topk: q", {DType::kF32}));
  MLA_RETURN_IF_ERROR(
      CheckShape(args.weights, "mla_index_topk: weights", {args.q.dim(0), args.q.dim(1)}));
  MLA_RETURN_IF_ERROR(CheckDType(args.weights, "mla_index_topk: weights", {DType::kF32}));
  MLA_RETURN_IF_ERROR(CheckShape(args.cache, "mla_index_topk: cache", {kAny, kAny, args.q.dim(2)}));
  MLA_RETURN_IF_ERROR(CheckDType(args.cache, "mla_index_topk: cache", kFloatTypes));
  if (args.top_k < 1) {
    return InvalidArgument("mla_index_topk: top_k is ", args.top_k, ", want 1 or more");
  }
  MLA_RETURN_IF_ERROR(
      CheckShape(args.indices, "mla_index_topk: indices", {args.q.dim(0), args.top_k}));
  MLA_RETURN_IF_ERROR(CheckDType(args.indices, "mla_index_topk: indices", {DType::kI32}));
  return ValidateBatch("mla_index_topk", args.batch, args.q.dim(0), args.cache);
}

Status Validate(const MlaSparseArgs& args) {
  MLA_RETURN_IF_ERROR(CheckShape(args.q, "mla_sparse: q", {kAny, kAny, kAny}));
  MLA_RETURN_IF_ERROR(CheckDType(args.q, "mla_sparse: q", kFloatTypes));
  const int64_t latent_dim = args.q.dim(2);
  MLA_RETURN_IF_ERROR(CheckShape(args.indices, "mla_sparse: indices", {args.q.dim(0), kAny}));
  MLA_RETURN_IF_ERROR(CheckDType(args.indices, "mla_sparse: indices", {DType::kI32}));
  if (args.kv_lora_rank < 1 || args.kv_lora_rank > latent_dim) {
    return InvalidArgument("mla_sparse: kv_lora_rank is ", args.kv_lora_rank, ", want 1 to ",
                           latent_dim, ", the last extent of q");
  }
  MLA_RETURN_IF_ERROR(ValidateLatentCache("mla_sparse", args.cache, args.kv_lora_rank,
                                          latent_dim - args.kv_lora_rank));
  MLA_RETURN_IF_ERROR(ValidateOutputs("mla_sparse", args.out, args.lse, args.q.dim(0),
                                      args.q.dim(1), args.kv_lora_rank));
  MLA_RETURN_IF_ERROR(ValidateScale("mla_sparse", args.scale));
  MLA_RETURN_IF_ERROR(ValidateBatch("mla_sparse", args.batch, args.q.dim(0), args.cache));
  return ValidateIndices(args);
}

}  // namespace mla
