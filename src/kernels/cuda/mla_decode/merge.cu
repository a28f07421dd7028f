// Merging the partial results of split sequences: out = sum_i exp(lse_i - lse) out_i with
// lse = log sum_i exp(lse_i). A unit of work is some columns of one row, and what takes time is not
// the bytes but waiting for them: a thread asks for all that it needs, lse and partial results of
// several splits, before it uses any of it. Where there are many splits a unit has few columns,
// and groups of threads share the splits.
#include <algorithm>
#include <array>
#include <atomic>

#include "kernels/cuda/convert.cuh"
#include "kernels/cuda/mla_decode/kernel.h"
#include "kernels/cuda/mla_decode/schedule_kernel.h"

namespace mla::cuda {
namespace {

constexpr int kWarp = 32;
constexpr int kMostColumns = 512;  // of a unit
constexpr int32_t kThreadsPerSm = 1024;
constexpr unsigned kAll = 0xffffffffu;

// A group of threads has the columns of a unit, four each; kGroups of them share its splits.
template <int kGroups>
struct Shape {
  static constexpr int kColumns = kGroups <= 2 ? kMostColumns : 2 * kMostColumns / kGroups;
  static constexpr int kGroupThreads = kColumns / 4;
  static constexpr int kThreads = kGroupThreads * kGroups;
  // Splits of a thread that are under way at once: as many as there usually are (GroupsFor), since
  // registers are better spent on more threads.
  static constexpr int kAhead = kGroups == 1 ? 4 : kGroups < 16 ? 6 : 8;
  static_assert(kThreads % kWarp == 0 && kThreads <= 256);
};

__device__ float WarpMax(float v) {
  for (int d = kWarp / 2; d > 0; d /= 2) v = fmaxf(v, __shfl_xor_sync(kAll, v, d));
  return v;
}
__device__ float WarpSum(float v) {
  for (int d = kWarp / 2; d > 0; d /= 2) v += __shfl_xor_sync(kAll, v, d);
  return v;
}

// The lse of a row's splits, each `stride` floats after the one before.
struct Splits {
  const float* lse;
  int64_t stride;
  int32_t count;

  __device__ float Lse(int i) const { return i < count ? lse[i * stride] : -INFINITY; }
};

// The greatest lse that is a number, else 0, and sum_i exp(lse_i - greatest): 0 where no split saw
// a key, NaN where the lse of one is.
struct Total {
  float most, sum;
};

// By all lanes of a warp.
__device__ Total SumUp(const Splits& splits) {
  constexpr int kAhead = 4;
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  float lse[kAhead];
#pragma unroll
  for (int k = 0; k < kAhead; ++k) lse[k] = splits.Lse(lane + k * kWarp);
  Total total = {-INFINITY, 0};
#pragma unroll
  for (int k = 0; k < kAhead; ++k) total.most = fmaxf(total.most, lse[k]);
  for (int i = lane + kAhead * kWarp; i < splits.count; i += kWarp) {
    total.most = fmaxf(total.most, splits.Lse(i));
  }
  total.most = WarpMax(total.most);
  if (total.most == -INFINITY) total.most = 0;
#pragma unroll
  for (int k = 0; k < kAhead; ++k) total.sum += expf(lse[k] - total.most);
  for (int i = lane + kAhead * kWarp; i < splits.count; i += kWarp) {
    total.sum += expf(splits.Lse(i) - total.most);
  }
  total.sum = WarpSum(total.sum);
  return total;
}

// Up to kAhead splits of a thread: first, first + kGroups, ...
template <int kGroups>
struct Batch {
  static constexpr int kAhead = Shape<kGroups>::kAhead;
  float4 out[kAhead];
  float lse[kAhead];

  // `out`: of split 0, `stride` floats from one to the next.
  __device__ void Load(const Splits& splits, const float* from, int64_t stride, int first) {
#pragma unroll
    for (int k = 0; k < kAhead; ++k) {
      const int i = first + k * kGroups;
      lse[k] = splits.Lse(i);
      out[k] = make_float4(0, 0, 0, 0);
      if (i < splits.count) out[k] = *reinterpret_cast<const float4*>(from + i * stride);
    }
  }
  __device__ void AddTo(float4& sum, const Total& total) const {
    if (total.sum == 0) return;
#pragma unroll
    for (int k = 0; k < kAhead; ++k) {
      const float weight = expf(lse[k] - total.most);
      sum.x += weight * out[k].x;
      sum.y += weight * out[k].y;
      sum.z += weight * out[k].z;
      sum.w += weight * out[k].w;
    }
  }
};

// The first `count` of four columns.
template <typename T>
__device__ void StoreColumns(T* out, const float4& v, int count) {
  if (count >= 4 && reinterpret_cast<uintptr_t>(out) % 8 == 0) {
    alignas(8) T four[4];
    Store(four, v.x);
    Store(four + 1, v.y);
    Store(four + 2, v.z);
    Store(four + 3, v.w);
    *reinterpret_cast<uint2*>(out) = *reinterpret_cast<const uint2*>(four);
    return;
  }
  Store(out, v.x);
  if (count > 1) Store(out + 1, v.y);
  if (count > 2) Store(out + 2, v.z);
  if (count > 3) Store(out + 3, v.w);
}

// The sum over the groups, in their order: the result does not change from run to run. For the
// threads of the first group.
template <int kGroups>
__device__ float4 SumOfGroups(float4 sum) {
  if constexpr (kGroups > 1) {
    using S = Shape<kGroups>;
    __shared__ float4 sums[S::kThreads - S::kGroupThreads];
    const int thread = static_cast<int>(threadIdx.x);
    __syncthreads();  // the unit before this one has been summed up
    if (thread >= S::kGroupThreads) sums[thread - S::kGroupThreads] = sum;
    __syncthreads();
    if (thread >= S::kGroupThreads) return sum;
#pragma unroll
    for (int group = 1; group < kGroups; ++group) {
      const float4 other = sums[(group - 1) * S::kGroupThreads + thread];
      sum = {sum.x + other.x, sum.y + other.y, sum.z + other.z, sum.w + other.w};
    }
  }
  return sum;
}

template <typename T, int kGroups>
__global__ void __launch_bounds__(Shape<kGroups>::kThreads,
                                  kThreadsPerSm / Shape<kGroups>::kThreads)
    MergeKernel(const MlaDecodeParams params) {
  using S = Shape<kGroups>;
#if __CUDA_ARCH__ >= 900
  // The kernel after this one waits for the end of this grid before it reads anything.
  cudaTriggerProgrammaticLaunchCompletion();
#endif
  const int group = static_cast<int>(threadIdx.x) / S::kGroupThreads;
  const int lane_column = static_cast<int>(threadIdx.x) % S::kGroupThreads * 4;
  const int32_t rows = params.s_q * params.heads;
  const int32_t chunks = (params.d_v + S::kColumns - 1) / S::kColumns;
  const int64_t pitch = PartPitch(params.d_v);
  // The schedule was complete before the attention kernel began, or let this one begin.
  const int64_t units = int64_t{*params.num_merges} * rows * chunks;
  bool waited = false;

  for (int64_t unit = blockIdx.x; unit < units; unit += gridDim.x) {
    const auto all_rows = static_cast<int32_t>(unit / chunks);  // fits: part_lse has as many
    const MergeItem item = params.merge_items[all_rows / rows];
    const int32_t row = all_rows % rows;
    const int32_t column = static_cast<int32_t>(unit % chunks) * S::kColumns + lane_column;
    const int64_t first = int64_t{item.first_slot} * rows + row;
    const Splits splits = {params.part_lse + first, rows, item.num_slots};
    const Splits mine = {splits.lse, rows, column < params.d_v ? item.num_slots : 0};
    const float* const part = params.part_out + first * pitch + column;
#if __CUDA_ARCH__ >= 900
    if (!waited) cudaGridDependencySynchronize();
#endif
    waited = true;
    Batch<kGroups> batch;
    batch.Load(mine, part, rows * pitch, group);
    const Total total = SumUp(splits);
    float4 sum = {0, 0, 0, 0};
    batch.AddTo(sum, total);
    for (int i = group + S::kAhead * kGroups; i < item.num_slots; i += S::kAhead * kGroups) {
      batch.Load(mine, part, rows * pitch, i);
      batch.AddTo(sum, total);
    }
    sum = SumOfGroups<kGroups>(sum);
    if (group != 0) continue;
    const int32_t token = row / params.heads, head = row - token * params.heads;
    if (column < params.d_v) {
      const float scale = total.sum == 0 ? 0.0f : 1 / total.sum;
      StoreColumns(static_cast<T*>(params.out) + item.seq * params.out_stride_seq +
                       token * params.out_stride_token + head * params.out_stride_head + column,
                   float4{sum.x * scale, sum.y * scale, sum.z * scale, sum.w * scale},
                   params.d_v - column);
    }
    if (params.lse != nullptr && column == 0) {
      params.lse[item.seq * params.lse_stride_seq + token * params.lse_stride_token +
                 head * params.lse_stride_head] =
          total.sum == 0 ? -INFINITY : total.most + logf(total.sum);
    }
  }
#if __CUDA_ARCH__ >= 900
  // What follows this kernel follows the attention kernel, too.
  if (!waited) cudaGridDependencySynchronize();
#endif
}

}  // namespace

// As the condition in MergeKernel; all kernels are compiled for the same architectures.
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

namespace {

// Groups that share the splits of a unit. How many splits a sequence has is known on the device
// alone; this goes by their average, but where results must not depend on the batch, by nothing.
int GroupsFor(const ScheduleShape& shape) {
  if (shape.batch_invariant) return 4;
  const int32_t splits = shape.num_parts / shape.num_seqs + 1;
  return splits > 40 ? 16 : splits > 20 ? 8 : splits > 10 ? 4 : splits > 4 ? 2 : 1;
}

template <typename T, int kGroups>
cudaError_t Launch(const MlaDecodeParams& params, const ScheduleShape& shape, int32_t num_sms,
                   cudaStream_t stream) {
  using S = Shape<kGroups>;
  const int64_t units =
      MaxMerges(shape) * params.s_q * params.heads * ((params.d_v + S::kColumns - 1) / S::kColumns);
  const int64_t resident = int64_t{num_sms} * (kThreadsPerSm / S::kThreads);
  cudaLaunchConfig_t config = {};
  config.gridDim = dim3(static_cast<unsigned>(std::min(units, resident)));
  config.blockDim = dim3(S::kThreads);
  config.stream = stream;
  cudaLaunchAttribute overlap = {};
  overlap.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  overlap.val.programmaticStreamSerializationAllowed = 1;
  config.attrs = &overlap;
  config.numAttrs = WaitsOnDevice() ? 1 : 0;
  return cudaLaunchKernelEx(&config, MergeKernel<T, kGroups>, params);
}

template <typename T>
cudaError_t LaunchFor(const MlaDecodeParams& params, const ScheduleShape& shape, int32_t num_sms,
                      cudaStream_t stream) {
  switch (GroupsFor(shape)) {
    case 16: return Launch<T, 16>(params, shape, num_sms, stream);
    case 8: return Launch<T, 8>(params, shape, num_sms, stream);
    case 4: return Launch<T, 4>(params, shape, num_sms, stream);
    case 2: return Launch<T, 2>(params, shape, num_sms, stream);
    default: return Launch<T, 1>(params, shape, num_sms, stream);
  }
}

}  // namespace

cudaError_t LaunchMerge(const MlaDecodeParams& params, bool is_bf16, const ScheduleShape& shape,
                        int32_t num_sms, cudaStream_t stream) {
  return is_bf16 ? LaunchFor<__nv_bfloat16>(params, shape, num_sms, stream)
                 : LaunchFor<__half>(params, shape, num_sms, stream);
}

}  // namespace mla::cuda
