#include "mla/elementwise.h"

#include "dispatch/dispatch.h"
#include "kernels/cpu/elementwise.h"
#include "kernels/cpu/rows.h"
#include "kernels/reference/reference.h"
#include "ops/elementwise.h"

namespace mla {
namespace {

constexpr Kernel<RmsNormArgs> kRmsNorm[] = {
    {"cpu_simd", cpu::SimdRefusesRmsNorm, cpu::RunSimdRmsNorm},
    {"reference", NeverRefuses<RmsNormArgs>, reference::RmsNorm},
};

constexpr Kernel<SiluMulArgs> kSiluMul[] = {
    {"cpu_simd", cpu::SimdRefusesSiluMul, cpu::RunSimdSiluMul},
    {"reference", NeverRefuses<SiluMulArgs>, reference::SiluMul},
};

constexpr Kernel<EmbeddingArgs> kEmbedding[] = {
    {"cpu", cpu::RefusesEmbedding, cpu::RunEmbedding},
    {"reference", NeverRefuses<EmbeddingArgs>, reference::Embedding},
};

// Rows of an indexer's keys: too few numbers to be worth more than the reference.
constexpr Kernel<LayerNormArgs> kLayerNorm[] = {
    {"reference", NeverRefuses<LayerNormArgs>, reference::LayerNorm},
};

constexpr Kernel<ScaleArgs> kScale[] = {
    {"cpu", cpu::RefusesScale, cpu::RunScale},
    {"reference", NeverRefuses<ScaleArgs>, reference::Scale},
};

constexpr Kernel<RopeTableArgs> kRopeTable[] = {
    {"reference", NeverRefuses<RopeTableArgs>, reference::RopeTable},
};

constexpr Kernel<RopeArgs> kRope[] = {
    {"cpu", cpu::RefusesRope, cpu::RunRope},
    {"reference", NeverRefuses<RopeArgs>, reference::Rope},
};

constexpr Kernel<RouteArgs> kRoute[] = {
    {"reference", NeverRefuses<RouteArgs>, reference::Route},
};

constexpr Kernel<GatherRowsArgs> kGatherRows[] = {
    {"cpu", cpu::RefusesGatherRows, cpu::RunGatherRows},
    {"reference", NeverRefuses<GatherRowsArgs>, reference::GatherRows},
};

constexpr Kernel<CombineExpertsArgs> kCombineExperts[] = {
    {"cpu", cpu::RefusesCombineExperts, cpu::RunCombineExperts},
    {"reference", NeverRefuses<CombineExpertsArgs>, reference::CombineExperts},
};

constexpr Kernel<CacheWriteArgs> kCacheWrite[] = {
    {"cpu", cpu::RefusesCacheWrite, cpu::RunCacheWrite},
    {"reference", NeverRefuses<CacheWriteArgs>, reference::CacheWrite},
};

}  // namespace

Status Embedding(const EmbeddingArgs& args, const Context& context) {
  return Dispatch<EmbeddingArgs>("embedding", kEmbedding, args, context);
}
Status RmsNorm(const RmsNormArgs& args, const Context& context) {
  return Dispatch<RmsNormArgs>("rms_norm", kRmsNorm, args, context);
}
Status LayerNorm(const LayerNormArgs& args, const Context& context) {
  return Dispatch<LayerNormArgs>("layer_norm", kLayerNorm, args, context);
}
Status Scale(const ScaleArgs& args, const Context& context) {
  return Dispatch<ScaleArgs>("scale", kScale, args, context);
}
Status RopeTable(const RopeTableArgs& args, const Context& context) {
  return Dispatch<RopeTableArgs>("rope_table", kRopeTable, args, context);
}
Status Rope(const RopeArgs& args, const Context& context) {
  return Dispatch<RopeArgs>("rope", kRope, args, context);
}
Status SiluMul(const SiluMulArgs& args, const Context& context) {
  return Dispatch<SiluMulArgs>("silu_mul", kSiluMul, args, context);
}
Status Route(const RouteArgs& args, const Context& context) {
  return Dispatch<RouteArgs>("route", kRoute, args, context);
}
Status GatherRows(const GatherRowsArgs& args, const Context& context) {
  return Dispatch<GatherRowsArgs>("gather_rows", kGatherRows, args, context);
}
Status CombineExperts(const CombineExpertsArgs& args, const Context& context) {
  return Dispatch<CombineExpertsArgs>("combine_experts", kCombineExperts, args, context);
}
Status CacheWrite(const CacheWriteArgs& args, const Context& context) {
  return Dispatch<CacheWriteArgs>("cache_write", kCacheWrite, args, context);
}

}  // namespace mla
