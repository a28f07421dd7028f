// Plain CUDA for every legal call: a thread block holds a few query rows and walks the keys in
// tiles; a warp computes one score at a time, and each thread owns columns of the output.
#include "kernels/cuda/convert.cuh"
#include "kernels/cuda/device.h"
#include "kernels/cuda/fp8_latent.cuh"
#include "kernels/cuda/mla_decode/kernel.h"

namespace mla::cuda {
namespace {

constexpr int kWarp = 32;
constexpr int kWarps = 8;
constexpr int kThreads = kWarps * kWarp;
constexpr int kRows = 4;       // query rows of a thread block
constexpr int kTileKeys = 64;  // scores are kept for as many keys
constexpr unsigned kAll = 0xffffffffu;

// The shared memory of a thread block, carved out of one allocation.
struct Shared {
  float* q;        // [kRows, d_k], scaled
  float* acc;      // [kRows, d_v]
  float* score;    // [kRows, kTileKeys]
  float* rescale;  // [kRows]
  float* most;     // [kRows]: the largest score yet
  float* sum;      // [kRows]: of exp(score - most)

  static size_t Floats(int32_t d_k, int32_t d_v) {
    return kRows * (int64_t{d_k} + d_v + kTileKeys + 3);
  }
  __device__ Shared(float* memory, int32_t d_k, int32_t d_v)
      : q(memory),
        acc(q + kRows * d_k),
        score(acc + kRows * d_v),
        rescale(score + kRows * kTileKeys),
        most(rescale + kRows),
        sum(most + kRows) {}
};

struct Rows {
  int32_t first;
  int32_t count;
};

// First key that the row's token does not see.
__device__ int32_t VisibleEnd(const MlaDecodeParams& params, int32_t row, int32_t kv_len) {
  if (!params.causal) return kv_len;
  return kv_len - params.s_q + row / params.heads + 1;
}

template <typename T>
__device__ void LoadQueries(const MlaDecodeParams& params, int32_t seq, const Rows& rows,
                            const Shared& shared) {
  for (int32_t i = threadIdx.x; i < rows.count * params.d_k; i += kThreads) {
    const int32_t row = rows.first + i / params.d_k;
    const T* q = static_cast<const T*>(params.q) + seq * params.q_stride_seq +
                 row / params.heads * params.q_stride_token +
                 row % params.heads * params.q_stride_head;
    shared.q[i] = ToFloat(q[i % params.d_k]) * params.scale;
  }
  for (int32_t i = threadIdx.x; i < kRows * params.d_v; i += kThreads) shared.acc[i] = 0;
  if (threadIdx.x < kRows) {
    shared.most[threadIdx.x] = -INFINITY;
    shared.sum[threadIdx.x] = 0;
  }
}

// A cached token in the type of the queries.
template <typename T>
struct PlainKey {
  const T* row;
  __device__ float operator[](int32_t d) const { return ToFloat(row[d]); }
};

// Key is PlainKey or Fp8Latent.
template <typename Key>
__device__ Key KeyAt(const MlaDecodeParams& params, int32_t seq, int32_t key) {
  const int64_t page = params.page_table[seq * params.page_table_stride + key / params.page_size];
  using Pointer = decltype(Key::row);
  return {static_cast<Pointer>(params.cache) + page * params.cache_stride_page +
          key % params.page_size * params.cache_stride_token};
}

// Scores of keys [begin, end), -inf where the row does not see the key.
template <typename Key>
__device__ void Scores(const MlaDecodeParams& params, int32_t seq, const Rows& rows, int32_t begin,
                       int32_t end, int32_t kv_len, const Shared& shared) {
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const int warp = static_cast<int>(threadIdx.x) / kWarp;
  for (int32_t key = begin + warp; key < end; key += kWarps) {
    const Key k = KeyAt<Key>(params, seq, key);
    float dot[kRows] = {};
    for (int32_t d = lane; d < params.d_k; d += kWarp) {
      const float x = k[d];
#pragma unroll
      for (int r = 0; r < kRows; ++r) {
        if (r < rows.count) dot[r] += shared.q[r * params.d_k + d] * x;
      }
    }
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      for (int d = kWarp / 2; d > 0; d /= 2) dot[r] += __shfl_xor_sync(kAll, dot[r], d);
      if (lane == 0 && r < rows.count) {
        const bool seen = key < VisibleEnd(params, rows.first + r, kv_len);
        shared.score[r * kTileKeys + key - begin] = seen ? dot[r] : -INFINITY;
      }
    }
  }
}

// Scores to weights, and what the sums so far are to be multiplied by. One warp per row.
__device__ void Softmax(int32_t keys, const Rows& rows, const Shared& shared) {
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const int r = static_cast<int>(threadIdx.x) / kWarp;
  if (r >= rows.count) return;
  float* score = shared.score + r * kTileKeys;
  float most = shared.most[r];
  for (int i = lane; i < keys; i += kWarp) most = fmaxf(most, score[i]);
  for (int d = kWarp / 2; d > 0; d /= 2) most = fmaxf(most, __shfl_xor_sync(kAll, most, d));
  float sum = 0;
  for (int i = lane; i < keys; i += kWarp) {
    // Of a row that saw nothing; the difference from a NaN is a NaN.
    const float p = score[i] == -INFINITY ? 0.0f : expf(score[i] - most);
    score[i] = p;
    sum += p;
  }
  for (int d = kWarp / 2; d > 0; d /= 2) sum += __shfl_xor_sync(kAll, sum, d);
  if (lane == 0) {
    const float rescale = shared.most[r] == -INFINITY ? 0.0f : expf(shared.most[r] - most);
    shared.rescale[r] = rescale;
    shared.most[r] = most;
    shared.sum[r] = shared.sum[r] * rescale + sum;
  }
}

template <typename Key>
__device__ void Accumulate(const MlaDecodeParams& params, int32_t seq, int32_t begin, int32_t end,
                           const Rows& rows, const Shared& shared) {
  for (int32_t d = threadIdx.x; d < params.d_v; d += kThreads) {
    float acc[kRows];
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      acc[r] = r < rows.count ? shared.acc[r * params.d_v + d] * shared.rescale[r] : 0.0f;
    }
    for (int32_t key = begin; key < end; ++key) {
      const float v = KeyAt<Key>(params, seq, key)[d];
#pragma unroll
      for (int r = 0; r < kRows; ++r) acc[r] += shared.score[r * kTileKeys + key - begin] * v;
    }
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      if (r < rows.count) shared.acc[r * params.d_v + d] = acc[r];
    }
  }
}

template <typename T>
__device__ void StoreRows(const MlaDecodeParams& params, const WorkItem& item, const Rows& rows,
                          const Shared& shared) {
  const int64_t all_rows = int64_t{params.s_q} * params.heads;
  for (int32_t i = threadIdx.x; i < rows.count * params.d_v; i += kThreads) {
    const int32_t r = i / params.d_v, d = i % params.d_v, row = rows.first + r;
    const float value = shared.sum[r] == 0 ? 0.0f : shared.acc[i] / shared.sum[r];
    if (item.slot >= 0) {
      params.part_out[(item.slot * all_rows + row) * PartPitch(params.d_v) + d] = value;
    } else {
      Store(static_cast<T*>(params.out) + item.seq * params.out_stride_seq +
                row / params.heads * params.out_stride_token +
                row % params.heads * params.out_stride_head + d,
            value);
    }
  }
  if (threadIdx.x >= rows.count) return;
  const int32_t r = threadIdx.x, row = rows.first + r;
  const float lse = shared.sum[r] == 0 ? -INFINITY : shared.most[r] + logf(shared.sum[r]);
  if (item.slot >= 0) {
    params.part_lse[item.slot * all_rows + row] = lse;
  } else if (params.lse != nullptr) {
    params.lse[item.seq * params.lse_stride_seq + row / params.heads * params.lse_stride_token +
               row % params.heads * params.lse_stride_head] = lse;
  }
}

template <typename T, typename Key>
__global__ void __launch_bounds__(kThreads) PlainKernel(const MlaDecodeParams params) {
  extern __shared__ float memory[];
  const Shared shared(memory, params.d_k, params.d_v);
  const int32_t all_rows = params.s_q * params.heads;
  const int32_t first = static_cast<int32_t>(blockIdx.x) * kRows;
  const Rows rows = {first, min(kRows, all_rows - first)};
  // Weights of rows that do not exist multiply keys that do.
  for (int32_t i = threadIdx.x; i < kRows * kTileKeys; i += kThreads) shared.score[i] = 0;
  const int32_t part = static_cast<int32_t>(blockIdx.y);
  for (int32_t i = params.part_begin[part]; i < params.part_begin[part + 1]; ++i) {
    const WorkItem item = params.items[i];
    const int64_t held = params.page_table_stride * params.page_size;
    const auto kv_len = static_cast<int32_t>(min(int64_t{params.kv_lens[item.seq]}, held));
    const int32_t end = min(kv_len, item.end_block * kBlockTokens);
    __syncthreads();
    LoadQueries<T>(params, item.seq, rows, shared);
    for (int32_t begin = item.first_block * kBlockTokens; begin < end; begin += kTileKeys) {
      const int32_t tile_end = min(end, begin + kTileKeys);
      __syncthreads();
      Scores<Key>(params, item.seq, rows, begin, tile_end, kv_len, shared);
      __syncthreads();
      Softmax(tile_end - begin, rows, shared);
      __syncthreads();
      Accumulate<Key>(params, item.seq, begin, tile_end, rows, shared);
    }
    __syncthreads();
    StoreRows<T>(params, item, rows, shared);
  }
}

size_t SharedBytes(int32_t d_k, int32_t d_v) { return Shared::Floats(d_k, d_v) * sizeof(float); }

std::string_view Refuses(const MlaDecodeArgs& args, const DeviceProperties& device) {
  const auto d_k = static_cast<int32_t>(args.q.dim(3));
  if (SharedBytes(d_k, args.kv_lora_rank) > device.max_shared_bytes) {
    return "d_k and kv_lora_rank of four rows do not fit in shared memory";
  }
  return {};
}

int32_t RowTile(const MlaDecodeArgs&, const DeviceProperties&) { return kRows; }
int32_t BlocksPerSm(const MlaDecodeArgs&, const DeviceProperties&) { return 4; }

template <typename T, typename Key>
cudaError_t Launch(const MlaDecodeParams& params, cudaStream_t stream) {
  const size_t bytes = SharedBytes(params.d_k, params.d_v);
  const auto error = static_cast<cudaError_t>(
      AllowAllSharedMemory(reinterpret_cast<const void*>(PlainKernel<T, Key>)));
  if (error != cudaSuccess) return error;
  const int32_t tiles = (params.s_q * params.heads + kRows - 1) / kRows;
  const dim3 grid(static_cast<unsigned>(tiles), static_cast<unsigned>(params.num_parts));
  PlainKernel<T, Key><<<grid, kThreads, bytes, stream>>>(params);
  return cudaGetLastError();
}

template <typename T>
cudaError_t LaunchFor(const MlaDecodeParams& params, cudaStream_t stream) {
  return params.cache_is_fp8 ? Launch<T, Fp8Latent>(params, stream)
                             : Launch<T, PlainKey<T>>(params, stream);
}

cudaError_t LaunchPlain(const MlaDecodeParams& params, DType dtype, cudaStream_t stream) {
  return dtype == DType::kBF16 ? LaunchFor<__nv_bfloat16>(params, stream)
                               : LaunchFor<__half>(params, stream);
}

}  // namespace

const MlaDecodeKernel kMlaDecodePlain = {"plain", Refuses, RowTile, BlocksPerSm, LaunchPlain};

}  // namespace mla::cuda
