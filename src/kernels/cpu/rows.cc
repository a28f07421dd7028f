#include "kernels/cpu/rows.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>

#include "base/numeric.h"
#include "base/threads.h"
#include "mla/int8_latent.h"
#include "tensor/quant_blocks.h"

namespace mla::cpu {
namespace {

// Runs row(i) for every row; on several threads if there is work enough to pay for waking them.
template <typename Fn>
void ForEachRow(const Context& context, int64_t rows, int64_t numbers_per_row, const Fn& row) {
  constexpr int64_t kNumbersPerTask = 16384;
  const int64_t rows_per_task =
      std::max<int64_t>(1, kNumbersPerTask / std::max<int64_t>(1, numbers_per_row));
  ParallelFor(context.threads, CeilDiv(rows, rows_per_task), [&](int64_t task, int) {
    const int64_t end = std::min(rows, (task + 1) * rows_per_task);
    for (int64_t i = task * rows_per_task; i < end; ++i) row(i);
  });
}

void NarrowRow(const float* from, int64_t count, DType dtype, void* to) {
  auto* halves = static_cast<uint16_t*>(to);
  switch (dtype) {
    case DType::kF32: std::memcpy(to, from, count * sizeof(float)); break;
    case DType::kF16:
      for (int64_t i = 0; i < count; ++i) halves[i] = F32ToF16(from[i]);
      break;
    case DType::kBF16:
      for (int64_t i = 0; i < count; ++i) halves[i] = F32ToBf16(from[i]);
      break;
    default: break;  // not a cache type: validation refuses it
  }
}

// An int8 latent, as mla/int8_latent.h says. Loops that compilers turn into vectors.
void QuantiseLatent(const Int8LatentLayout& layout, const float* from, char* to) {
  std::memset(to, 0, layout.bytes());
  for (int32_t g = 0; g < layout.groups(); ++g) {
    const int32_t begin = g * Int8LatentLayout::kGroup;
    const int32_t count = std::min(Int8LatentLayout::kGroup, layout.kv_lora_rank - begin);
    const float* x = from + begin;
    // Magnitudes in the order of their bits, in which infinities and NaNs are the greatest.
    int32_t bits = 0;
    for (int32_t i = 0; i < count; ++i) {
      bits = std::max(bits, std::bit_cast<int32_t>(x[i]) & 0x7fffffff);
    }
    const auto most = std::bit_cast<float>(bits);
    float scale = most < Int8LatentLayout::kLeastMagnitude ? 0 : most / 127;
    if (!std::isfinite(most)) scale = std::numeric_limits<float>::quiet_NaN();
    std::memcpy(to + layout.scales_offset() + sizeof(float) * g, &scale, sizeof(scale));
    if (!(scale > 0)) continue;
    const float inverse = 127 / most;
    // Products in a loop of their own: fused with the sums below they would not be rounded.
    float scaled[Int8LatentLayout::kGroup];
    for (int32_t i = 0; i < count; ++i) scaled[i] = x[i] * inverse;
    // Adding 1.5 * 2^23 leaves the nearest integer, ties to even, in the low bits.
    constexpr float kRound = 0x1.8p23F;
    for (int32_t i = 0; i < count; ++i) {
      to[begin + i] = static_cast<char>(std::bit_cast<int32_t>(scaled[i] + kRound));
    }
  }
  NarrowRow(from + layout.kv_lora_rank, layout.qk_rope_head_dim, DType::kBF16,
            to + layout.rope_offset());
}

const void* RowOf(const ConstTensor& t, int64_t row) {
  return static_cast<const char*>(t.data()) +
         row * t.stride(0) * static_cast<int64_t>(SizeOf(t.dtype()));
}

}  // namespace

std::string_view RefusesEmbedding(const EmbeddingArgs&, const Context&) { return {}; }

Status RunEmbedding(const EmbeddingArgs& args, const Context& context) {
  const int64_t dim = args.table.dim(1);
  ForEachRow(context, static_cast<int64_t>(args.ids.size()), dim, [&](int64_t i) {
    DequantiseMatrixRow(args.table, args.ids[i], 0, dim, args.y.as<float>() + i * args.y.stride(0));
  });
  return {};
}

std::string_view RefusesScale(const ScaleArgs&, const Context&) { return {}; }

Status RunScale(const ScaleArgs& args, const Context& context) {
  const int64_t dim = args.x.dim(1);
  ForEachRow(context, args.x.dim(0), dim, [&](int64_t i) {
    const auto* x = static_cast<const float*>(RowOf(args.x, i));
    float* y = args.y.as<float>() + i * args.y.stride(0);
    if (args.accumulate) {
      for (int64_t d = 0; d < dim; ++d) y[d] += args.scale * x[d];
    } else {
      for (int64_t d = 0; d < dim; ++d) y[d] = args.scale * x[d];
    }
  });
  return {};
}

std::string_view RefusesRope(const RopeArgs&, const Context&) { return {}; }

Status RunRope(const RopeArgs& args, const Context& context) {
  const int64_t heads = args.x.dim(1);
  const int64_t pairs = args.x.dim(2) / 2;
  // Pair p is the elements p * step and p * step + other.
  const int64_t step = args.pairing == RopePairing::kHalves ? 1 : 2;
  const int64_t other = args.pairing == RopePairing::kHalves ? pairs : 1;
  ForEachRow(context, args.x.dim(0), heads * args.x.dim(2), [&](int64_t row) {
    const float* cos = args.turns.as<float>() + row * args.turns.stride(0);
    const float* sin = cos + args.turns.stride(1);
    for (int64_t head = 0; head < heads; ++head) {
      const float* x = args.x.as<float>() + row * args.x.stride(0) + head * args.x.stride(1);
      float* y = args.y.as<float>() + row * args.y.stride(0) + head * args.y.stride(1);
      for (int64_t p = 0; p < pairs; ++p) {
        const float a = x[p * step];
        const float b = x[p * step + other];
        y[p * step] = a * cos[p] - b * sin[p];
        y[p * step + other] = b * cos[p] + a * sin[p];
      }
    }
  });
  return {};
}

std::string_view RefusesGatherRows(const GatherRowsArgs&, const Context&) { return {}; }

Status RunGatherRows(const GatherRowsArgs& args, const Context& context) {
  const int64_t dim = args.x.dim(1);
  ForEachRow(context, static_cast<int64_t>(args.rows.size()), dim, [&](int64_t i) {
    std::memcpy(args.y.as<float>() + i * args.y.stride(0), RowOf(args.x, args.rows[i]),
                dim * sizeof(float));
  });
  return {};
}

std::string_view RefusesCombineExperts(const CombineExpertsArgs&, const Context&) { return {}; }

Status RunCombineExperts(const CombineExpertsArgs& args, const Context& context) {
  const int64_t tokens = args.y.dim(0);
  const int64_t dim = args.y.dim(1);
  const int64_t top_k = tokens == 0 ? 0 : static_cast<int64_t>(args.rows.size()) / tokens;
  ForEachRow(context, tokens, dim * top_k, [&](int64_t t) {
    float* y = args.y.as<float>() + t * args.y.stride(0);
    for (int64_t k = 0; k < top_k; ++k) {
      const float weight = args.weights[t * top_k + k];
      const auto* x = static_cast<const float*>(RowOf(args.x, args.rows[t * top_k + k]));
      for (int64_t d = 0; d < dim; ++d) y[d] += weight * x[d];
    }
  });
  return {};
}

std::string_view RefusesCacheWrite(const CacheWriteArgs&, const Context&) { return {}; }

Status RunCacheWrite(const CacheWriteArgs& args, const Context& context) {
  const int64_t width = args.x.dim(1);
  if (args.cache.dtype() == DType::kI8) {
    const Int8LatentLayout layout{args.kv_lora_rank,
                                  static_cast<int32_t>(width - args.kv_lora_rank)};
    ForEachRow(context, args.x.dim(0), width, [&](int64_t i) {
      QuantiseLatent(layout, static_cast<const float*>(RowOf(args.x, i)),
                     args.cache.as<char>() + args.slots[i] * args.cache.stride(0));
    });
    return {};
  }
  const auto size = static_cast<int64_t>(SizeOf(args.cache.dtype()));
  ForEachRow(context, args.x.dim(0), width, [&](int64_t i) {
    char* row = static_cast<char*>(args.cache.data()) +
                (args.slots[i] * args.cache.stride(0) + args.column) * size;
    NarrowRow(static_cast<const float*>(RowOf(args.x, i)), width, args.cache.dtype(), row);
  });
  return {};
}

}  // namespace mla::cpu
