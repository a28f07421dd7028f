// One thread block per token: a warp for each group of c_kv, then the pairs of k_pe and q_pe.
// Bound by launch and latency: a token is a few hundred numbers.
#include "kernels/cuda/convert.cuh"
#include "kernels/cuda/fp8_latent.cuh"
#include "kernels/cuda/mla_append/mla_append.h"

namespace mla::cuda {
namespace {

constexpr int kWarp = 32;
constexpr int kThreads = 128;
constexpr unsigned kAll = 0xffffffffu;

struct Params {
  const void* c_kv;
  const void* k_pe;
  void* q_pe;
  int64_t c_kv_stride, k_pe_stride, q_pe_stride_token, q_pe_stride_head;
  const int32_t* positions;
  const int64_t* slots;
  const float* inv_freq;
  float magnitude;
  bool interleaved;
  void* cache;
  int64_t cache_stride_page, cache_stride_token;
  int64_t num_slots;
  int32_t page_size, rank, rope, heads;
};

// Rotates pair i of one head: from[..] to to[..], which may be the same.
template <typename From, typename To>
__device__ void RotatePair(const Params& p, int32_t i, float cos, float sin, const From* from,
                           To* to) {
  const int32_t a = p.interleaved ? 2 * i : i;
  const int32_t b = p.interleaved ? 2 * i + 1 : i + p.rope / 2;
  const float x = ToFloat(from[a]), y = ToFloat(from[b]);
  Store(to + a, x * cos - y * sin);
  Store(to + b, x * sin + y * cos);
}

// The turn of pair i; the angle is formed in fp32, as the released implementations do.
__device__ void Turn(const Params& p, int32_t token, int32_t i, float* cos, float* sin) {
  sincosf(static_cast<float>(p.positions[token]) * p.inv_freq[i], sin, cos);
  *cos *= p.magnitude;
  *sin *= p.magnitude;
}

template <typename T>
__device__ void QuantiseGroup(const T* from, uint8_t* row, int32_t group, int lane) {
  float amax = 0;
  for (int32_t d = lane; d < kFp8LatentGroup; d += kWarp) {
    amax = fmaxf(amax, fabsf(ToFloat(from[group * kFp8LatentGroup + d])));
  }
  for (int d = kWarp / 2; d > 0; d /= 2) amax = fmaxf(amax, __shfl_xor_sync(kAll, amax, d));
  const float scale = Fp8Scale(amax);
  for (int32_t d = lane; d < kFp8LatentGroup; d += kWarp) {
    const int32_t at = group * kFp8LatentGroup + d;
    row[at] = __nv_fp8_e4m3(ToFloat(from[at]) / scale).__x;
  }
  if (lane == 0) reinterpret_cast<float*>(row + kFp8LatentRank)[group] = scale;
}

template <typename T, typename Cached>
__device__ void AppendPlain(const Params& p, int64_t token, Cached* row) {
  const T* c_kv = static_cast<const T*>(p.c_kv) + token * p.c_kv_stride;
  for (int32_t d = threadIdx.x; d < p.rank; d += kThreads) Store(row + d, ToFloat(c_kv[d]));
}

template <typename T>
__device__ void AppendFp8(const Params& p, int64_t token, uint8_t* row) {
  const T* c_kv = static_cast<const T*>(p.c_kv) + token * p.c_kv_stride;
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  for (int32_t group = threadIdx.x / kWarp; group < kFp8LatentRank / kFp8LatentGroup;
       group += kThreads / kWarp) {
    QuantiseGroup(c_kv, row, group, lane);
  }
}

// T: the type of the step's tensors. Cached: __nv_bfloat16, __half, or uint8_t for FP8 latents.
template <typename T, typename Cached>
__global__ void __launch_bounds__(kThreads) AppendKernel(const Params p) {
  const int64_t token = blockIdx.x;
  constexpr bool kFp8 = sizeof(Cached) == 1;
  for (int32_t i = threadIdx.x; i < p.rope / 2 * p.heads; i += kThreads) {
    float cos, sin;
    const int32_t pair = i % (p.rope / 2), head = i / (p.rope / 2);
    Turn(p, static_cast<int32_t>(token), pair, &cos, &sin);
    T* q = static_cast<T*>(p.q_pe) + token * p.q_pe_stride_token + head * p.q_pe_stride_head;
    RotatePair(p, pair, cos, sin, q, q);
  }
  const int64_t slot = p.slots[token];
  if (slot < 0 || slot >= p.num_slots) return;
  Cached* row = static_cast<Cached*>(p.cache) + slot / p.page_size * p.cache_stride_page +
                slot % p.page_size * p.cache_stride_token;
  if constexpr (kFp8) {
    AppendFp8<T>(p, token, row);
  } else {
    AppendPlain<T>(p, token, row);
  }
  for (int32_t i = threadIdx.x; i < p.rope / 2; i += kThreads) {
    float cos, sin;
    Turn(p, static_cast<int32_t>(token), i, &cos, &sin);
    const T* k = static_cast<const T*>(p.k_pe) + token * p.k_pe_stride;
    if constexpr (kFp8) {
      constexpr int kBefore = kFp8LatentBytes - 2 * kFp8LatentRope;
      RotatePair(p, i, cos, sin, k, reinterpret_cast<__nv_bfloat16*>(row + kBefore));
    } else {
      RotatePair(p, i, cos, sin, k, row + p.rank);
    }
  }
}

template <typename T>
void LaunchFor(const Params& params, DType cache, unsigned tokens, cudaStream_t stream) {
  if (cache == DType::kF8E4M3) {
    AppendKernel<T, uint8_t><<<tokens, kThreads, 0, stream>>>(params);
  } else if (cache == DType::kBF16) {
    AppendKernel<T, __nv_bfloat16><<<tokens, kThreads, 0, stream>>>(params);
  } else {
    AppendKernel<T, __half><<<tokens, kThreads, 0, stream>>>(params);
  }
}

}  // namespace

cudaError_t LaunchMlaAppend(const MlaAppendArgs& args, cudaStream_t stream) {
  const auto tokens = static_cast<unsigned>(args.c_kv.dim(0));
  if (tokens == 0) return cudaSuccess;
  const bool queries = args.q_pe.present();
  const Params params = {
      .c_kv = args.c_kv.data(),
      .k_pe = args.k_pe.data(),
      .q_pe = args.q_pe.data(),
      .c_kv_stride = args.c_kv.stride(0),
      .k_pe_stride = args.k_pe.stride(0),
      .q_pe_stride_token = queries ? args.q_pe.stride(0) : 0,
      .q_pe_stride_head = queries ? args.q_pe.stride(1) : 0,
      .positions = args.positions,
      .slots = args.slots,
      .inv_freq = args.inv_freq,
      .magnitude = args.magnitude,
      .interleaved = args.pairing == RopePairing::kInterleaved,
      .cache = args.cache.data(),
      .cache_stride_page = args.cache.stride(0),
      .cache_stride_token = args.cache.stride(1),
      .num_slots = args.cache.dim(0) * args.cache.dim(1),
      .page_size = static_cast<int32_t>(args.cache.dim(1)),
      .rank = static_cast<int32_t>(args.c_kv.dim(1)),
      .rope = static_cast<int32_t>(args.k_pe.dim(1)),
      .heads = queries ? static_cast<int32_t>(args.q_pe.dim(1)) : 0,
  };
  switch (args.c_kv.dtype()) {
    case DType::kF32: LaunchFor<float>(params, args.cache.dtype(), tokens, stream); break;
    case DType::kBF16: LaunchFor<__nv_bfloat16>(params, args.cache.dtype(), tokens, stream); break;
    default: LaunchFor<__half>(params, args.cache.dtype(), tokens, stream);
  }
  return cudaGetLastError();
}

}  // namespace mla::cuda
