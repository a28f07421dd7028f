// A token takes one thread block for its cache row, a warp for each group of c_kv, and more for its
// queries, some heads each. Bound by launch and latency where tokens are few: everything that is
// read is asked for before any of it is used. With many tokens by the bytes of q_pe.
#include <algorithm>

#include "kernels/cuda/convert.cuh"
#include "kernels/cuda/fp8_latent.cuh"
#include "kernels/cuda/mla_append/mla_append.h"

namespace mla::cuda {
namespace {

constexpr int kWarp = 32;
constexpr int kThreads = 128;
constexpr int kMostPairs = kThreads;  // whose turns are in shared memory at a time
constexpr int kHeads = 2;             // of a thread, whose queries are under way together
constexpr int kBlocksPerSm = 10;
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
  int64_t tokens;
  int32_t runs;            // of kPairs, of a head: of up to kMostPairs
  int32_t heads_together;  // whose runs the threads of a block are
  uint32_t by_runs;        // divides the number of a thread by `runs`: 2^16 / runs, rounded up
};

__device__ int Thread() { return static_cast<int>(threadIdx.x); }

// Elements that lie together and are read or written at once. Runs of more than one begin at
// multiples of their bytes, or of 16 if they are longer.
template <typename T, int kCount>
struct alignas(kCount * sizeof(T) < 16 ? kCount * sizeof(T) : 16) Run {
  T at[kCount];
};

template <int kCount, typename T>
__device__ Run<T, kCount> Load(const T* from) {
  return *reinterpret_cast<const Run<T, kCount>*>(from);
}
template <int kCount, typename T>
__device__ void StoreRun(T* to, const Run<T, kCount>& run) {
  *reinterpret_cast<Run<T, kCount>*>(to) = run;
}

// How the pairs from `first` on are turned; the angle is formed in fp32, as the released
// implementations do. All threads call this, and meet before the turns are used.
__device__ void MakeTurns(const Params& p, int64_t token, int32_t first, float2* turns) {
  const int32_t pair = first + Thread();
  if (pair >= p.rope / 2) return;
  float sin, cos;
  sincosf(static_cast<float>(p.positions[token]) * p.inv_freq[pair], &sin, &cos);
  turns[Thread()] = make_float2(cos * p.magnitude, sin * p.magnitude);
}

// Neighbouring pairs of a head as they lie there: turn about (interleaved), or the first elements
// of all before the second of all.
template <int kPairs, typename T>
__device__ Run<T, 2 * kPairs> LoadPairs(const Params& p, const T* head, int32_t pair) {
  if (kPairs > 1 && p.interleaved) return Load<2 * kPairs>(head + 2 * pair);
  const T* const from = head + (p.interleaved ? 2 * pair : pair);
  const auto first = Load<kPairs>(from);
  const auto second = Load<kPairs>(from + (p.interleaved ? 1 : p.rope / 2));
  Run<T, 2 * kPairs> run;
#pragma unroll
  for (int k = 0; k < kPairs; ++k) {
    run.at[k] = first.at[k];
    run.at[kPairs + k] = second.at[k];
  }
  return run;
}

// Stores pairs as LoadPairs brought them, turned.
template <int kPairs, typename From, typename To>
__device__ void StoreTurned(const Params& p, const Run<From, 2 * kPairs>& run, const float2* turns,
                            To* head, int32_t pair) {
  Run<To, kPairs> first, second;
  Run<To, 2 * kPairs> both;
#pragma unroll
  for (int k = 0; k < kPairs; ++k) {
    const float x = ToFloat(p.interleaved ? run.at[2 * k] : run.at[k]);
    const float y = ToFloat(p.interleaved ? run.at[2 * k + 1] : run.at[kPairs + k]);
    const float2 turn = turns[k];
    Store(&first.at[k], x * turn.x - y * turn.y);
    Store(&second.at[k], x * turn.y + y * turn.x);
    both.at[2 * k] = first.at[k];
    both.at[2 * k + 1] = second.at[k];
  }
  if (kPairs > 1 && p.interleaved) {
    StoreRun(head + 2 * pair, both);
  } else {
    To* const to = head + (p.interleaved ? 2 * pair : pair);
    StoreRun(to, first);
    StoreRun(to + (p.interleaved ? 1 : p.rope / 2), second);
  }
}

// Turns the queries of some heads of a token: those of a thread are kHeads.
template <typename T, int kPairs>
__device__ void TurnQueries(const Params& p, int64_t token, int32_t block, float2* turns) {
  const auto own = static_cast<int32_t>((threadIdx.x * p.by_runs) >> 16);
  const int32_t begin = (Thread() - own * p.runs) * kPairs;
  const int32_t first_head = block * p.heads_together * kHeads + own;
  T* const queries = static_cast<T*>(p.q_pe) + token * p.q_pe_stride_token;
  for (int32_t first = 0; first < p.rope / 2; first += kMostPairs) {
    const int32_t pair = first + begin;
    const bool turns_some = own < p.heads_together && pair < p.rope / 2;
    Run<T, 2 * kPairs> q[kHeads];
#pragma unroll
    for (int k = 0; k < kHeads; ++k) {
      const int32_t head = first_head + k * p.heads_together;
      if (turns_some && head < p.heads) {
        q[k] = LoadPairs<kPairs>(p, queries + head * p.q_pe_stride_head, pair);
      }
    }
    __syncthreads();  // those before have been used
    MakeTurns(p, token, first, turns);
    __syncthreads();
#pragma unroll
    for (int k = 0; k < kHeads; ++k) {
      const int32_t head = first_head + k * p.heads_together;
      if (turns_some && head < p.heads) {
        StoreTurned<kPairs>(p, q[k], turns + begin, queries + head * p.q_pe_stride_head, pair);
      }
    }
  }
}

// Where the token is cached; null if it is not.
template <typename Cached>
__device__ Cached* RowOf(const Params& p, int64_t slot) {
  if (slot < 0 || slot >= p.num_slots) return nullptr;
  return static_cast<Cached*>(p.cache) + slot / p.page_size * p.cache_stride_page +
         slot % p.page_size * p.cache_stride_token;
}

// What a thread has of c_kv: of a plain cache a run, and those kThreads runs after it; of an FP8
// cache a few elements of its warp's group.
template <typename T, typename Cached, bool kWide>
class Latent {
 public:
  __device__ Latent(const Params& p, const T* c_kv) : rank_(p.rank), c_kv_(c_kv) {
    if (Begin() < rank_) run_ = Load<kCount>(c_kv + Begin());
  }

  __device__ void Store(Cached* row) {
    for (int32_t d = Begin(); d < rank_; d += kThreads * kCount) {
      Run<Cached, kCount> to;
#pragma unroll
      for (int k = 0; k < kCount; ++k) cuda::Store(&to.at[k], ToFloat(run_.at[k]));
      StoreRun(row + d, to);
      const int32_t next = d + kThreads * kCount;
      if (next < rank_) run_ = Load<kCount>(c_kv_ + next);
    }
  }

 private:
  static constexpr int kCount = kWide ? 8 : 1;
  __device__ static int32_t Begin() { return Thread() * kCount; }

  int32_t rank_;
  const T* c_kv_;
  Run<T, kCount> run_;
};

template <typename T, bool kWide>
class Latent<T, uint8_t, kWide> {
 public:
  __device__ Latent(const Params&, const T* c_kv) {
    if constexpr (kWide) {
      run_ = Load<kCount>(c_kv + Thread() * kCount);
    } else {
#pragma unroll
      for (int k = 0; k < kCount; ++k) run_.at[k] = c_kv[Thread() * kCount + k];
    }
  }

  __device__ void Store(uint8_t* row) const {
    float amax = 0;
#pragma unroll
    for (int k = 0; k < kCount; ++k) amax = fmaxf(amax, fabsf(ToFloat(run_.at[k])));
    for (int d = kWarp / 2; d > 0; d /= 2) amax = fmaxf(amax, __shfl_xor_sync(kAll, amax, d));
    const float scale = Fp8Scale(amax);
    Run<uint8_t, kCount> codes;
#pragma unroll
    for (int k = 0; k < kCount; ++k) {
      codes.at[k] = __nv_fp8_e4m3(ToFloat(run_.at[k]) / scale).__x;
    }
    StoreRun(row + Thread() * kCount, codes);
    if (Thread() % kWarp == 0) {
      reinterpret_cast<float*>(row + kFp8LatentRank)[Thread() / kWarp] = scale;
    }
  }

 private:
  static constexpr int kCount = kFp8LatentRank / kThreads;
  static_assert(kFp8LatentGroup == kWarp * kCount, "a warp has a group");
  Run<T, kCount> run_;
};

template <typename T, typename Cached, int kPairs>
__device__ void AppendRow(const Params& p, int64_t token, float2* turns) {
  const int64_t slot = p.slots[token];
  Latent<T, Cached, (kPairs > 1)> latent(p, static_cast<const T*>(p.c_kv) + token * p.c_kv_stride);
  const T* const k_pe = static_cast<const T*>(p.k_pe) + token * p.k_pe_stride;
  for (int32_t first = 0; first < p.rope / 2; first += kMostPairs) {
    const bool turns_some = Thread() * kPairs < min(kMostPairs, p.rope / 2 - first);
    const int32_t pair = first + Thread() * kPairs;
    Run<T, 2 * kPairs> k;
    if (turns_some) k = LoadPairs<kPairs>(p, k_pe, pair);
    __syncthreads();  // those before have been used
    MakeTurns(p, token, first, turns);
    __syncthreads();
    Cached* const row = RowOf<Cached>(p, slot);
    if (row == nullptr || !turns_some) continue;
    const float2* const own = turns + Thread() * kPairs;
    if constexpr (sizeof(Cached) == 1) {
      constexpr int kBefore = kFp8LatentBytes - 2 * kFp8LatentRope;
      StoreTurned<kPairs>(p, k, own, reinterpret_cast<__nv_bfloat16*>(row + kBefore), pair);
    } else {
      StoreTurned<kPairs>(p, k, own, row + p.rank, pair);
    }
  }
  if (Cached* const row = RowOf<Cached>(p, slot); row != nullptr) latent.Store(row);
}

// T: the type of the step's tensors. Cached: __nv_bfloat16, __half, or uint8_t for FP8 latents.
// kPairs of a head are taken together; more than one only where the call is IsWide.
template <typename T, typename Cached, int kPairs>
__global__ void __launch_bounds__(kThreads, kBlocksPerSm) AppendKernel(const Params p) {
  __shared__ float2 turns[kMostPairs];
  // The blocks of a token follow each other, as do their bytes: the first is for its cache row.
  const int64_t token = blockIdx.y + int64_t{blockIdx.z} * gridDim.y;
  if (token >= p.tokens) return;
  if (blockIdx.x == 0) {
    AppendRow<T, Cached, kPairs>(p, token, turns);
  } else {
    TurnQueries<T, kPairs>(p, token, static_cast<int32_t>(blockIdx.x) - 1, turns);
  }
}

constexpr int kWidePairs = 4;

// Whether all runs of kWidePairs pairs, and of twice as many elements, are where Run wants them.
bool IsWide(const MlaAppendArgs& args) {
  if (args.c_kv.dim(1) % (2 * kWidePairs) != 0 || args.k_pe.dim(1) % (2 * kWidePairs) != 0) {
    return false;
  }
  for (const ConstTensor& tensor :
       {args.c_kv, args.k_pe, ConstTensor(args.q_pe), ConstTensor(args.cache)}) {
    if (!tensor.present()) continue;
    if (reinterpret_cast<uintptr_t>(tensor.data()) % 16 != 0) return false;
    for (int axis = 0; axis + 1 < tensor.rank(); ++axis) {
      if (tensor.stride(axis) * BlockBytes(tensor.dtype()) % 16 != 0) return false;
    }
  }
  return true;
}

template <typename T, typename Cached>
cudaError_t LaunchOf(Params params, bool wide, cudaStream_t stream) {
  constexpr int64_t kMostInY = 65535;
  int32_t query_blocks = 0;
  if (params.heads > 0 && params.rope > 0) {
    params.runs = std::min(kMostPairs, params.rope / 2) / (wide ? kWidePairs : 1);
    params.heads_together = kThreads / params.runs;
    params.by_runs = static_cast<uint32_t>(((1 << 16) + params.runs - 1) / params.runs);
    query_blocks = (params.heads - 1) / (params.heads_together * kHeads) + 1;
  }
  const dim3 grid(static_cast<unsigned>(1 + query_blocks),
                  static_cast<unsigned>(std::min(params.tokens, kMostInY)),
                  static_cast<unsigned>((params.tokens + kMostInY - 1) / kMostInY));
  if (wide) {
    AppendKernel<T, Cached, kWidePairs><<<grid, kThreads, 0, stream>>>(params);
  } else {
    AppendKernel<T, Cached, 1><<<grid, kThreads, 0, stream>>>(params);
  }
  return cudaGetLastError();
}

template <typename T>
cudaError_t LaunchFor(const Params& params, DType cache, bool wide, cudaStream_t stream) {
  switch (cache) {
    case DType::kF8E4M3: return LaunchOf<T, uint8_t>(params, wide, stream);
    case DType::kBF16: return LaunchOf<T, __nv_bfloat16>(params, wide, stream);
    default: return LaunchOf<T, __half>(params, wide, stream);
  }
}

}  // namespace

cudaError_t LaunchMlaAppend(const MlaAppendArgs& args, cudaStream_t stream) {
  if (args.c_kv.dim(0) == 0) return cudaSuccess;
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
      .tokens = args.c_kv.dim(0),
      .runs = 0,
      .heads_together = 0,
      .by_runs = 0,
  };
  const DType cache = args.cache.dtype();
  const bool wide = IsWide(args);
  switch (args.c_kv.dtype()) {
    case DType::kF32: return LaunchFor<float>(params, cache, wide, stream);
    case DType::kBF16: return LaunchFor<__nv_bfloat16>(params, cache, wide, stream);
    default: return LaunchFor<__half>(params, cache, wide, stream);
  }
}

}  // namespace mla::cuda
