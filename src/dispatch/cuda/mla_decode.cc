// mla_decode on the GPU: the ordered list of kernels, the memory of a call and its launches.
#include "ops/mla_decode.h"

#include <cuda_runtime_api.h>

#include <algorithm>
#include <span>

#include "dispatch/cuda/choose.h"
#include "kernels/cuda/device.h"
#include "kernels/cuda/mla_decode/kernel.h"
#include "kernels/cuda/mla_decode/schedule_kernel.h"
#include "mla/cuda.h"

namespace mla::cuda {
namespace {

using KernelList = std::span<const MlaDecodeKernel* const>;

const MlaDecodeKernel* const kMlaDecode[] = {&kMlaDecodeSm90,          &kMlaDecodeSm90Fp8,
                                             &kMlaDecodeSm90Fp8Direct, &kMlaDecodeSm80Fp8,
                                             &kMlaDecodeSm80,          &kMlaDecodePlain};
// Over FP8 latents Hopper is faster without converting the keys ahead of the products if there are
// so few query rows of a sequence.
constexpr int64_t kFewRows = 32;
const MlaDecodeKernel* const kMlaDecodeFewRows[] = {&kMlaDecodeSm90,    &kMlaDecodeSm90Fp8Direct,
                                                    &kMlaDecodeSm90Fp8, &kMlaDecodeSm80Fp8,
                                                    &kMlaDecodeSm80,    &kMlaDecodePlain};

KernelList KernelsFor(const MlaDecodeArgs& args) {
  const bool few_rows = args.q.dim(1) * args.q.dim(2) <= kFewRows;
  return few_rows ? KernelList(kMlaDecodeFewRows) : KernelList(kMlaDecode);
}

// What a call has to know of itself, from its shapes alone.
struct Call {
  DeviceProperties device;
  const MlaDecodeKernel* kernel = nullptr;
  ScheduleShape shape;
  bool merges_itself = false;
};

Result<Call> Prepare(const MlaDecodeArgs& args, const CudaContext& context) {
  Call call;
  MLA_ASSIGN_OR_RETURN(call.device, CurrentDevice());
  MLA_ASSIGN_OR_RETURN(call.kernel, Choose<MlaDecodeKernel>("mla_decode", KernelsFor(args), args,
                                                            call.device, context));
  const int64_t rows = args.q.dim(1) * args.q.dim(2);
  const int64_t tile = call.kernel->row_tile(args, call.device);
  const int64_t resident =
      int64_t{call.device.num_sms} * call.kernel->blocks_per_sm(args, call.device);
  call.shape.num_seqs = static_cast<int32_t>(args.q.dim(0));
  call.shape.row_tiles = static_cast<int32_t>((rows + tile - 1) / tile);
  call.shape.num_parts =
      static_cast<int32_t>(std::max<int64_t>(1, resident / call.shape.row_tiles));
  call.shape.batch_invariant = context.batch_invariant;
  call.shape.max_kv_len = args.page_table_stride * args.cache.dim(1);
  // A part of a batch-invariant schedule has results of more sequences than a kernel keeps in mind.
  const auto can_merge = call.kernel->can_merge;
  call.merges_itself = can_merge != nullptr && can_merge(args) && !context.batch_invariant;
  return call;
}

// The partial results: all rows of outputs, then all of lse.
struct Partials {
  size_t out_bytes = 0, lse_bytes = 0;

  Partials(const MlaDecodeArgs& args, const ScheduleShape& shape) {
    const int64_t rows = MaxSlots(shape) * args.q.dim(1) * args.q.dim(2);
    out_bytes = rows * PartPitch(args.kv_lora_rank) * sizeof(float);
    lse_bytes = rows * sizeof(float);
  }
};

MlaDecodeParams ParamsOf(const MlaDecodeArgs& args, const Call& call) {
  MlaDecodeParams p = {};
  p.q = args.q.data();
  p.q_stride_seq = args.q.stride(0);
  p.q_stride_token = args.q.stride(1);
  p.q_stride_head = args.q.stride(2);
  p.cache = args.cache.data();
  p.cache_stride_page = args.cache.stride(0);
  p.cache_stride_token = args.cache.stride(1);
  p.kv_lens = args.kv_lens;
  p.page_table = args.page_table;
  p.page_table_stride = args.page_table_stride;
  p.out = args.out.data();
  p.out_stride_seq = args.out.stride(0);
  p.out_stride_token = args.out.stride(1);
  p.out_stride_head = args.out.stride(2);
  if (args.lse.present()) {
    p.lse = args.lse.as<float>();
    p.lse_stride_seq = args.lse.stride(0);
    p.lse_stride_token = args.lse.stride(1);
    p.lse_stride_head = args.lse.stride(2);
  }
  p.num_seqs = static_cast<int32_t>(args.q.dim(0));
  p.s_q = static_cast<int32_t>(args.q.dim(1));
  p.heads = static_cast<int32_t>(args.q.dim(2));
  p.num_pages = static_cast<int32_t>(args.cache.dim(0));
  p.page_size = static_cast<int32_t>(args.cache.dim(1));
  p.d_k = static_cast<int32_t>(args.q.dim(3));
  p.d_v = args.kv_lora_rank;
  p.scale = args.scale;
  p.cache_is_fp8 = args.cache.dtype() == DType::kF8E4M3;
  p.causal = args.causal;

  const ScheduleMemory schedule(args.schedule, call.shape);
  p.num_parts = call.shape.num_parts;
  p.part_begin = schedule.part_begin;
  p.items = schedule.items;
  p.first_items = schedule.first_items;
  p.num_merges = schedule.num_merges;
  p.merge_items = schedule.merge_items;
  if (call.merges_itself) {
    p.blocks_begun = schedule.blocks_begun;
    p.merge_arrivals = schedule.merge_arrivals;
  }
  p.part_out = static_cast<float*>(args.workspace);
  p.part_lse = reinterpret_cast<float*>(static_cast<char*>(args.workspace) +
                                        Partials(args, call.shape).out_bytes);
  return p;
}

}  // namespace

Result<MlaDecodeSizes> MlaDecodeMemory(const MlaDecodeArgs& args, const CudaContext& context) {
  MLA_RETURN_IF_ERROR(ValidateShapes(args));
  MLA_ASSIGN_OR_RETURN(const Call call, Prepare(args, context));
  const Partials partials(args, call.shape);
  return MlaDecodeSizes{.schedule_bytes = ScheduleMemory::Bytes(call.shape),
                        .workspace_bytes = partials.out_bytes + partials.lse_bytes};
}

Status MlaDecodeSchedule(const MlaDecodeArgs& args, const CudaContext& context) {
  MLA_RETURN_IF_ERROR(Validate(args));
  MLA_ASSIGN_OR_RETURN(const Call call, Prepare(args, context));
  if (call.shape.num_seqs == 0) return {};
  const cudaError_t error = LaunchSchedule(
      args.kv_lens, call.shape, ScheduleMemory(args.schedule, call.shape), context.stream);
  if (error != cudaSuccess) return CudaError(error, "launching the schedule of mla_decode");
  return {};
}

Status MlaDecode(const MlaDecodeArgs& args, const CudaContext& context) {
  MLA_RETURN_IF_ERROR(Validate(args));
  MLA_ASSIGN_OR_RETURN(const Call call, Prepare(args, context));
  if (call.shape.num_seqs == 0) return {};
  const MlaDecodeParams params = ParamsOf(args, call);
  cudaError_t error = call.kernel->launch(params, args.q.dtype(), context.stream);
  if (error != cudaSuccess) return CudaError(error, "launching mla_decode");
  if (call.merges_itself) return {};
  error = LaunchMerge(params, args.q.dtype() == DType::kBF16, call.shape, call.device.num_sms,
                      context.stream);
  if (error != cudaSuccess) return CudaError(error, "launching the merge of mla_decode");
  return {};
}

Result<KernelVerdicts> ExplainMlaDecode(const MlaDecodeArgs& args, const CudaContext& context) {
  MLA_RETURN_IF_ERROR(ValidateShapes(args));
  MLA_ASSIGN_OR_RETURN(const DeviceProperties device, CurrentDevice());
  return Judge<MlaDecodeKernel>(KernelsFor(args), args, device, context);
}

}  // namespace mla::cuda
