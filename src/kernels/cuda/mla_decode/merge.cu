// Merging the partial results of split sequences: out = sum_i exp(lse_i - lse) out_i with
// lse = log sum_i exp(lse_i). A unit of work is 128 columns of one row; a few warps share the
// splits of a unit where there are many, since the reads of one warp would come one after another.
#include <algorithm>
#include <array>
#include <atomic>

#include "kernels/cuda/convert.cuh"
#include "kernels/cuda/mla_decode/schedule_kernel.h"

namespace mla::cuda {
namespace {

constexpr int kWarp = 32;
constexpr int kWarps = 8;          // of a thread block
constexpr int kUnitColumns = 128;  // 4 per lane
constexpr unsigned kAll = 0xffffffffu;

struct Merge {
  const float* lse;  // of split 0; `stride` floats on, that of split 1
  int64_t stride;
  int32_t splits;
};

__device__ float WarpMax(float v) {
  for (int d = kWarp / 2; d > 0; d /= 2) v = fmaxf(v, __shfl_xor_sync(kAll, v, d));
  return v;
}
__device__ float WarpSum(float v) {
  for (int d = kWarp / 2; d > 0; d /= 2) v += __shfl_xor_sync(kAll, v, d);
  return v;
}

// The lse of all splits together; -inf where no split saw a key.
__device__ float TotalLse(const Merge& merge, int lane) {
  float most = -INFINITY;
  for (int i = lane; i < merge.splits; i += kWarp) most = fmaxf(most, merge.lse[i * merge.stride]);
  most = WarpMax(most);
  if (most == -INFINITY) return -INFINITY;
  float sum = 0;
  for (int i = lane; i < merge.splits; i += kWarp) sum += expf(merge.lse[i * merge.stride] - most);
  return most + logf(WarpSum(sum));
}

// The weighted sum of this warp's splits: first, first + step, ... Columns past d_v are not read.
__device__ float4 WeightedSum(const Merge& merge, float total, const float* out, int64_t stride,
                              int first, int step, bool real) {
  float4 sum = {0, 0, 0, 0};
#pragma unroll 8
  for (int i = first; i < merge.splits; i += step) {
    const float lse = merge.lse[i * merge.stride];
    const float weight = lse == -INFINITY ? 0.0f : expf(lse - total);
    if (!real) continue;
    const float4 part = *reinterpret_cast<const float4*>(out + i * stride);
    sum.x += weight * part.x;
    sum.y += weight * part.y;
    sum.z += weight * part.z;
    sum.w += weight * part.w;
  }
  return sum;
}

// The first `count` of four columns.
template <typename T>
__device__ void StoreColumns(T* out, const float4& v, int count) {
  Store(out, v.x);
  if (count > 1) Store(out + 1, v.y);
  if (count > 2) Store(out + 2, v.z);
  if (count > 3) Store(out + 3, v.w);
}

// kTeam: warps that share a unit. The sums of a team are added in the order of its warps, so the
// result does not change from run to run.
template <typename T, int kTeam>
__global__ void __launch_bounds__(kWarps* kWarp) MergeKernel(const MlaDecodeParams params) {
  __shared__ float4 sums[kWarps][kWarp];
#if __CUDA_ARCH__ >= 900
  cudaGridDependencySynchronize();
#endif
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const int warp = static_cast<int>(threadIdx.x) / kWarp;
  const int64_t rows = int64_t{params.s_q} * params.heads;
  const int32_t chunks = (params.d_v + kUnitColumns - 1) / kUnitColumns;
  const int64_t units = *params.num_merges * rows * chunks;
  constexpr int kTeams = kWarps / kTeam;

  for (int64_t base = int64_t{blockIdx.x} * kTeams; base < units;
       base += int64_t{gridDim.x} * kTeams) {
    const int64_t unit = base + warp / kTeam;
    const bool real = unit < units;
    const MergeItem item = params.merge_items[real ? unit / (rows * chunks) : 0];
    const int64_t row = unit / chunks % rows;
    const int32_t column = static_cast<int32_t>(unit % chunks) * kUnitColumns + lane * 4;
    const int64_t first = item.first_slot * rows + row;
    const Merge merge = {params.part_lse + first, rows, real ? item.num_slots : 0};
    const float total = TotalLse(merge, lane);
    const bool in_row = column < params.d_v;
    const int64_t pitch = PartPitch(params.d_v);
    float4 sum = WeightedSum(merge, total, params.part_out + first * pitch + column, rows * pitch,
                             warp % kTeam, kTeam, in_row);
    if constexpr (kTeam > 1) {
      sums[warp][lane] = sum;
      __syncthreads();
      for (int w = 1; w < kTeam && warp % kTeam == 0; ++w) {
        const float4 other = sums[warp + w][lane];
        sum = {sum.x + other.x, sum.y + other.y, sum.z + other.z, sum.w + other.w};
      }
      __syncthreads();
      if (warp % kTeam != 0) continue;
    }
    if (!real) continue;
    const int64_t token = row / params.heads, head = row % params.heads;
    if (in_row) {
      StoreColumns(static_cast<T*>(params.out) + item.seq * params.out_stride_seq +
                       token * params.out_stride_token + head * params.out_stride_head + column,
                   sum, params.d_v - column);
    }
    if (params.lse != nullptr && column == 0) {
      params.lse[item.seq * params.lse_stride_seq + token * params.lse_stride_token +
                 head * params.lse_stride_head] = total;
    }
  }
}

// Whether the code that runs on this device waits for the kernel before it (the condition in
// MergeKernel): code that was compiled from older PTX does not, and must not be started early.
bool WaitsOnDevice() {
  constexpr int kMaxDevices = 64;
  static std::array<std::atomic<int>, kMaxDevices> known{};  // 0: not asked yet, 1: no, 2: yes
  int device = 0;
  if (cudaGetDevice(&device) != cudaSuccess || device >= kMaxDevices) return false;
  if (known[device] == 0) {
    cudaFuncAttributes attributes = {};
    const cudaError_t error = cudaFuncGetAttributes(&attributes, MergeKernel<__half, 1>);
    known[device] = error == cudaSuccess && attributes.ptxVersion >= 90 ? 2 : 1;
  }
  return known[device] == 2;
}

template <typename T>
auto KernelFor(int team) {
  return team == 8   ? MergeKernel<T, 8>
         : team == 4 ? MergeKernel<T, 4>
         : team == 2 ? MergeKernel<T, 2>
                     : MergeKernel<T, 1>;
}

// Warps that share a unit. How many splits a sequence has is known on the device alone; this goes
// by their average, but where results must not depend on the batch, by nothing.
int TeamFor(const ScheduleShape& shape) {
  if (shape.batch_invariant) return 4;
  const int32_t splits = shape.num_parts / shape.num_seqs + 1;
  return splits >= 32 ? 8 : splits >= 12 ? 4 : splits >= 6 ? 2 : 1;
}

}  // namespace

cudaError_t LaunchMerge(const MlaDecodeParams& params, bool is_bf16, const ScheduleShape& shape,
                        int32_t num_sms, cudaStream_t stream) {
  const int team = TeamFor(shape);
  const int64_t units = MaxMerges(shape) * params.s_q * params.heads *
                        ((params.d_v + kUnitColumns - 1) / kUnitColumns);
  const int64_t teams = kWarps / team;
  const int64_t blocks = std::min<int64_t>((units + teams - 1) / teams, int64_t{num_sms} * 8);

  cudaLaunchConfig_t config = {};
  config.gridDim = dim3(static_cast<unsigned>(blocks));
  config.blockDim = dim3(kWarps * kWarp);
  config.stream = stream;
  cudaLaunchAttribute overlap = {};
  overlap.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  overlap.val.programmaticStreamSerializationAllowed = 1;
  config.attrs = &overlap;
  config.numAttrs = WaitsOnDevice() ? 1 : 0;
  return is_bf16 ? cudaLaunchKernelEx(&config, KernelFor<__nv_bfloat16>(team), params)
                 : cudaLaunchKernelEx(&config, KernelFor<__half>(team), params);
}

}  // namespace mla::cuda
