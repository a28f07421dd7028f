// The C interface: the operators that run on the CPU alone.
#include "capi/cpu.h"

#include <map>
#include <mutex>
#include <utility>
#include <vector>

#include "base/threads.h"
#include "capi/attend.h"
#include "mla/attention.h"
#include "mla/resources.h"
#include "ops/shape_checks.h"

namespace mla::capi {
namespace {

// Of more than one thread; null: the calling thread alone.
Result<ThreadPool*> Pool(int32_t num_threads) {
  if (num_threads == 0) num_threads = UsableCpus();
  if (num_threads == 1) return nullptr;
  // Never destroyed: at the end of a process that has forked, the workers are not there to be
  // waited for.
  static auto& mutex = *new std::mutex;
  static auto& pools = *new std::map<int32_t, ThreadPoolPtr>;
  const std::lock_guard lock(mutex);
  const auto known = pools.find(num_threads);
  if (known != pools.end()) return known->second.get();
  MLA_ASSIGN_OR_RETURN(ThreadPoolPtr pool, MakeThreadPool(num_threads));
  return (pools[num_threads] = std::move(pool)).get();
}

struct AbsorbedCall {
  AttendCall attend;
  Context context;
};

// [tokens, heads, n] as [tokens, 1, heads, n].
template <typename View>
View WithInnerAxis(const View& t) {
  return {t.data(),
          t.dtype(),
          {t.dim(0), 1, t.dim(1), t.dim(2)},
          {t.stride(0), 0, t.stride(1), t.stride(2)},
          t.device()};
}

// The operands that have the tokens.
Status ReadRows(const mla_absorbed_args& a, AttendCall& call) {
  if (a.q == nullptr) return Absent("mla_absorbed: q");
  if (a.out == nullptr) return Absent("mla_absorbed: out");
  MLA_ASSIGN_OR_RETURN(const Tensor q, ReadTensor(a.q, "mla_absorbed: q"));
  MLA_ASSIGN_OR_RETURN(const Tensor out, ReadTensor(a.out, "mla_absorbed: out"));
  MLA_ASSIGN_OR_RETURN(const Tensor lse, ReadTensor(a.lse, "mla_absorbed: lse"));
  for (const Tensor& tensor : {q, out, lse}) {
    MLA_RETURN_IF_ERROR(CheckOnDevice(tensor, {}, "mla_absorbed: a tensor"));
  }
  MLA_RETURN_IF_ERROR(CheckShape(q, "mla_absorbed: q", {kAny, kAny, kAny}));
  const int64_t tokens = q.dim(0), heads = q.dim(1);
  MLA_RETURN_IF_ERROR(CheckShape(out, "mla_absorbed: out", {tokens, heads, a.kv_lora_rank}));
  call.q = WithInnerAxis(q);
  call.out = WithInnerAxis(out);
  if (!lse.present()) return {};
  MLA_RETURN_IF_ERROR(CheckShape(lse, "mla_absorbed: lse", {tokens, heads}));
  MLA_RETURN_IF_ERROR(CheckDType(lse, "mla_absorbed: lse", {DType::kF32}));
  call.lse = Tensor(lse.data(), DType::kF32, {tokens, 1, heads}, {lse.stride(0), 0, lse.stride(1)});
  return {};
}

Result<AbsorbedCall> ReadAbsorbed(const mla_absorbed_args* given) {
  MLA_ASSIGN_OR_RETURN(const mla_absorbed_args a, ReadStruct(given, "mla_absorbed: args"));
  AbsorbedCall call;
  MlaAbsorbedArgs& args = call.attend.args;
  if (a.cache == nullptr) return Absent("mla_absorbed: cache");
  MLA_RETURN_IF_ERROR(ReadRows(a, call.attend));
  MLA_ASSIGN_OR_RETURN(args.cache, ReadTensor(a.cache, "mla_absorbed: cache"));
  MLA_ASSIGN_OR_RETURN(const Tensor cu_q, ReadTensor(a.cu_q, "mla_absorbed: cu_q"));
  MLA_ASSIGN_OR_RETURN(const Tensor kv_lens, ReadTensor(a.kv_lens, "mla_absorbed: kv_lens"));
  MLA_ASSIGN_OR_RETURN(const Tensor pages, ReadTensor(a.page_table, "mla_absorbed: page_table"));

  MLA_RETURN_IF_ERROR(CheckShape(pages, "mla_absorbed: page_table", {kAny, kAny}));
  MLA_RETURN_IF_ERROR(CheckDType(pages, "mla_absorbed: page_table", {DType::kI32}));
  MLA_RETURN_IF_ERROR(CheckShape(args.cache, "mla_absorbed: cache", {kAny, kAny, kAny}));
  const int64_t num_seqs = pages.dim(0);
  MLA_RETURN_IF_ERROR(CheckInts(cu_q, num_seqs + 1, "mla_absorbed: cu_q"));
  MLA_RETURN_IF_ERROR(CheckInts(kv_lens, num_seqs, "mla_absorbed: kv_lens"));
  for (const ConstTensor& tensor :
       {args.cache, ConstTensor(cu_q), ConstTensor(kv_lens), ConstTensor(pages)}) {
    MLA_RETURN_IF_ERROR(CheckOnDevice(tensor, {}, "mla_absorbed: a tensor"));
  }
  MLA_ASSIGN_OR_RETURN(const int64_t stride, RowStride(pages, "mla_absorbed: page_table"));
  args.batch = {.num_seqs = static_cast<int32_t>(num_seqs),
                .cu_q = cu_q.as<int32_t>(),
                .kv_lens = kv_lens.as<int32_t>(),
                .page_table = pages.as<int32_t>(),
                .page_table_stride = stride,
                .page_size = static_cast<int32_t>(args.cache.dim(1))};
  args.kv_lora_rank = a.kv_lora_rank;
  args.scale = a.scale;
  args.causal = a.causal != 0;
  MLA_ASSIGN_OR_RETURN(call.context,
                       CpuContext(a.num_threads, a.compute,
                                  AutomaticCompute(call.attend.q, args.cache), OrEmpty(a.kernel)));
  return call;
}

Status Absorbed(const mla_absorbed_args* given) {
  MLA_ASSIGN_OR_RETURN(const AbsorbedCall call, ReadAbsorbed(given));
  return Attend(call.attend, call.context);
}

Status ExplainAbsorbed(const mla_absorbed_args* given, mla_verdicts* verdicts) {
  MLA_ASSIGN_OR_RETURN(const AbsorbedCall call, ReadAbsorbed(given));
  MLA_ASSIGN_OR_RETURN(const KernelVerdicts found, ExplainAttend(call.attend, call.context));
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

Result<Context> CpuContext(int32_t num_threads, int32_t compute, ComputeMode automatic,
                           std::string_view kernel) {
  if (compute != MLA_COMPUTE_AUTO && compute != MLA_COMPUTE_F32 && compute != MLA_COMPUTE_BF16) {
    return InvalidArgument("compute is ", compute, ", want 0 (by the types), 1 (bf16) or 2 (f32)");
  }
  Context context;
  MLA_ASSIGN_OR_RETURN(context.threads, Pool(num_threads));
  context.compute = compute == MLA_COMPUTE_AUTO   ? automatic
                    : compute == MLA_COMPUTE_BF16 ? ComputeMode::kBF16
                                                  : ComputeMode::kF32;
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
