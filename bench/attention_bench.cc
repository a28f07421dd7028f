// Attention at published MLA shapes against the multiply-add ceiling of this machine.
//
//   bench GFLOP/s = 2 heads n_q n_kv (d_k + d_v) / time; causal calls count every pair, as others
//   do, though a chunk at the end of a long cache skips next to none. Expanded calls also report
//   `total`, which counts the up-projection of keys and values.
//   GB/s = cached bytes, each read once, / time.
//   pct = share of the ceiling measured here with as many threads (BM_Ceiling).
// Rates are those of the fastest repetition: other processes can only make one slower.
#include <benchmark/benchmark.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdint>
#include <map>
#include <numeric>
#include <string>
#include <utility>
#include <vector>

#include "base/numeric.h"
#include "base/threads.h"
#include "base/workspace.h"
#include "kernels/cpu/attention_tile.h"
#include "kernels/cpu/isa.h"
#include "mla/attention.h"

namespace mla {
namespace {

constexpr int32_t kPageSize = 64;

enum Mode : int64_t { kSimdF32 = 0, kBf16 = 1 };

std::vector<uint16_t> RandomBf16(int64_t n, float scale) {
  std::vector<uint16_t> v(n);
  uint32_t state = 1;
  for (uint16_t& x : v) {
    state = state * 1664525u + 1013904223u;
    x = F32ToBf16((static_cast<float>(state >> 8) * 0x1p-23f - 1) * scale);
  }
  return v;
}

std::vector<float> RandomFloats(int64_t n) {
  std::vector<float> v(n);
  uint32_t state = 7;
  for (float& x : v) {
    state = state * 1664525u + 1013904223u;
    x = static_cast<float>(state >> 8) * 0x1p-23f - 1;
  }
  return v;
}

cpu::TileKernels KernelsFor(int64_t mode) {
  return mode == kBf16 && cpu::UsesAvx512Bf16() ? cpu::Avx512Bf16TileKernels()
                                                : cpu::SimdTileKernels(mode == kBf16);
}

// The tile product on operands that stay in the first-level cache: what the units can do through
// this code. Kept per (mode, threads) for the share that the other benchmarks report.
std::map<std::pair<int64_t, int64_t>, double>& Ceilings() {
  static std::map<std::pair<int64_t, int64_t>, double> ceilings;
  return ceilings;
}

void BM_Ceiling(benchmark::State& state) {
  const int64_t mode = state.range(0), threads = state.range(1);
  const cpu::TileKernels kernels = KernelsFor(mode);
  constexpr int32_t kRows = 12, kDepth = 128, kRepeats = 2000;
  struct Operands {
    char *a, *b;
    float* c;
  };
  ThreadPool pool(static_cast<int>(threads));
  Workspace workspace;
  std::vector<Operands> operands;
  for (int64_t t = 0; t < threads; ++t) {
    const Operands o = {workspace.Allocate<char>(kRows * kDepth * 4),
                        workspace.Allocate<char>(kDepth * kernels.panel_cols * 4),
                        workspace.Allocate<float>(kRows * kernels.panel_cols)};
    std::fill_n(o.a, kRows * kDepth * 4, 0);
    std::fill_n(o.b, kDepth * kernels.panel_cols * 4, 0);
    operands.push_back(o);
  }
  const int32_t steps = kDepth / kernels.step;
  double best_seconds = 1e9;
  for (auto _ : state) {
    const auto begin = std::chrono::steady_clock::now();
    pool.ParallelFor(threads, [&](int64_t t, int) {
      const Operands& o = operands[t];
      for (int i = 0; i < kRepeats; ++i) {
        kernels.multiply({o.a,
                          kDepth,
                          {o.b, steps, 0},
                          o.c,
                          kernels.panel_cols,
                          kRows,
                          kernels.panel_cols,
                          steps,
                          nullptr});
      }
    });
    const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - begin;
    best_seconds = std::min(best_seconds, seconds.count());
  }
  const double flops = 2.0 * threads * kRepeats * kRows * kDepth * kernels.panel_cols;
  double& best = Ceilings()[{mode, threads}];
  best = std::max(best, flops / best_seconds);
  state.counters["GFLOP/s"] = best / 1e9;
}

struct Shape {
  int32_t heads, rank, rope, d_n, d_v;  // d_n == 0: absorbed
};
constexpr Shape kShapes[] = {
    {16, 512, 64, 0, 512},    // 0: absorbed, DeepSeek-V2-Lite
    {128, 512, 64, 0, 512},   // 1: absorbed, DeepSeek-V2 and V3
    {16, 512, 64, 128, 128},  // 2: expanded
    {8, 64, 16, 0, 64},       // 3: absorbed, a small model
    {8, 64, 16, 32, 32},      // 4: expanded, a small model
};

// range: shape, query tokens, cached tokens, mode, threads.
void BM_Attention(benchmark::State& state) {
  const Shape& shape = kShapes[state.range(0)];
  const auto n_q = static_cast<int32_t>(state.range(1));
  const auto n_kv = static_cast<int32_t>(state.range(2));
  const int64_t mode = state.range(3);
  const int32_t latent_dim = shape.rank + shape.rope;
  const int32_t d_k = shape.d_n == 0 ? latent_dim : shape.d_n + shape.rope;
  const int64_t pages = CeilDiv(n_kv, kPageSize);
  const auto cache = RandomBf16(pages * kPageSize * latent_dim, 1);
  const auto w_uk = RandomBf16(int64_t{shape.heads} * shape.d_n * shape.rank, 0.05f);
  const auto w_uv = RandomBf16(int64_t{shape.heads} * shape.d_v * shape.rank, 0.05f);
  const auto q = RandomFloats(int64_t{n_q} * shape.heads * d_k);
  std::vector<float> out(int64_t{n_q} * shape.heads * shape.d_v), lse(n_q * shape.heads);
  std::vector<int32_t> table(pages);
  std::iota(table.begin(), table.end(), 0);
  const int32_t cu_q[] = {0, n_q};

  ThreadPool pool(static_cast<int>(state.range(4)));
  Workspace workspace;
  Context context;
  context.threads = &pool;
  context.workspace = &workspace;
  context.compute = mode == kBf16 ? ComputeMode::kBF16 : ComputeMode::kF32;
  const PagedBatch batch{1, cu_q, &n_kv, table.data(), pages, kPageSize};
  const ConstTensor q_view(q.data(), DType::kF32, {n_q, shape.heads, d_k});
  const ConstTensor cache_view(cache.data(), DType::kBF16, {pages, kPageSize, latent_dim});
  const Tensor out_view(out.data(), DType::kF32, {n_q, shape.heads, shape.d_v});
  const Tensor lse_view(lse.data(), DType::kF32, {n_q, shape.heads});
  const float scale = 1 / std::sqrt(static_cast<float>(d_k));
  const auto run = [&] {
    if (shape.d_n == 0) {
      return MlaAbsorbed({q_view, cache_view, batch, shape.rank, scale, true, out_view, lse_view},
                         context);
    }
    return MlaExpanded({q_view,
                        cache_view,
                        {w_uk.data(), DType::kBF16, {shape.heads, shape.d_n, shape.rank}},
                        {w_uv.data(), DType::kBF16, {shape.heads, shape.d_v, shape.rank}},
                        batch,
                        scale,
                        true,
                        out_view,
                        lse_view},
                       context);
  };
  double best = 1e9;
  for (auto _ : state) {
    const auto begin = std::chrono::steady_clock::now();
    if (const Status status = run(); !status.ok()) {
      state.SkipWithError(std::string(status.message()).c_str());
      return;
    }
    const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - begin;
    best = std::min(best, seconds.count());
  }
  const double attention = 2.0 * shape.heads * n_q * n_kv * (d_k + shape.d_v);
  const double projection =
      shape.d_n == 0 ? 0 : 2.0 * shape.heads * n_kv * shape.rank * (shape.d_n + shape.d_v);
  const double bytes = 2.0 * n_kv * latent_dim;
  const double ceiling = Ceilings()[{mode, state.range(4)}];
  state.counters["GFLOP/s"] = attention / best / 1e9;
  state.counters["total"] = (attention + projection) / best / 1e9;
  state.counters["GB/s"] = bytes / best / 1e9;
  if (ceiling > 0) state.counters["pct"] = 100 * (attention + projection) / best / ceiling;
}

void RegisterAll() {
  benchmark::RegisterBenchmark("ceiling", BM_Ceiling)
      ->ArgNames({"bf16", "threads"})
      ->ArgsProduct({{kSimdF32, kBf16}, {1, 2}})
      ->UseRealTime();
  const auto add = [](const char* name, std::vector<std::vector<int64_t>> ranges) {
    ranges.push_back({kSimdF32, kBf16});
    ranges.push_back({1, 2});
    benchmark::RegisterBenchmark(name, BM_Attention)
        ->ArgNames({"shape", "q", "kv", "bf16", "threads"})
        ->ArgsProduct(ranges)
        ->Unit(benchmark::kMillisecond)
        ->UseRealTime();
  };
  add("absorbed_decode", {{0, 1}, {1}, {2048, 8192, 32768}});
  add("absorbed_chunk", {{0}, {512}, {2048, 8192}});
  add("expanded_chunk", {{2}, {512}, {2048, 8192}});
  add("small_decode", {{3}, {1}, {50, 512}});
  add("small_prefill", {{3, 4}, {512}, {512}});
}

}  // namespace
}  // namespace mla

int main(int argc, char** argv) {
  benchmark::Initialize(&argc, argv);
  benchmark::AddCustomContext("isa", std::string(mla::cpu::CurrentIsa()));
  mla::RegisterAll();
  benchmark::RunSpecifiedBenchmarks();
  benchmark::Shutdown();
}
