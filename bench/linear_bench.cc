// Matrix products of the models against what the machine can do: GB/s of weights for one row (a
// decode step), GFLOP/s for many (prefill). Weights are rotated through a buffer larger than the
// caches where the name says `cold`.
//
//   linear_bench --benchmark_filter=Linear/bf16
#include <benchmark/benchmark.h>

#include <algorithm>
#include <cstdint>
#include <random>
#include <vector>

#include "base/numeric.h"
#include "base/threads.h"
#include "base/workspace.h"
#include "kernels/cpu/isa.h"
#include "mla/linear.h"

namespace mla {
namespace {

std::vector<float> RandomFloats(int64_t count) {
  std::vector<float> values(count);
  uint32_t state = 1;
  for (float& value : values) {
    state = state * 1664525u + 1013904223u;
    value = static_cast<float>(static_cast<int32_t>(state)) * 0x1p-31f;
  }
  return values;
}

std::vector<uint16_t> RandomBf16(int64_t count) {
  std::vector<uint16_t> values(count);
  uint32_t state = 1;
  for (uint16_t& value : values) {
    state = state * 1664525u + 1013904223u;
    value = F32ToBf16(static_cast<float>(static_cast<int32_t>(state)) * 0x1p-31f);
  }
  return values;
}

// Copies of a weight that together do not fit the caches.
int64_t ColdCopies(int64_t weight_bytes) {
  constexpr int64_t kColdBytes = int64_t{256} << 20;
  return std::max<int64_t>(1, kColdBytes / weight_bytes);
}

void Report(benchmark::State& state, double macs, double weight_bytes) {
  const double calls = static_cast<double>(state.iterations());
  state.counters["GB/s"] =
      benchmark::Counter(weight_bytes * calls * 1e-9, benchmark::Counter::kIsRate);
  state.counters["GFLOP/s"] =
      benchmark::Counter(2 * macs * calls * 1e-9, benchmark::Counter::kIsRate);
}

struct Runtime {
  ThreadPool pool;
  Workspace workspace;
  Context context;

  Runtime(int threads, ComputeMode compute) : pool(threads) {
    context = {.threads = &pool, .workspace = &workspace, .compute = compute, .kernel = {}};
  }
};

// Arguments: rows, in, out, threads, cold.
void BM_Linear(benchmark::State& state, ComputeMode compute, std::string_view kernel) {
  const int64_t rows = state.range(0), in = state.range(1), out = state.range(2);
  const int64_t copies = state.range(4) != 0 ? ColdCopies(in * out * 2) : 1;
  const std::vector<float> x = RandomFloats(rows * in);
  const std::vector<uint16_t> w = RandomBf16(copies * in * out);
  std::vector<float> y(rows * out);
  Runtime runtime(static_cast<int>(state.range(3)), compute);
  runtime.context.kernel = kernel;
  int64_t copy = 0;
  for (auto _ : state) {
    const LinearTarget target{.w = {w.data() + copy * in * out, DType::kBF16, {out, in}},
                              .bias = {},
                              .y = {y.data(), DType::kF32, {rows, out}}};
    const Status status = Linear(
        {.x = {x.data(), DType::kF32, {rows, in}}, .targets = {&target, 1}}, runtime.context);
    if (!status.ok()) {
      state.SkipWithError(std::string(status.message()).c_str());
      return;
    }
    benchmark::DoNotOptimize(y.data());
    copy = (copy + 1) % copies;
  }
  Report(state, static_cast<double>(rows) * in * out, 2.0 * in * out);
}

// Arguments: rows, heads, in, out, threads, out_unit (the layout of an absorbed W_UK).
void BM_HeadLinear(benchmark::State& state, ComputeMode compute, std::string_view kernel) {
  const int64_t rows = state.range(0), heads = state.range(1);
  const int64_t in = state.range(2), out = state.range(3);
  const bool out_unit = state.range(5) != 0;
  const std::vector<float> x = RandomFloats(rows * heads * in);
  const std::vector<uint16_t> w = RandomBf16(heads * in * out);
  std::vector<float> y(rows * heads * out);
  Runtime runtime(static_cast<int>(state.range(4)), compute);
  runtime.context.kernel = kernel;
  const ConstTensor weight =
      out_unit ? ConstTensor(w.data(), DType::kBF16, {heads, out, in}, {in * out, 1, out})
               : ConstTensor(w.data(), DType::kBF16, {heads, out, in});
  const HeadLinearArgs args{.x = {x.data(), DType::kF32, {rows, heads, in}},
                            .w = weight,
                            .y = {y.data(), DType::kF32, {rows, heads, out}}};
  for (auto _ : state) {
    const Status status = HeadLinear(args, runtime.context);
    if (!status.ok()) {
      state.SkipWithError(std::string(status.message()).c_str());
      return;
    }
    benchmark::DoNotOptimize(y.data());
  }
  Report(state, static_cast<double>(rows) * heads * in * out, 2.0 * heads * in * out);
}

// Arguments: rows, experts, top_k, in, out, threads. Gate and up projections of a layer.
void BM_GroupedLinear(benchmark::State& state, ComputeMode compute, std::string_view kernel) {
  const int64_t tokens = state.range(0), experts = state.range(1), top_k = state.range(2);
  const int64_t in = state.range(3), out = state.range(4);
  const int64_t rows = tokens * top_k;
  std::vector<int32_t> counts(experts);
  std::mt19937 random(1);
  for (int64_t i = 0; i < rows; ++i) ++counts[random() % experts];
  std::vector<int32_t> offsets(experts + 1);
  int64_t used = 0;
  for (int64_t e = 0; e < experts; ++e) {
    offsets[e + 1] = offsets[e] + counts[e];
    used += counts[e] != 0;
  }
  const std::vector<float> x = RandomFloats(rows * in);
  const std::vector<uint16_t> weights = RandomBf16(2 * experts * in * out);
  std::vector<float> gate(rows * out), up(rows * out);
  std::vector<ConstTensor> w[2];
  for (int64_t i = 0; i < 2 * experts; ++i) {
    w[i / experts].emplace_back(weights.data() + i * in * out, DType::kBF16,
                                std::initializer_list<int64_t>{out, in});
  }
  const GroupedTarget targets[] = {{w[0], {gate.data(), DType::kF32, {rows, out}}},
                                   {w[1], {up.data(), DType::kF32, {rows, out}}}};
  const GroupedLinearArgs args{
      .x = {x.data(), DType::kF32, {rows, in}}, .offsets = offsets, .targets = targets};
  Runtime runtime(static_cast<int>(state.range(5)), compute);
  runtime.context.kernel = kernel;
  for (auto _ : state) {
    const Status status = GroupedLinear(args, runtime.context);
    if (!status.ok()) {
      state.SkipWithError(std::string(status.message()).c_str());
      return;
    }
    benchmark::DoNotOptimize(gate.data());
  }
  Report(state, 2.0 * rows * in * out, 2.0 * used * 2 * in * out);
}

void LinearShapes(benchmark::internal::Benchmark* b) {
  b->ArgNames({"rows", "in", "out", "threads", "cold"});
  for (int threads : {1, 2}) {
    for (int rows : {1, 2, 4, 8}) {
      b->Args({rows, 2048, 10944, threads, 1});  // V2-Lite dense MLP
      b->Args({rows, 7168, 1536, threads, 1});   // V3 q_a
    }
    b->Args({1, 256, 256, threads, 0});   // the bundled model
    b->Args({1, 256, 4096, threads, 0});  // its vocabulary
    for (int rows : {16, 64, 512}) {
      b->Args({rows, 256, 768, threads, 0});
      b->Args({rows, 1024, 4096, threads, 0});
      b->Args({rows, 2048, 10944, threads, 0});
      b->Args({rows, 7168, 1536, threads, 0});
    }
  }
  b->UseRealTime();
}

void HeadShapes(benchmark::internal::Benchmark* b) {
  b->ArgNames({"rows", "heads", "in", "out", "threads", "out_unit"});
  for (int threads : {1, 2}) {
    for (int rows : {1, 512}) {
      b->Args({rows, 8, 32, 64, threads, 1});  // the bundled model
      b->Args({rows, 8, 64, 32, threads, 0});
      b->Args({rows, 16, 128, 512, threads, 1});  // V2-Lite
      b->Args({rows, 16, 512, 128, threads, 0});
    }
  }
  b->UseRealTime();
}

void GroupedShapes(benchmark::internal::Benchmark* b) {
  b->ArgNames({"tokens", "experts", "top_k", "in", "out", "threads"});
  for (int threads : {1, 2}) {
    for (int tokens : {1, 512}) {
      b->Args({tokens, 8, 2, 256, 192, threads});     // the bundled model
      b->Args({tokens, 64, 6, 2048, 1408, threads});  // V2-Lite
    }
  }
  b->UseRealTime();
}

BENCHMARK_CAPTURE(BM_Linear, bf16, ComputeMode::kBF16, "")->Apply(LinearShapes);
BENCHMARK_CAPTURE(BM_Linear, simd_f32, ComputeMode::kF32, "cpu_simd")->Apply(LinearShapes);
BENCHMARK_CAPTURE(BM_HeadLinear, bf16, ComputeMode::kBF16, "")->Apply(HeadShapes);
BENCHMARK_CAPTURE(BM_HeadLinear, simd_f32, ComputeMode::kF32, "cpu_simd")->Apply(HeadShapes);
BENCHMARK_CAPTURE(BM_GroupedLinear, bf16, ComputeMode::kBF16, "")->Apply(GroupedShapes);
BENCHMARK_CAPTURE(BM_GroupedLinear, simd_f32, ComputeMode::kF32, "cpu_simd")->Apply(GroupedShapes);

}  // namespace
}  // namespace mla

int main(int argc, char** argv) {
  benchmark::AddCustomContext("isa", std::string(mla::cpu::CurrentIsa()));
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 1;
  benchmark::RunSpecifiedBenchmarks();
  return 0;
}
