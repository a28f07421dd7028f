// The C interface: what an engine needs around a decode step, on the device that its tensors lie
// on.
#include <span>
#include <vector>

#include "capi/boundary.h"
#include "capi/cpu.h"
#include "capi/cuda_device.h"
#include "mla/cuda.h"
#include "mla/elementwise.h"
#include "mla/linear.h"
#include "ops/elementwise.h"
#include "ops/shape_checks.h"

namespace mla::capi {
namespace {

bool OnCpu(const ConstTensor& tensor) { return tensor.device().type == DeviceType::kCpu; }

// --- mla_append ----------------------------------------------------------------------------------

struct AppendCall {
  cuda::MlaAppendArgs args;
  cuda::CudaContext context;
  int32_t num_threads = 0;
};

Result<AppendCall> ReadAppend(const mla_append_args* given) {
  MLA_ASSIGN_OR_RETURN(const mla_append_args a, ReadStruct(given, "mla_append: args"));
  AppendCall call;
  cuda::MlaAppendArgs& args = call.args;
  MLA_ASSIGN_OR_RETURN(args.c_kv, ReadTensor(a.c_kv, "mla_append: c_kv"));
  MLA_ASSIGN_OR_RETURN(args.k_pe, ReadTensor(a.k_pe, "mla_append: k_pe"));
  MLA_ASSIGN_OR_RETURN(args.q_pe, ReadTensor(a.q_pe, "mla_append: q_pe"));
  MLA_ASSIGN_OR_RETURN(args.cache, ReadTensor(a.cache, "mla_append: cache"));
  const Device device = args.c_kv.device();
  MLA_RETURN_IF_ERROR(CheckOnDevice(args.k_pe, device, "mla_append: k_pe"));
  MLA_RETURN_IF_ERROR(CheckOnDevice(args.q_pe, device, "mla_append: q_pe"));
  MLA_RETURN_IF_ERROR(CheckOnDevice(args.cache, device, "mla_append: cache"));
  if (a.pairing != MLA_ROPE_INTERLEAVED && a.pairing != MLA_ROPE_HALVES) {
    return InvalidArgument("mla_append: pairing is ", a.pairing,
                           ", want 0 (interleaved) or 1 (halves)");
  }
  args.positions = a.positions;
  args.slots = a.slots;
  args.inv_freq = a.inv_freq;
  args.magnitude = a.magnitude == 0 ? 1 : a.magnitude;
  args.pairing = a.pairing == MLA_ROPE_HALVES ? RopePairing::kHalves : RopePairing::kInterleaved;
  call.context.stream = static_cast<cuda::Stream>(a.stream);
  call.num_threads = a.num_threads;
  return call;
}

// Of the shapes, what the operators below do not see.
Status CheckCpuAppend(const cuda::MlaAppendArgs& a) {
  MLA_RETURN_IF_ERROR(CheckShape(a.c_kv, "mla_append: c_kv", {kAny, kAny}));
  MLA_RETURN_IF_ERROR(CheckDType(a.c_kv, "mla_append: c_kv", {DType::kF32}));
  const int64_t tokens = a.c_kv.dim(0);
  MLA_RETURN_IF_ERROR(CheckShape(a.k_pe, "mla_append: k_pe", {tokens, kAny}));
  MLA_RETURN_IF_ERROR(CheckDType(a.k_pe, "mla_append: k_pe", {DType::kF32}));
  const int64_t rope = a.k_pe.dim(1);
  if (rope % 2 != 0) {
    return InvalidArgument("mla_append: k_pe has shape ", a.k_pe.ShapeString(),
                           ", want an even last extent");
  }
  if (a.q_pe.present()) {
    MLA_RETURN_IF_ERROR(CheckShape(a.q_pe, "mla_append: q_pe", {tokens, kAny, rope}));
  }
  MLA_RETURN_IF_ERROR(CheckShape(a.cache, "mla_append: cache", {kAny, kAny, a.c_kv.dim(1) + rope}));
  if (a.cache.dim(0) > 1 && a.cache.stride(0) != a.cache.dim(1) * a.cache.stride(1)) {
    return Unsupported(
        "mla_append: on the CPU the pages of the cache must follow each other: ", "stride ",
        a.cache.stride(0), " on axis 0, want ", a.cache.dim(1) * a.cache.stride(1));
  }
  if (tokens > 0 &&
      (a.positions == nullptr || a.slots == nullptr || (rope > 0 && a.inv_freq == nullptr))) {
    return InvalidArgument("mla_append: positions, slots or inv_freq is null");
  }
  return {};
}

// The rows of the step that are cached: those with slots that are not negative.
struct StepRows {
  std::vector<float> rows;  // of c_kv and the rotated k_pe
  std::vector<int64_t> slots;

  StepRows(const cuda::MlaAppendArgs& a, const float* k_pe) {
    const int64_t rank = a.c_kv.dim(1), rope = a.k_pe.dim(1);
    for (int64_t t = 0; t < a.c_kv.dim(0); ++t) {
      if (a.slots[t] < 0) continue;
      slots.push_back(a.slots[t]);
      const float* c = a.c_kv.as<float>() + t * a.c_kv.stride(0);
      const float* k = k_pe + t * rope;
      rows.insert(rows.end(), c, c + rank);
      rows.insert(rows.end(), k, k + rope);
    }
  }

  CacheWriteArgs write(const cuda::MlaAppendArgs& a) const {
    CacheWriteArgs args;
    args.x = ConstTensor(rows.data(), DType::kF32,
                         {static_cast<int64_t>(slots.size()), a.c_kv.dim(1) + a.k_pe.dim(1)});
    args.slots = slots;
    args.cache =
        Tensor(a.cache.data(), a.cache.dtype(), {a.cache.dim(0) * a.cache.dim(1), a.cache.dim(2)},
               {a.cache.stride(1), a.cache.stride(2)});
    return args;
  }
};

// The type of the cache is checked here, as a step may have no row to write to it.
Status CheckWrites(const StepRows& step, const cuda::MlaAppendArgs& a, const RopeArgs* rotate_q) {
  MLA_RETURN_IF_ERROR(CheckDType(a.cache, "mla_append: cache", kFloatTypes));
  if (!step.slots.empty()) MLA_RETURN_IF_ERROR(Validate(step.write(a)));
  return rotate_q != nullptr ? Validate(*rotate_q) : Status();
}

// Everything is checked before q_pe or the cache is written.
Status AppendOnCpu(const AppendCall& call) {
  const cuda::MlaAppendArgs& a = call.args;
  MLA_RETURN_IF_ERROR(CheckCpuAppend(a));
  MLA_ASSIGN_OR_RETURN(const Context context,
                       CpuContext(call.num_threads, MLA_COMPUTE_F32, ComputeMode::kF32, {}));
  const int64_t tokens = a.c_kv.dim(0), rope = a.k_pe.dim(1);
  if (tokens == 0) return {};
  std::vector<float> turn_memory(tokens * rope), k_memory(tokens * rope);
  RopeArgs rotate;
  if (rope > 0) {
    const Tensor turns(turn_memory.data(), DType::kF32, {tokens, 2, rope / 2});
    RopeTableArgs table;
    table.positions = std::span(a.positions, static_cast<size_t>(tokens));
    table.inv_freq = std::span(a.inv_freq, static_cast<size_t>(rope / 2));
    table.magnitude = a.magnitude;
    table.turns = turns;
    MLA_RETURN_IF_ERROR(RopeTable(table, context));
    rotate.turns = turns;
    rotate.pairing = a.pairing;
    rotate.x = ConstTensor(a.k_pe.data(), DType::kF32, {tokens, 1, rope},
                           {a.k_pe.stride(0), rope, a.k_pe.stride(1)});
    rotate.y = Tensor(k_memory.data(), DType::kF32, {tokens, 1, rope});
    MLA_RETURN_IF_ERROR(Rope(rotate, context));
    rotate.x = a.q_pe;
    rotate.y = a.q_pe;
  }
  const StepRows step(a, k_memory.data());
  const bool rotates_q = rope > 0 && a.q_pe.present();
  MLA_RETURN_IF_ERROR(CheckWrites(step, a, rotates_q ? &rotate : nullptr));
  if (rotates_q) MLA_RETURN_IF_ERROR(Rope(rotate, context));
  return step.slots.empty() ? Status() : CacheWrite(step.write(a), context);
}

Status Append(const mla_append_args* given) {
  MLA_ASSIGN_OR_RETURN(const AppendCall call, ReadAppend(given));
  if (OnCpu(call.args.c_kv)) return AppendOnCpu(call);
  DeviceGuard guard;
  MLA_RETURN_IF_ERROR(guard.Enter(call.args.c_kv.device().index));
  return cuda::MlaAppend(call.args, call.context);
}

// --- mla_head_linear -----------------------------------------------------------------------------

struct HeadLinearCall {
  cuda::HeadLinearArgs args;
  cuda::CudaContext context;
  int32_t num_threads = 0, compute = 0;

  HeadLinearArgs on_cpu() const {
    HeadLinearArgs cpu;
    cpu.x = args.x;
    cpu.w = args.w;
    cpu.y = args.y;
    return cpu;
  }
};

Result<HeadLinearCall> ReadHeadLinear(const mla_head_linear_args* given) {
  MLA_ASSIGN_OR_RETURN(const mla_head_linear_args a, ReadStruct(given, "mla_head_linear: args"));
  HeadLinearCall call;
  MLA_ASSIGN_OR_RETURN(call.args.x, ReadTensor(a.x, "mla_head_linear: x"));
  MLA_ASSIGN_OR_RETURN(call.args.w, ReadTensor(a.w, "mla_head_linear: w"));
  MLA_ASSIGN_OR_RETURN(call.args.y, ReadTensor(a.y, "mla_head_linear: y"));
  const Device device = call.args.x.device();
  MLA_RETURN_IF_ERROR(CheckOnDevice(call.args.w, device, "mla_head_linear: w"));
  MLA_RETURN_IF_ERROR(CheckOnDevice(call.args.y, device, "mla_head_linear: y"));
  call.context.stream = static_cast<cuda::Stream>(a.stream);
  call.context.kernel = OrEmpty(a.kernel);
  call.num_threads = a.num_threads;
  call.compute = a.compute;
  return call;
}

Status RunHeadLinear(const mla_head_linear_args* given) {
  MLA_ASSIGN_OR_RETURN(const HeadLinearCall call, ReadHeadLinear(given));
  if (OnCpu(call.args.x)) {
    MLA_ASSIGN_OR_RETURN(const Context context, CpuContext(call.num_threads, call.compute,
                                                           ComputeMode::kF32, call.context.kernel));
    return HeadLinear(call.on_cpu(), context);
  }
  DeviceGuard guard;
  MLA_RETURN_IF_ERROR(guard.Enter(call.args.x.device().index));
  return cuda::HeadLinear(call.args, call.context);
}

Status ExplainHeadLinearCall(const mla_head_linear_args* given, mla_verdicts* verdicts) {
  MLA_ASSIGN_OR_RETURN(const HeadLinearCall call, ReadHeadLinear(given));
  KernelVerdicts found;
  if (OnCpu(call.args.x)) {
    MLA_ASSIGN_OR_RETURN(const Context context, CpuContext(call.num_threads, call.compute,
                                                           ComputeMode::kF32, call.context.kernel));
    MLA_ASSIGN_OR_RETURN(found, ExplainHeadLinear(call.on_cpu(), context));
  } else {
    DeviceGuard guard;
    MLA_RETURN_IF_ERROR(guard.Enter(call.args.x.device().index));
    MLA_ASSIGN_OR_RETURN(found, cuda::ExplainHeadLinear(call.args, call.context));
  }
  return WriteVerdicts(found, verdicts, "mla_head_linear_explain");
}

}  // namespace
}  // namespace mla::capi

using mla::capi::Guarded;

extern "C" {

mla_status mla_append(const mla_append_args* args) {
  return Guarded([&] { return mla::capi::Append(args); });
}

mla_status mla_head_linear(const mla_head_linear_args* args) {
  return Guarded([&] { return mla::capi::RunHeadLinear(args); });
}

mla_status mla_head_linear_explain(const mla_head_linear_args* args, mla_verdicts* verdicts) {
  return Guarded([&] { return mla::capi::ExplainHeadLinearCall(args, verdicts); });
}

}  // extern "C"
