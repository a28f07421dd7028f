#include "apps/machine.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdlib>
#include <vector>

#include "apps/system_info.h"
#include "base/numeric.h"
#include "base/threads.h"
#include "base/workspace.h"
#include "io/json.h"
#include "kernels/cpu/isa.h"
#include "mla/linear.h"

namespace mla {
namespace {

const Machine kMachines[] = {
    {"H200", 141e9, 4.8e12, 989e12, "NVIDIA H200 data sheet, SXM, dense"},
    {"H100", 80e9, 3.35e12, 989e12, "NVIDIA H100 data sheet, SXM, dense"},
    {"A100", 80e9, 2.039e12, 312e12, "NVIDIA A100 80GB data sheet, SXM, dense"},
    {"L40S", 48e9, 0.864e12, 362e12, "NVIDIA L40S data sheet, dense"},
    {"RTX4090", 24e9, 1.008e12, 165.2e12,
     "NVIDIA Ada architecture white paper, dense, fp32 accumulation"},
};

// Seconds of the fastest of a few runs.
template <typename Run>
double BestSeconds(const Run& run) {
  using Clock = std::chrono::steady_clock;
  double best = INFINITY;
  for (int i = 0; i < 4; ++i) {
    const auto start = Clock::now();
    run();
    best = std::min(best, std::chrono::duration<double>(Clock::now() - start).count());
  }
  return best;
}

// Reading of memory far larger than caches, by all threads.
double MeasureBandwidth(ThreadPool& threads) {
  constexpr int64_t kNumbers = int64_t{32} << 20;  // 256 MiB
  constexpr int64_t kTasks = 64;
  const std::vector<uint64_t> memory(kNumbers, 1);
  std::vector<uint64_t> sums(kTasks);
  const double seconds = BestSeconds([&] {
    threads.ParallelFor(kTasks, [&](int64_t task, int) {
      const uint64_t* begin = memory.data() + task * (kNumbers / kTasks);
      uint64_t sum[4] = {};
      for (int64_t i = 0; i < kNumbers / kTasks; i += 4) {
        for (int64_t lane = 0; lane < 4; ++lane) sum[lane] += begin[i + lane];
      }
      sums[task] += sum[0] + sum[1] + sum[2] + sum[3];
    });
  });
  // The sum is used, so that no compiler leaves the reading out.
  uint64_t all = 0;
  for (const uint64_t sum : sums) all += sum;
  return all > 0 ? 8.0 * static_cast<double>(kNumbers) / seconds : 0;
}

// The library's own matrix product with bf16 weights.
Result<double> MeasureFlops(ThreadPool& threads) {
  constexpr int64_t kRows = 256;
  constexpr int64_t kDim = 1024;
  const std::vector<float> x(kRows * kDim, 1.0f);
  const std::vector<uint16_t> w(kDim * kDim, F32ToBf16(0.5f));
  std::vector<float> y(kRows * kDim);
  Workspace workspace;
  Context context;
  context.threads = &threads;
  context.workspace = &workspace;
  context.compute = cpu::UsesAvx512Bf16() ? ComputeMode::kBF16 : ComputeMode::kF32;
  const LinearTarget target{ConstTensor(w.data(), DType::kBF16, {kDim, kDim}),
                            {},
                            Tensor(y.data(), DType::kF32, {kRows, kDim})};
  Status status;
  const double seconds = BestSeconds([&] {
    status = Linear(
        {.x = ConstTensor(x.data(), DType::kF32, {kRows, kDim}), .targets = {&target, 1}}, context);
  });
  MLA_RETURN_IF_ERROR(std::move(status));
  return 2.0 * kRows * kDim * kDim / seconds;
}

Result<Machine> MeasureThisMachine() {
  MLA_RETURN_IF_ERROR(cpu::CurrentIsaError());
  ThreadPool threads(UsableCpus());
  Machine machine;
  machine.name = CpuModel();
  machine.memory_bytes = static_cast<double>(ReadMemoryInfo().total_bytes);
  machine.bytes_per_second = MeasureBandwidth(threads);
  MLA_ASSIGN_OR_RETURN(machine.flops, MeasureFlops(threads));
  machine.source = Concat("measured now, ", threads.num_threads(), " threads, ", cpu::CurrentIsa());
  return machine;
}

std::string Lower(std::string_view text) {
  std::string lower(text);
  for (char& c : lower) {
    if (c >= 'A' && c <= 'Z') c = static_cast<char>(c - 'A' + 'a');
  }
  std::erase(lower, ' ');
  return lower;
}

}  // namespace

std::span<const Machine> NamedMachines() { return kMachines; }

Result<Machine> FindMachine(std::string_view name) {
  if (Lower(name) == "this") return MeasureThisMachine();
  std::string names;
  for (const Machine& machine : kMachines) {
    if (Lower(machine.name) == Lower(name)) return machine;
    names += machine.name + ", ";
  }
  return NotFound("--machine: ", Quote(name), " is not known, want one of ", names,
                  "this; or give --bandwidth and --flops");
}

Result<int64_t> ParseSize(std::string_view text) {
  constexpr std::pair<std::string_view, double> kUnits[] = {
      {"b", 1},        {"kb", 1e3},     {"mb", 1e6},     {"gb", 1e9},    {"tb", 1e12},
      {"kib", 0x1p10}, {"mib", 0x1p20}, {"gib", 0x1p30}, {"tib", 0x1p40}};
  const std::string copy = Lower(text);
  char* end = nullptr;
  const double number = std::strtod(copy.c_str(), &end);
  const std::string_view unit(end);
  const bool digits = !copy.empty() && (copy[0] == '.' || (copy[0] >= '0' && copy[0] <= '9'));
  for (const auto& [name, factor] : kUnits) {
    if (digits && unit == name && number > 0 && number * factor < 0x1p62) {
      return static_cast<int64_t>(number * factor);
    }
  }
  return InvalidArgument(Quote(text), " is no size, want for example 80GiB, 24GB or 512MiB");
}

}  // namespace mla
