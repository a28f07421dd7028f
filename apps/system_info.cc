#include "apps/system_info.h"

#include <sys/sysinfo.h>

#include <array>
#include <cstdlib>
#include <fstream>
#include <functional>
#include <utility>

#include "mla/attention.h"
#include "mla/linear.h"
#include "mla/sparse.h"

namespace mla {
namespace {

// The value of the first "key : value" line of a file in /proc.
std::string ProcValue(const char* path, std::string_view key) {
  std::ifstream file(path);
  for (std::string line; std::getline(file, line);) {
    if (!line.starts_with(key)) continue;
    const size_t begin = line.find_first_not_of(" \t:", key.size());
    return begin == std::string::npos ? std::string() : line.substr(begin);
  }
  return {};
}

// Arguments of small calls. They are only judged: of the tensors, none but the indices is read.
struct SmallCalls {
  static constexpr int32_t kHeads = 16, kRank = 64, kNope = 32, kRope = 16, kValue = 32;
  static constexpr int32_t kPageSize = 64, kTopK = 4;

  std::vector<float> f32 = std::vector<float>(1 << 16);
  std::vector<uint16_t> bf16 = std::vector<uint16_t>(1 << 17);
  std::array<int32_t, 2> cu_q = {0, 1};
  int32_t kv_len = 1, page = 0;
  std::array<int32_t, 2> offsets = {0, 1};
  std::array<int32_t, kTopK> chosen = {};
  LinearTarget target{Weight({64, 64}), {}, Activation({1, 64})};
  ConstTensor expert = Weight({64, 64});
  GroupedTarget grouped{{&expert, 1}, Activation({1, 64})};

  Tensor Activation(std::initializer_list<int64_t> dims) {
    return Tensor(f32.data(), DType::kF32, dims);
  }
  ConstTensor Weight(std::initializer_list<int64_t> dims) {
    return ConstTensor(bf16.data(), DType::kBF16, dims);
  }
  PagedBatch Batch() const { return {1, cu_q.data(), &kv_len, &page, 1, kPageSize}; }

  LinearArgs Linear() { return {.x = Activation({1, 64}), .targets = {&target, 1}}; }
  GroupedLinearArgs GroupedLinear() {
    return {.x = Activation({1, 64}), .offsets = offsets, .targets = {&grouped, 1}};
  }
  HeadLinearArgs HeadLinear() {
    return {.x = Activation({1, kHeads, kNope}),
            .w = Weight({kHeads, kRank, kNope}),
            .y = Activation({1, kHeads, kRank})};
  }
  MlaAbsorbedArgs MlaAbsorbed() {
    return {.q = Activation({1, kHeads, kRank + kRope}),
            .cache = Weight({1, kPageSize, kRank + kRope}),
            .batch = Batch(),
            .kv_lora_rank = kRank,
            .scale = 1,
            .out = Activation({1, kHeads, kRank}),
            .lse = {}};
  }
  MlaExpandedArgs MlaExpanded() {
    return {.q = Activation({1, kHeads, kNope + kRope}),
            .cache = Weight({1, kPageSize, kRank + kRope}),
            .w_uk = Weight({kHeads, kNope, kRank}),
            .w_uv = Weight({kHeads, kValue, kRank}),
            .batch = Batch(),
            .scale = 1,
            .out = Activation({1, kHeads, kValue}),
            .lse = {}};
  }
  GqaArgs Gqa() {
    return {.q = Activation({1, kHeads, kValue}),
            .k_cache = Weight({1, kPageSize, kHeads, kValue}),
            .v_cache = Weight({1, kPageSize, kHeads, kValue}),
            .batch = Batch(),
            .scale = 1,
            .out = Activation({1, kHeads, kValue}),
            .lse = {}};
  }
  Tensor Chosen() { return Tensor(chosen.data(), DType::kI32, {1, kTopK}); }
  MlaIndexTopkArgs MlaIndexTopk() {
    return {.q = Activation({1, kHeads, kValue}),
            .weights = Activation({1, kHeads}),
            .cache = Weight({1, kPageSize, kValue}),
            .batch = Batch(),
            .top_k = kTopK,
            .indices = Chosen()};
  }
  MlaSparseArgs MlaSparse() {
    return {.q = Activation({1, kHeads, kRank + kRope}),
            .cache = Weight({1, kPageSize, kRank + kRope}),
            .indices = Chosen(),
            .batch = Batch(),
            .kv_lora_rank = kRank,
            .scale = 1,
            .out = Activation({1, kHeads, kRank}),
            .lse = {}};
  }
};

std::string_view FirstAccepting(const KernelVerdicts& verdicts) {
  for (const KernelVerdict& verdict : verdicts) {
    if (verdict.refusal.empty()) return verdict.kernel;
  }
  return "none";
}

}  // namespace

std::string CpuModel() {
  for (const char* key : {"model name", "Model", "Hardware"}) {
    if (std::string value = ProcValue("/proc/cpuinfo", key); !value.empty()) return value;
  }
  return "unknown";
}

MemoryInfo ReadMemoryInfo() {
  MemoryInfo memory;
  struct sysinfo info {};
  if (::sysinfo(&info) == 0) {
    memory.total_bytes = static_cast<int64_t>(info.totalram) * info.mem_unit;
  }
  const std::string available = ProcValue("/proc/meminfo", "MemAvailable");  // "1234 kB"
  memory.available_bytes = std::strtoll(available.c_str(), nullptr, 10) * 1024;
  return memory;
}

Result<std::vector<OperatorKernels>> ListOperatorKernels() {
  SmallCalls calls;
  using Explain = std::function<Result<KernelVerdicts>(const Context&)>;
  const std::pair<std::string_view, Explain> operators[] = {
      {"mla_absorbed",
       [&](const Context& c) { return ExplainMlaAbsorbed(calls.MlaAbsorbed(), c); }},
      {"mla_expanded",
       [&](const Context& c) { return ExplainMlaExpanded(calls.MlaExpanded(), c); }},
      {"gqa", [&](const Context& c) { return ExplainGqa(calls.Gqa(), c); }},
      {"mla_index_topk",
       [&](const Context& c) { return ExplainMlaIndexTopk(calls.MlaIndexTopk(), c); }},
      {"mla_sparse", [&](const Context& c) { return ExplainMlaSparse(calls.MlaSparse(), c); }},
      {"linear", [&](const Context& c) { return ExplainLinear(calls.Linear(), c); }},
      {"grouped_linear",
       [&](const Context& c) { return ExplainGroupedLinear(calls.GroupedLinear(), c); }},
      {"head_linear", [&](const Context& c) { return ExplainHeadLinear(calls.HeadLinear(), c); }},
  };
  std::vector<OperatorKernels> list;
  for (const auto& [name, explain] : operators) {
    OperatorKernels entry;
    entry.name = name;
    Context context;
    MLA_ASSIGN_OR_RETURN(const KernelVerdicts f32, explain(context));
    context.compute = ComputeMode::kBF16;
    MLA_ASSIGN_OR_RETURN(const KernelVerdicts bf16, explain(context));
    for (const KernelVerdict& verdict : f32) entry.kernels.push_back(verdict.kernel);
    entry.runs_f32 = FirstAccepting(f32);
    entry.runs_bf16 = FirstAccepting(bf16);
    list.push_back(std::move(entry));
  }
  return list;
}

}  // namespace mla
