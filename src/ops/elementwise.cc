#include "ops/elementwise.h"

#include <cmath>

#include "mla/int8_latent.h"
#include "ops/shape_checks.h"

namespace mla {
namespace {

Status CheckF32(const ConstTensor& x, std::string_view what, std::initializer_list<int64_t> dims) {
  MLA_RETURN_IF_ERROR(CheckShape(x, what, dims));
  return CheckDType(x, what, {DType::kF32});
}

Status CheckRows(std::string_view op, std::span<const int32_t> rows, int64_t limit) {
  for (int32_t row : rows) {
    if (row < 0 || row >= limit) {
      return InvalidArgument(op, ": row ", row, " of an x of ", limit, " rows");
    }
  }
  return {};
}

}  // namespace

Status Validate(const EmbeddingArgs& args) {
  MLA_RETURN_IF_ERROR(CheckWeightMatrix(args.table, "embedding: table", {kAny, kAny}));
  const auto rows = static_cast<int64_t>(args.ids.size());
  for (int64_t i = 0; i < rows; ++i) {
    if (args.ids[i] < 0 || args.ids[i] >= args.table.dim(0)) {
      return InvalidArgument("token id ", args.ids[i], " at position ", i,
                             " is out of range, want 0 to ", args.table.dim(0) - 1);
    }
  }
  return CheckF32(args.y, "embedding: y", {rows, args.table.dim(1)});
}

Status Validate(const RmsNormArgs& args) {
  MLA_RETURN_IF_ERROR(CheckF32(args.x, "rms_norm: x", {kAny, kAny}));
  MLA_RETURN_IF_ERROR(CheckShape(args.w, "rms_norm: w", {args.x.dim(1)}));
  MLA_RETURN_IF_ERROR(CheckDType(args.w, "rms_norm: w", kFloatTypes));
  if (!std::isfinite(args.eps) || args.eps < 0) {
    return InvalidArgument("rms_norm: eps is ", args.eps, ", want a finite number >= 0");
  }
  return CheckF32(args.y, "rms_norm: y", {args.x.dim(0), args.x.dim(1)});
}

Status Validate(const LayerNormArgs& args) {
  MLA_RETURN_IF_ERROR(CheckF32(args.x, "layer_norm: x", {kAny, kAny}));
  MLA_RETURN_IF_ERROR(CheckShape(args.w, "layer_norm: w", {args.x.dim(1)}));
  MLA_RETURN_IF_ERROR(CheckDType(args.w, "layer_norm: w", kFloatTypes));
  MLA_RETURN_IF_ERROR(CheckShape(args.bias, "layer_norm: bias", {args.x.dim(1)}));
  MLA_RETURN_IF_ERROR(CheckDType(args.bias, "layer_norm: bias", kFloatTypes));
  if (!std::isfinite(args.eps) || args.eps < 0) {
    return InvalidArgument("layer_norm: eps is ", args.eps, ", want a finite number >= 0");
  }
  return CheckF32(args.y, "layer_norm: y", {args.x.dim(0), args.x.dim(1)});
}

Status Validate(const ScaleArgs& args) {
  MLA_RETURN_IF_ERROR(CheckF32(args.x, "scale: x", {kAny, kAny}));
  if (!std::isfinite(args.scale)) {
    return InvalidArgument("scale: scale is ", args.scale, ", want a finite number");
  }
  return CheckF32(args.y, "scale: y", {args.x.dim(0), args.x.dim(1)});
}

Status Validate(const RopeTableArgs& args) {
  return CheckF32(
      args.turns, "rope_table: turns",
      {static_cast<int64_t>(args.positions.size()), 2, static_cast<int64_t>(args.inv_freq.size())});
}

Status Validate(const RopeArgs& args) {
  MLA_RETURN_IF_ERROR(CheckF32(args.x, "rope: x", {kAny, kAny, kAny}));
  if (args.x.dim(2) % 2 != 0) {
    return InvalidArgument("rope: the last extent of x is ", args.x.dim(2),
                           ", want an even number");
  }
  MLA_RETURN_IF_ERROR(CheckF32(args.turns, "rope: turns", {args.x.dim(0), 2, args.x.dim(2) / 2}));
  return CheckF32(args.y, "rope: y", {args.x.dim(0), args.x.dim(1), args.x.dim(2)});
}

Status Validate(const SiluMulArgs& args) {
  MLA_RETURN_IF_ERROR(CheckF32(args.gate, "silu_mul: gate", {kAny, kAny}));
  MLA_RETURN_IF_ERROR(CheckF32(args.up, "silu_mul: up", {args.gate.dim(0), args.gate.dim(1)}));
  return CheckF32(args.y, "silu_mul: y", {args.gate.dim(0), args.gate.dim(1)});
}

Status Validate(const RouteArgs& args) {
  MLA_RETURN_IF_ERROR(CheckF32(args.logits, "route: logits", {kAny, kAny}));
  const int64_t experts = args.logits.dim(1);
  if (args.bias.present()) {
    MLA_RETURN_IF_ERROR(CheckShape(args.bias, "route: bias", {experts}));
    MLA_RETURN_IF_ERROR(CheckDType(args.bias, "route: bias", kFloatTypes));
  }
  if (args.num_groups < 1 || experts % args.num_groups != 0) {
    return InvalidArgument("route: num_groups is ", args.num_groups, ", want a divisor of ",
                           experts, " experts");
  }
  if (args.topk_groups < 1 || args.topk_groups > args.num_groups) {
    return InvalidArgument("route: topk_groups is ", args.topk_groups, ", want 1 to ",
                           args.num_groups);
  }
  const int64_t eligible = experts / args.num_groups * args.topk_groups;
  if (args.top_k < 1 || args.top_k > eligible) {
    return InvalidArgument("route: top_k is ", args.top_k, ", want 1 to the ", eligible,
                           " experts in the chosen groups");
  }
  const auto want = static_cast<size_t>(args.logits.dim(0) * args.top_k);
  if (args.experts.size() != want || args.weights.size() != want) {
    return InvalidArgument("route: outputs hold ", args.experts.size(), " experts and ",
                           args.weights.size(), " weights, want ", want);
  }
  return {};
}

Status Validate(const GatherRowsArgs& args) {
  MLA_RETURN_IF_ERROR(CheckF32(args.x, "gather_rows: x", {kAny, kAny}));
  MLA_RETURN_IF_ERROR(CheckRows("gather_rows", args.rows, args.x.dim(0)));
  return CheckF32(args.y, "gather_rows: y",
                  {static_cast<int64_t>(args.rows.size()), args.x.dim(1)});
}

Status Validate(const CombineExpertsArgs& args) {
  MLA_RETURN_IF_ERROR(CheckF32(args.x, "combine_experts: x", {kAny, kAny}));
  MLA_RETURN_IF_ERROR(CheckF32(args.y, "combine_experts: y", {kAny, args.x.dim(1)}));
  const auto tokens = static_cast<size_t>(args.y.dim(0));
  if (args.rows.size() != args.weights.size() ||
      (tokens == 0 ? !args.rows.empty() : args.rows.size() % tokens != 0)) {
    return InvalidArgument("combine_experts: ", args.rows.size(), " rows and ", args.weights.size(),
                           " weights for ", tokens, " tokens");
  }
  return CheckRows("combine_experts", args.rows, args.x.dim(0));
}

namespace {

// x and the cache of a CacheWrite to int8 latents.
Status ValidateInt8Write(const CacheWriteArgs& args) {
  const int64_t width = args.x.dim(1);
  if (args.column != 0) {
    return InvalidArgument("cache_write: column is ", args.column,
                           ", want 0: int8 latents are written whole");
  }
  if (args.kv_lora_rank < 1 || args.kv_lora_rank > width) {
    return InvalidArgument("cache_write: kv_lora_rank is ", args.kv_lora_rank, ", want 1 to ",
                           width, ", the width of x, for an i8 cache");
  }
  const Int8LatentLayout layout{args.kv_lora_rank, static_cast<int32_t>(width - args.kv_lora_rank)};
  if (args.cache.dim(1) != layout.bytes()) {
    return InvalidArgument("cache_write: cache has rows of ", args.cache.dim(1),
                           " bytes, an int8 latent of ", args.kv_lora_rank, " + ",
                           layout.qk_rope_head_dim, " numbers has ", layout.bytes());
  }
  return CheckInt8LatentRows(args.cache, "cache_write: cache");
}

}  // namespace

Status Validate(const CacheWriteArgs& args) {
  MLA_RETURN_IF_ERROR(CheckF32(args.x, "cache_write: x", {kAny, kAny}));
  MLA_RETURN_IF_ERROR(CheckShape(args.cache, "cache_write: cache", {kAny, kAny}));
  MLA_RETURN_IF_ERROR(CheckDType(args.cache, "cache_write: cache",
                                 {DType::kF32, DType::kF16, DType::kBF16, DType::kI8}));
  if (args.cache.dtype() == DType::kI8) {
    MLA_RETURN_IF_ERROR(ValidateInt8Write(args));
  } else if (args.column < 0 || args.column + args.x.dim(1) > args.cache.dim(1)) {
    return InvalidArgument("cache_write: columns ", args.column, " to ",
                           args.column + args.x.dim(1), " of a cache row of ", args.cache.dim(1));
  }
  if (static_cast<int64_t>(args.slots.size()) != args.x.dim(0)) {
    return InvalidArgument("cache_write: ", args.slots.size(), " slots for ", args.x.dim(0),
                           " rows");
  }
  for (int64_t slot : args.slots) {
    if (slot < 0 || slot >= args.cache.dim(0)) {
      return InvalidArgument("cache_write: slot ", slot, " of a cache of ", args.cache.dim(0));
    }
  }
  return {};
}

}  // namespace mla
