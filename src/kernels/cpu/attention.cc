#include "kernels/cpu/attention.h"

#include "kernels/cpu/attention_driver.h"
#include "kernels/cpu/attention_latents.h"
#include "kernels/cpu/isa.h"

namespace mla::cpu {
namespace {

bool IsFloat(const ConstTensor& t) {
  return t.dtype() == DType::kF32 || t.dtype() == DType::kF16 || t.dtype() == DType::kBF16;
}
bool IsBf16OrInt8(const ConstTensor& t) {
  return t.dtype() == DType::kBF16 || t.dtype() == DType::kI8;
}
bool IsLatent(const ConstTensor& t) { return IsFloat(t) || t.dtype() == DType::kI8; }

// What both kernels ask of the tensors that every operator has.
std::string_view RefusesCommon(const ConstTensor& q, const ConstTensor& out) {
  if (q.device().type != DeviceType::kCpu) return "tensors must be in CPU memory";
  if (q.dtype() != DType::kF32) return "q must be f32";
  if (out.dtype() != DType::kF32) return "out must be f32";
  return {};
}

std::string_view RefusesAvx512Bf16(const Context& context) {
  if (!UsesAvx512Bf16()) return "needs AVX512_BF16";
  if (context.compute != ComputeMode::kBF16) return "compute must be bf16";
  return {};
}

CacheRows MakeCacheRows(const ConstTensor& cache) {
  const auto size = static_cast<int64_t>(SizeOf(cache.dtype()));
  return CacheRows{cache.as<char>(), cache.stride(0) * size, cache.stride(1) * size,
                   cache.rank() == 4 ? cache.stride(2) * size : 0, cache.dtype()};
}

template <typename Args>
AttentionProblem MakeProblem(const Args& args, int64_t kv_heads) {
  AttentionProblem problem;
  problem.q = args.q;
  problem.out = args.out;
  problem.lse = args.lse;
  problem.batch = args.batch;
  problem.heads = static_cast<int32_t>(args.q.dim(1));
  problem.kv_heads = static_cast<int32_t>(kv_heads);
  problem.d_k = static_cast<int32_t>(args.q.dim(2));
  problem.d_v = static_cast<int32_t>(args.out.dim(2));
  problem.scale = args.scale;
  problem.causal = args.causal;
  return problem;
}

CacheRows LatentsOf(const MlaAbsorbedArgs& args) {
  return MakeLatentRows(args.cache, args.kv_lora_rank, args.q.dim(2) - args.kv_lora_rank);
}

Status RunMlaExpanded(const TileKernels& kernels, const MlaExpandedArgs& args,
                      const Context& context) {
  LatentProjection projection;
  projection.w_uk = args.w_uk;
  projection.w_uv = args.w_uv;
  projection.kv_lora_rank = static_cast<int32_t>(args.w_uk.dim(2));
  projection.qk_rope_head_dim = static_cast<int32_t>(args.q.dim(2) - args.w_uk.dim(1));
  projection.latent =
      MakeLatentRows(args.cache, projection.kv_lora_rank, projection.qk_rope_head_dim);
  AttendExpanded(kernels, MakeProblem(args, args.q.dim(1)), projection, context);
  return {};
}

Status RunGqa(const TileKernels& kernels, const GqaArgs& args, const Context& context) {
  AttendPaged(kernels, MakeProblem(args, args.k_cache.dim(2)), MakeCacheRows(args.k_cache),
              MakeCacheRows(args.v_cache), context);
  return {};
}

TileKernels Simd(const Context& context) {
  return SimdTileKernels(context.compute == ComputeMode::kBF16);
}

}  // namespace

std::string_view SimdRefusesMlaAbsorbed(const MlaAbsorbedArgs& args, const Context&) {
  if (const auto refusal = RefusesCommon(args.q, args.out); !refusal.empty()) return refusal;
  if (!IsLatent(args.cache)) return "cache must be f32, f16, bf16 or i8";
  return {};
}

std::string_view SimdRefusesMlaExpanded(const MlaExpandedArgs& args, const Context&) {
  if (const auto refusal = RefusesCommon(args.q, args.out); !refusal.empty()) return refusal;
  if (!IsLatent(args.cache)) return "cache must be f32, f16, bf16 or i8";
  if (!IsFloat(args.w_uk) || !IsFloat(args.w_uv)) return "weights must be f32, f16 or bf16";
  return {};
}

std::string_view SimdRefusesGqa(const GqaArgs& args, const Context&) {
  if (const auto refusal = RefusesCommon(args.q, args.out); !refusal.empty()) return refusal;
  if (!IsFloat(args.k_cache) || !IsFloat(args.v_cache)) return "caches must be f32, f16 or bf16";
  return {};
}

Status RunSimdMlaAbsorbed(const MlaAbsorbedArgs& args, const Context& context) {
  const CacheRows latents = LatentsOf(args);
  AttendPaged(Simd(context), MakeProblem(args, 1), latents, latents, context);
  return {};
}

Status RunSimdMlaExpanded(const MlaExpandedArgs& args, const Context& context) {
  return RunMlaExpanded(Simd(context), args, context);
}

Status RunSimdGqa(const GqaArgs& args, const Context& context) {
  return RunGqa(Simd(context), args, context);
}

std::string_view Avx512Bf16RefusesMlaAbsorbed(const MlaAbsorbedArgs& args, const Context& context) {
  if (const auto refusal = RefusesAvx512Bf16(context); !refusal.empty()) return refusal;
  if (const auto refusal = RefusesCommon(args.q, args.out); !refusal.empty()) return refusal;
  if (!IsBf16OrInt8(args.cache)) return "cache must be bf16 or i8";
  return {};
}

std::string_view Avx512Bf16RefusesMlaExpanded(const MlaExpandedArgs& args, const Context& context) {
  if (const auto refusal = RefusesAvx512Bf16(context); !refusal.empty()) return refusal;
  if (const auto refusal = RefusesCommon(args.q, args.out); !refusal.empty()) return refusal;
  if (!IsBf16OrInt8(args.cache)) return "cache must be bf16 or i8";
  if (args.w_uk.dtype() != DType::kBF16 || args.w_uv.dtype() != DType::kBF16) {
    return "weights must be bf16";
  }
  return {};
}

std::string_view Avx512Bf16RefusesGqa(const GqaArgs& args, const Context& context) {
  if (const auto refusal = RefusesAvx512Bf16(context); !refusal.empty()) return refusal;
  if (const auto refusal = RefusesCommon(args.q, args.out); !refusal.empty()) return refusal;
  if (args.k_cache.dtype() != DType::kBF16 || args.v_cache.dtype() != DType::kBF16) {
    return "caches must be bf16";
  }
  return {};
}

Status RunAvx512Bf16MlaAbsorbed(const MlaAbsorbedArgs& args, const Context& context) {
  AttendLatentsInBf16(MakeProblem(args, 1), LatentsOf(args), context);
  return {};
}

Status RunAvx512Bf16MlaExpanded(const MlaExpandedArgs& args, const Context& context) {
  return RunMlaExpanded(Avx512Bf16TileKernels(), args, context);
}

Status RunAvx512Bf16Gqa(const GqaArgs& args, const Context& context) {
  return RunGqa(Avx512Bf16TileKernels(), args, context);
}

std::string_view AmxRefusesMlaAbsorbed(const MlaAbsorbedArgs& args, const Context& context) {
  if (!UsesAmxBf16()) return kNeedsAmxBf16;
  if (const auto refusal = RefusesAvx512Bf16(context); !refusal.empty()) return refusal;
  if (const auto refusal = RefusesCommon(args.q, args.out); !refusal.empty()) return refusal;
  if (args.cache.dtype() != DType::kBF16) return "cache must be bf16";
  return {};
}

std::string_view AmxRefusesMlaExpanded(const MlaExpandedArgs& args, const Context& context) {
  return UsesAmxBf16() ? Avx512Bf16RefusesMlaExpanded(args, context) : kNeedsAmxBf16;
}

std::string_view AmxRefusesGqa(const GqaArgs& args, const Context& context) {
  return UsesAmxBf16() ? Avx512Bf16RefusesGqa(args, context) : kNeedsAmxBf16;
}

Status RunAmxMlaAbsorbed(const MlaAbsorbedArgs& args, const Context& context) {
  AttendLatents(AmxLatentKernels(), MakeProblem(args, 1), LatentsOf(args), context);
  return {};
}

Status RunAmxMlaExpanded(const MlaExpandedArgs& args, const Context& context) {
  return RunMlaExpanded(AmxTileKernels(), args, context);
}

Status RunAmxGqa(const GqaArgs& args, const Context& context) {
  return RunGqa(AmxTileKernels(), args, context);
}

std::string_view Avx512VnniRefusesMlaAbsorbed(const MlaAbsorbedArgs& args, const Context& context) {
  if (!UsesAvx512Vnni()) return "needs AVX512_VNNI and AVX512_BF16";
  if (context.compute != ComputeMode::kBF16) return "compute must be bf16";
  if (const auto refusal = RefusesCommon(args.q, args.out); !refusal.empty()) return refusal;
  if (args.cache.dtype() != DType::kI8) return "cache must be i8";
  return {};
}

Status RunAvx512VnniMlaAbsorbed(const MlaAbsorbedArgs& args, const Context& context) {
  AttendLatents(Int8LatentKernels(), MakeProblem(args, 1), LatentsOf(args), context);
  return {};
}

}  // namespace mla::cpu
