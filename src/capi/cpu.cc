// The C interface: the operators that run on the CPU alone.
#include "capi/cpu.h"

#include <map>
#include <memory>
#include <mutex>
#include <vector>

#include "base/threads.h"
#include "mla/attention.h"
#include "ops/shape_checks.h"

namespace mla::capi {
namespace {

constexpr int32_t kMostThreads = 1024;

ThreadPool* Pool(int32_t num_threads) {
  if (num_threads == 1) return nullptr;
  // Never destroyed: at the end of a process that has forked, the workers are not there to be
  // waited for.
  static auto& mutex = *new std::mutex;
  static auto& pools = *new std::map<int32_t, std::unique_ptr<ThreadPool>>;
  const std::lock_guard lock(mutex);
  std::unique_ptr<ThreadPool>& pool = pools[num_threads];
  if (pool == nullptr) pool = std::make_unique<ThreadPool>(num_threads);
  return pool.get();
}

struct AbsorbedCall {
  MlaAbsorbedArgs args;
  Context context;
};

Result<AbsorbedCall> ReadAbsorbed(const mla_absorbed_args* given) {
  MLA_ASSIGN_OR_RETURN(const mla_absorbed_args a, ReadStruct(given, "mla_absorbed: args"));
  AbsorbedCall call;
  MLA_ASSIGN_OR_RETURN(call.args.q, ReadTensor(a.q, "mla_absorbed: q"));
  MLA_ASSIGN_OR_RETURN(call.args.cache, ReadTensor(a.cache, "mla_absorbed: cache"));
  MLA_ASSIGN_OR_RETURN(call.args.out, ReadTensor(a.out, "mla_absorbed: out"));
  MLA_ASSIGN_OR_RETURN(call.args.lse, ReadTensor(a.lse, "mla_absorbed: lse"));
  MLA_ASSIGN_OR_RETURN(const Tensor cu_q, ReadTensor(a.cu_q, "mla_absorbed: cu_q"));
  MLA_ASSIGN_OR_RETURN(const Tensor kv_lens, ReadTensor(a.kv_lens, "mla_absorbed: kv_lens"));
  MLA_ASSIGN_OR_RETURN(const Tensor pages, ReadTensor(a.page_table, "mla_absorbed: page_table"));

  MLA_RETURN_IF_ERROR(CheckShape(pages, "mla_absorbed: page_table", {kAny, kAny}));
  MLA_RETURN_IF_ERROR(CheckDType(pages, "mla_absorbed: page_table", {DType::kI32}));
  MLA_RETURN_IF_ERROR(CheckShape(call.args.cache, "mla_absorbed: cache", {kAny, kAny, kAny}));
  const int64_t num_seqs = pages.dim(0);
  MLA_RETURN_IF_ERROR(CheckInts(cu_q, num_seqs + 1, "mla_absorbed: cu_q"));
  MLA_RETURN_IF_ERROR(CheckInts(kv_lens, num_seqs, "mla_absorbed: kv_lens"));
  for (const Tensor& tensor : {call.args.out, call.args.lse, cu_q, kv_lens, pages}) {
    MLA_RETURN_IF_ERROR(CheckOnDevice(tensor, {}, "mla_absorbed: a tensor"));
  }
  for (const ConstTensor& tensor : {call.args.q, call.args.cache}) {
    MLA_RETURN_IF_ERROR(CheckOnDevice(tensor, {}, "mla_absorbed: a tensor"));
  }
  MLA_ASSIGN_OR_RETURN(const int64_t stride, RowStride(pages, "mla_absorbed: page_table"));
  call.args.batch = {.num_seqs = static_cast<int32_t>(num_seqs),
                     .cu_q = cu_q.as<int32_t>(),
                     .kv_lens = kv_lens.as<int32_t>(),
                     .page_table = pages.as<int32_t>(),
                     .page_table_stride = stride,
                     .page_size = static_cast<int32_t>(call.args.cache.dim(1))};
  call.args.kv_lora_rank = a.kv_lora_rank;
  call.args.scale = a.scale;
  call.args.causal = a.causal != 0;
  MLA_ASSIGN_OR_RETURN(call.context, CpuContext(a.num_threads, a.compute, OrEmpty(a.kernel)));
  return call;
}

Status Absorbed(const mla_absorbed_args* given) {
  MLA_ASSIGN_OR_RETURN(const AbsorbedCall call, ReadAbsorbed(given));
  return MlaAbsorbed(call.args, call.context);
}

Status ExplainAbsorbed(const mla_absorbed_args* given, mla_verdicts* verdicts) {
  MLA_ASSIGN_OR_RETURN(const AbsorbedCall call, ReadAbsorbed(given));
  MLA_ASSIGN_OR_RETURN(const KernelVerdicts found, ExplainMlaAbsorbed(call.args, call.context));
  return WriteVerdicts(found, verdicts, "mla_absorbed_explain");
}

Status Merge(const mla_merge_args* given) {
  MLA_ASSIGN_OR_RETURN(const mla_merge_args a, ReadStruct(given, "mla_merge: args"));
  MergeArgs args;
  MLA_ASSIGN_OR_RETURN(args.part_out, ReadTensor(a.part_out, "mla_merge: part_out"));
  MLA_ASSIGN_OR_RETURN(args.part_lse, ReadTensor(a.part_lse, "mla_merge: part_lse"));
  MLA_ASSIGN_OR_RETURN(args.out, ReadTensor(a.out, "mla_merge: out"));
  MLA_ASSIGN_OR_RETURN(args.lse, ReadTensor(a.lse, "mla_merge: lse"));
  for (const ConstTensor& tensor :
       {args.part_out, args.part_lse, ConstTensor(args.out), ConstTensor(args.lse)}) {
    MLA_RETURN_IF_ERROR(CheckOnDevice(tensor, {}, "mla_merge: a tensor"));
  }
  return MergePartials(args, {});
}

}  // namespace

Result<Context> CpuContext(int32_t num_threads, int32_t compute, std::string_view kernel) {
  if (num_threads < 0 || num_threads > kMostThreads) {
    return InvalidArgument("num_threads is ", num_threads, ", want 0 to ", kMostThreads);
  }
  if (compute != MLA_COMPUTE_F32 && compute != MLA_COMPUTE_BF16) {
    return InvalidArgument("compute is ", compute, ", want 0 (f32) or 1 (bf16)");
  }
  Context context;
  context.threads = Pool(num_threads == 0 ? UsableCpus() : num_threads);
  context.compute = compute == MLA_COMPUTE_BF16 ? ComputeMode::kBF16 : ComputeMode::kF32;
  context.kernel = kernel;
  return context;
}

Status WriteVerdicts(const KernelVerdicts& verdicts, mla_verdicts* given, std::string_view what) {
  thread_local std::vector<std::string> texts;
  thread_local std::vector<mla_verdict> items;
  texts.clear();
  items.clear();
  for (const KernelVerdict& verdict : verdicts) {
    texts.emplace_back(verdict.kernel);
    texts.emplace_back(verdict.refusal);
  }
  for (size_t i = 0; i < texts.size(); i += 2) {
    items.push_back({texts[i].c_str(), texts[i + 1].c_str()});
  }
  return WriteStruct(
      {.size = 0, .count = static_cast<int32_t>(items.size()), .items = items.data()}, given, what);
}

}  // namespace mla::capi

using mla::capi::Guarded;

extern "C" {

mla_status mla_absorbed(const mla_absorbed_args* args) {
  return Guarded([&] { return mla::capi::Absorbed(args); });
}

mla_status mla_absorbed_explain(const mla_absorbed_args* args, mla_verdicts* verdicts) {
  return Guarded([&] { return mla::capi::ExplainAbsorbed(args, verdicts); });
}

mla_status mla_merge(const mla_merge_args* args) {
  return Guarded([&] { return mla::capi::Merge(args); });
}

}  // extern "C"
