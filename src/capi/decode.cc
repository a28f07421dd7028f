// The C interface: decode, on the device that the query lies on.
#include <limits>
#include <vector>

#include "capi/attend.h"
#include "capi/boundary.h"
#include "capi/cpu.h"
#include "capi/cuda_device.h"
#include "mla/attention.h"
#include "mla/cuda.h"
#include "ops/mla_decode.h"
#include "ops/shape_checks.h"

namespace mla::capi {
namespace {

// A call as the library has it; what is CUDA's alone is not used on the CPU.
struct Call {
  cuda::MlaDecodeArgs args;
  cuda::CudaContext context;
  size_t schedule_bytes = 0, workspace_bytes = 0;
  int32_t num_threads = 0, compute = 0;

  bool on_cpu() const { return args.q.device().type == DeviceType::kCpu; }
  int64_t num_seqs() const { return args.q.dim(0); }
  int64_t s_q() const { return args.q.dim(1); }
  int64_t heads() const { return args.q.dim(2); }
};

// Stands for the outputs of a call that computes nothing. Never written.
alignas(256) char no_memory[256];

Tensor Unwritten(const cuda::MlaDecodeArgs& args) {
  return {no_memory,
          args.q.dtype(),
          {args.q.dim(0), args.q.dim(1), args.q.dim(2), args.kv_lora_rank},
          args.q.device()};
}

Status ReadTable(const mla_decode_args& a, Call& call) {
  MLA_ASSIGN_OR_RETURN(const Tensor pages, ReadTensor(a.page_table, "mla_decode: page_table"));
  MLA_ASSIGN_OR_RETURN(const Tensor kv_lens, ReadTensor(a.kv_lens, "mla_decode: kv_lens"));
  MLA_RETURN_IF_ERROR(CheckShape(pages, "mla_decode: page_table", {call.num_seqs(), kAny}));
  MLA_RETURN_IF_ERROR(CheckDType(pages, "mla_decode: page_table", {DType::kI32}));
  MLA_RETURN_IF_ERROR(CheckInts(kv_lens, call.num_seqs(), "mla_decode: kv_lens"));
  const Device device = call.args.q.device();
  MLA_RETURN_IF_ERROR(CheckOnDevice(pages, device, "mla_decode: page_table"));
  MLA_RETURN_IF_ERROR(CheckOnDevice(kv_lens, device, "mla_decode: kv_lens"));
  MLA_ASSIGN_OR_RETURN(call.args.page_table_stride, RowStride(pages, "mla_decode: page_table"));
  call.args.page_table = pages.as<int32_t>();
  call.args.kv_lens = kv_lens.as<int32_t>();
  // A table of no columns, of sequences of no tokens: the rows are never looked at.
  if (call.args.page_table == nullptr) {
    call.args.page_table = reinterpret_cast<const int32_t*>(no_memory);
  }
  return {};
}

Result<Call> Read(const mla_decode_args* given, bool computes) {
  MLA_ASSIGN_OR_RETURN(const mla_decode_args a, ReadStruct(given, "mla_decode: args"));
  Call call;
  cuda::MlaDecodeArgs& args = call.args;
  if (a.q == nullptr) return Absent("mla_decode: q");
  if (a.cache == nullptr) return Absent("mla_decode: cache");
  MLA_ASSIGN_OR_RETURN(args.q, ReadTensor(a.q, "mla_decode: q"));
  MLA_ASSIGN_OR_RETURN(args.cache, ReadTensor(a.cache, "mla_decode: cache"));
  MLA_ASSIGN_OR_RETURN(args.out, ReadTensor(a.out, "mla_decode: out"));
  MLA_ASSIGN_OR_RETURN(args.lse, ReadTensor(a.lse, "mla_decode: lse"));
  MLA_RETURN_IF_ERROR(CheckShape(args.q, "mla_decode: q", {kAny, kAny, kAny, kAny}));
  if (a.out == nullptr) {
    if (computes) return Absent("mla_decode: out");
    args.out =
        Tensor(no_memory, args.q.dtype(),
               {args.q.dim(0), args.q.dim(1), args.q.dim(2), a.kv_lora_rank}, args.q.device());
  }
  const Device device = args.q.device();
  MLA_RETURN_IF_ERROR(CheckOnDevice(args.cache, device, "mla_decode: cache"));
  MLA_RETURN_IF_ERROR(CheckOnDevice(args.out, device, "mla_decode: out"));
  MLA_RETURN_IF_ERROR(CheckOnDevice(args.lse, device, "mla_decode: lse"));
  args.kv_lora_rank = a.kv_lora_rank;
  args.scale = a.scale;
  args.causal = a.causal != 0;
  args.schedule = a.schedule;
  args.workspace = a.workspace;
  MLA_RETURN_IF_ERROR(ReadTable(a, call));
  call.context = {.stream = static_cast<cuda::Stream>(a.stream),
                  .batch_invariant = a.batch_invariant != 0,
                  .kernel = OrEmpty(a.kernel)};
  call.schedule_bytes = a.schedule_bytes;
  call.workspace_bytes = a.workspace_bytes;
  call.num_threads = a.num_threads;
  call.compute = a.compute;
  return call;
}

// --- on the CPU ----------------------------------------------------------------------------------

// The shapes of the outputs, before they are looked at as rows; the operator checks the rest.
Status CheckOutputs(const Call& call) {
  const cuda::MlaDecodeArgs& a = call.args;
  MLA_RETURN_IF_ERROR(CheckShape(a.out, "mla_decode: out",
                                 {call.num_seqs(), call.s_q(), call.heads(), a.kv_lora_rank}));
  if (!a.lse.present()) return {};
  MLA_RETURN_IF_ERROR(
      CheckShapeAnyStride(a.lse, "mla_decode: lse", {call.num_seqs(), call.s_q(), call.heads()}));
  return CheckDType(a.lse, "mla_decode: lse", {DType::kF32});
}

// The operator's errors under the name that the caller called.
Error Headed(Error error) {
  constexpr std::string_view kOperator = "mla_absorbed: ";
  if (error.message.starts_with(kOperator)) {
    error.message.replace(0, kOperator.size(), "mla_decode: ");
  }
  return error;
}

// Calls `run` with the arguments of the CPU operator and gives its result.
template <typename T>
T OnCpu(const Call& call, T (*run)(const AttendCall&, const Context&)) {
  const cuda::MlaDecodeArgs& a = call.args;
  MLA_RETURN_IF_ERROR(CheckOutputs(call));
  MLA_RETURN_IF_ERROR(CheckShape(a.cache, "mla_decode: cache", {kAny, kAny, a.q.dim(3)}));
  constexpr int64_t kMostTokens = std::numeric_limits<int32_t>::max();
  if (call.s_q() > 0 && call.num_seqs() > kMostTokens / call.s_q()) {
    return InvalidArgument("mla_decode: q has shape ", a.q.ShapeString(),
                           ", want fewer than 2^31 tokens");
  }
  std::vector<int32_t> cu_q(call.num_seqs() + 1);
  for (size_t s = 0; s < cu_q.size(); ++s) cu_q[s] = static_cast<int32_t>(s * call.s_q());

  AttendCall attend{.q = a.q, .out = a.out, .lse = a.lse};
  attend.args.cache = a.cache;
  attend.args.batch = {.num_seqs = static_cast<int32_t>(call.num_seqs()),
                       .cu_q = cu_q.data(),
                       .kv_lens = a.kv_lens,
                       .page_table = a.page_table,
                       .page_table_stride = a.page_table_stride,
                       .page_size = static_cast<int32_t>(a.cache.dim(1))};
  attend.args.kv_lora_rank = a.kv_lora_rank;
  attend.args.scale = a.scale;
  attend.args.causal = a.causal;
  MLA_ASSIGN_OR_RETURN(const Context context,
                       CpuContext(call.num_threads, call.compute, AutomaticCompute(a.q, a.cache),
                                  call.context.kernel));
  T result = run(attend, context);
  if (!result.ok()) return Headed(result.error());
  return result;
}

// --- on CUDA devices -----------------------------------------------------------------------------

Status CheckBytes(const Call& call) {
  MLA_ASSIGN_OR_RETURN(const cuda::MlaDecodeSizes need,
                       cuda::MlaDecodeMemory(call.args, call.context));
  if (call.schedule_bytes < need.schedule_bytes) {
    return InvalidArgument("mla_decode: the schedule has ", call.schedule_bytes,
                           " bytes, this call needs ", need.schedule_bytes);
  }
  if (call.workspace_bytes < need.workspace_bytes) {
    return InvalidArgument("mla_decode: the workspace has ", call.workspace_bytes,
                           " bytes, this call needs ", need.workspace_bytes);
  }
  return {};
}

// Runs one of the functions that enqueue work, on the device of q.
Status Enqueue(const Call& call,
               Status (*run)(const cuda::MlaDecodeArgs&, const cuda::CudaContext&)) {
  if (call.num_seqs() == 0) return ValidateShapes(call.args);
  DeviceGuard guard;
  MLA_RETURN_IF_ERROR(guard.Enter(call.args.q.device().index));
  MLA_RETURN_IF_ERROR(CheckBytes(call));
  return run(call.args, call.context);
}

Status Memory(const mla_decode_args* given, mla_decode_sizes* sizes) {
  MLA_ASSIGN_OR_RETURN(const Call call, Read(given, false));
  mla_decode_sizes filled = {};
  if (!call.on_cpu() && call.num_seqs() > 0) {
    DeviceGuard guard;
    MLA_RETURN_IF_ERROR(guard.Enter(call.args.q.device().index));
    MLA_ASSIGN_OR_RETURN(const cuda::MlaDecodeSizes need,
                         cuda::MlaDecodeMemory(call.args, call.context));
    filled.schedule_bytes = need.schedule_bytes;
    filled.workspace_bytes = need.workspace_bytes;
  }
  return WriteStruct(filled, sizes, "mla_decode_memory");
}

Status Schedule(const mla_decode_args* given) {
  MLA_ASSIGN_OR_RETURN(const Call call, Read(given, false));
  if (call.on_cpu()) return {};
  return Enqueue(call, cuda::MlaDecodeSchedule);
}

Status Decode(const mla_decode_args* given) {
  MLA_ASSIGN_OR_RETURN(const Call call, Read(given, true));
  if (call.on_cpu()) return OnCpu(call, Attend);
  return Enqueue(call, cuda::MlaDecode);
}

Status Explain(const mla_decode_args* given, mla_verdicts* verdicts) {
  MLA_ASSIGN_OR_RETURN(Call call, Read(given, false));
  KernelVerdicts found;
  if (call.on_cpu()) {
    // Nothing is to be written.
    call.args.lse = {};
    call.args.out = Unwritten(call.args);
    MLA_ASSIGN_OR_RETURN(found, OnCpu(call, ExplainAttend));
  } else {
    DeviceGuard guard;
    MLA_RETURN_IF_ERROR(guard.Enter(call.args.q.device().index));
    MLA_ASSIGN_OR_RETURN(found, cuda::ExplainMlaDecode(call.args, call.context));
  }
  return WriteVerdicts(found, verdicts, "mla_decode_explain");
}

}  // namespace
}  // namespace mla::capi

using mla::capi::Guarded;

extern "C" {

mla_status mla_decode_memory(const mla_decode_args* args, mla_decode_sizes* sizes) {
  return Guarded([&] { return mla::capi::Memory(args, sizes); });
}

mla_status mla_decode_schedule(const mla_decode_args* args) {
  return Guarded([&] { return mla::capi::Schedule(args); });
}

mla_status mla_decode(const mla_decode_args* args) {
  return Guarded([&] { return mla::capi::Decode(args); });
}

mla_status mla_decode_explain(const mla_decode_args* args, mla_verdicts* verdicts) {
  return Guarded([&] { return mla::capi::Explain(args, verdicts); });
}

}  // extern "C"
