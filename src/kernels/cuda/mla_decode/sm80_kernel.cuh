// The Ampere kernel of mla_decode, and its launch: included by one source file per (d_k, d_v).
#ifndef MLA_KERNELS_CUDA_MLA_DECODE_SM80_KERNEL_CUH_
#define MLA_KERNELS_CUDA_MLA_DECODE_SM80_KERNEL_CUH_

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>

#include "kernels/cuda/device.h"
#include "kernels/cuda/mla_decode/params.h"
#include "kernels/cuda/mla_decode/sm80.h"
#include "kernels/cuda/mla_decode/sm80_feeder.cuh"
#include "kernels/cuda/mla_decode/sm80_products.cuh"
#include "kernels/cuda/mla_decode/sm80_softmax.cuh"
#include "kernels/cuda/ptx_sm80.cuh"

namespace mla::cuda::sm80 {

// Waits until at most `pending` of this thread's groups of copies are under way.
__device__ __forceinline__ void WaitForCopies(int pending) {
  static_assert(kMaxStages == 8);
  switch (pending) {
    case 0: WaitCopies<0>(); break;
    case 1: WaitCopies<1>(); break;
    case 2: WaitCopies<2>(); break;
    case 3: WaitCopies<3>(); break;
    case 4: WaitCopies<4>(); break;
    case 5: WaitCopies<5>(); break;
    default: WaitCopies<6>(); break;
  }
}

// Where the results of a work item go: out and lse, or a slot of the partial results.
template <typename T>
class ResultRows {
 public:
  __device__ ResultRows(const MlaDecodeParams& params, const WorkItem& item)
      : params_(params), item_(item) {}

  __device__ void StoreLse(int32_t row, float lse) const {
    if (row >= num_rows()) return;
    if (item_.slot >= 0) {
      params_.part_lse[item_.slot * num_rows() + row] = lse;
    } else if (params_.lse != nullptr) {
      params_.lse[item_.seq * params_.lse_stride_seq + token(row) * params_.lse_stride_token +
                  head(row) * params_.lse_stride_head] = lse;
    }
  }

  // Stores two neighbouring columns each, 8 columns apart.
  template <int kPairs>
  __device__ __forceinline__ void StoreOutput(int32_t row, int column,
                                              const float2 (&pairs)[kPairs]) const {
    if (row >= num_rows()) return;
    if (item_.slot >= 0) {
      float* to = Partial(row) + column;
#pragma unroll
      for (int i = 0; i < kPairs; ++i) *reinterpret_cast<float2*>(to + i * 8) = pairs[i];
    } else {
      uint16_t* to = Output(row) + column;
#pragma unroll
      for (int i = 0; i < kPairs; ++i) {
        *reinterpret_cast<uint32_t*>(to + i * 8) = PackPair<T>(pairs[i].x, pairs[i].y);
      }
    }
  }

  // Stores 8 neighbouring columns, from a multiple of 8 on, of a row that begins at a multiple of
  // 16 bytes.
  __device__ __forceinline__ void StoreEight(int32_t row, int column, const float (&v)[8]) const {
    if (row >= num_rows()) return;
    if (item_.slot >= 0) {
      auto* to = reinterpret_cast<float4*>(Partial(row) + column);
      to[0] = {v[0], v[1], v[2], v[3]};
      to[1] = {v[4], v[5], v[6], v[7]};
    } else {
      *reinterpret_cast<uint4*>(Output(row) + column) = {
          PackPair<T>(v[0], v[1]), PackPair<T>(v[2], v[3]), PackPair<T>(v[4], v[5]),
          PackPair<T>(v[6], v[7])};
    }
  }

 private:
  __device__ int64_t num_rows() const { return int64_t{params_.s_q} * params_.heads; }
  __device__ int64_t token(int32_t row) const { return row / params_.heads; }
  __device__ int64_t head(int32_t row) const { return row % params_.heads; }
  __device__ float* Partial(int32_t row) const {
    return params_.part_out + (item_.slot * num_rows() + row) * PartPitch(params_.d_v);
  }
  __device__ uint16_t* Output(int32_t row) const {
    return static_cast<uint16_t*>(params_.out) + item_.seq * params_.out_stride_seq +
           token(row) * params_.out_stride_token + head(row) * params_.out_stride_head;
  }

  const MlaDecodeParams& params_;
  const WorkItem& item_;
};

// The shared memory of a thread block. The two of each are those of odd and even tiles.
template <typename S>
struct SharedMemory {
  static __device__ char* base() {
    extern __shared__ __align__(128) char shared[];
    return shared;
  }
  static __device__ float* factors(int tile) {  // [rows]
    return reinterpret_cast<float*>(base() + (tile & 1) * S::kFactorBytes);
  }
  static __device__ char* probs(int tile) {  // [rows, tokens], padded
    return base() + 2 * S::kFactorBytes + (tile & 1) * S::kProbBytes;
  }
  // [depth groups, rows, tokens], the tokens of a row as ScoreColumn has them.
  static __device__ float* scores(int tile) {
    return reinterpret_cast<float*>(base() + 2 * (S::kFactorBytes + S::kProbBytes) +
                                    (tile & 1) * S::kScoreBytes);
  }
  static constexpr int kStagesAt = 2 * (S::kFactorBytes + S::kProbBytes + S::kScoreBytes);
  static_assert(kStagesAt % 128 == 0 && S::kStageBytes % 128 == 0);
  static __device__ uint32_t stages() { return SharedAddress(base()) + kStagesAt; }
};

// One thread block's work on its items.
template <typename S, typename T>
class BlockDecoder {
 public:
  __device__ BlockDecoder(const MlaDecodeParams& params, const Launched& launched)
      : params_(params), launched_(launched), feeder_(params, launched) {}

  __device__ void Run() {
    const int32_t end = params_.part_begin[blockIdx.y + 1];
    for (int32_t i = params_.part_begin[blockIdx.y]; i < end; ++i) {
      OutputFragments<S> output;
      Attend(ReadItem(params_, i, S::kRows), output);
      Store(params_.items[i], output);
    }
  }

 private:
  using Shared = SharedMemory<S>;
  using Softmax = RowSoftmax<S, T>;

  static __device__ int32_t first_row() { return static_cast<int32_t>(blockIdx.x) * S::kRows; }

  // Tokens of the item that this thread's softmax row sees; rows past the end see nothing.
  __device__ int32_t VisibleToRow(const ItemTokens& item) const {
    const int32_t query = (first_row() + Softmax::row()) / params_.heads;
    return query < params_.s_q ? VisibleTokens(params_, item.kv_len, query) - item.begin : 0;
  }

  __device__ __forceinline__ void Attend(const ItemTokens& item, OutputFragments<S>& output) {
    softmax_.Begin(VisibleToRow(item));
    const int tiles = (item.end - item.begin + S::kTokens - 1) / S::kTokens;
    if (tiles == 0) return output.Clear();
    QueryFragments<S> q;
    q.Load(params_, item.seq, first_row());
    // Not before, or the first rows of q would wait for them.
    if (!filled_) FillStages();
    output.Clear();
    // Of the groups of copies closed so far, the last is that of the tile num_stages - 2 past the
    // last one done.
    WaitForCopies(num_stages() - 2);
    __syncthreads();
    MakeScores(q, 0);
    WaitForCopies(num_stages() - 3);
    __syncthreads();
    AddSoftmax(0);
    if (tiles > 1) MakeScores(q, 1);
    int tile = 0;
    for (; tile + 2 < tiles; ++tile) AttendTile<true, true>(q, tile, output);
    if (tile + 1 < tiles) AttendTile<true, false>(q, tile++, output);
    AttendTile<false, false>(q, tile, output);
  }

  // The work between two barriers: output of this tile, softmax of the next, scores of the one
  // after that.
  template <bool kSoftmax, bool kScores>
  __device__ __forceinline__ void AttendTile(const QueryFragments<S>& q, int tile,
                                             OutputFragments<S>& output) {
    // Half of the warps make the softmax while the others multiply.
    const bool softmax_first = WarpLane<S>().warp < kWarps / 2;
    WaitForCopies(num_stages() - 4);
    const bool rescale = __syncthreads_or(rescale_) != 0;
    if (kSoftmax && softmax_first) AddSoftmax(tile + 1);
    // In the place of the tile before this one, whose products are done.
    feeder_.Feed(free_stage_);
    free_stage_ = NextStage(free_stage_);
    if (rescale) output.Scale(Shared::factors(tile));
    // This tile's stage is free from the next barrier on.
    output.template MultiplyValues<T>(SharedAddress(Shared::probs(tile)), free_stage_);
    // Copies that have just been asked for hold up what follows them closely.
    feeder_.Advance();
    if (kScores) MakeScores(q, tile + 2);
    if (kSoftmax && !softmax_first) AddSoftmax(tile + 1);
  }

  __device__ __forceinline__ void MakeScores(const QueryFragments<S>& q, int tile) {
    MultiplyKeys<S, T>(q, key_stage_, Shared::scores(tile));
    key_stage_ = NextStage(key_stage_);
  }

  // All stages but the last.
  __device__ void FillStages() {
    for (; free_stage_ != LastStage(); free_stage_ += S::kStageBytes) {
      feeder_.Feed(free_stage_);
      feeder_.Advance();
    }
    filled_ = true;
  }

  __device__ __forceinline__ void AddSoftmax(int tile) {
    rescale_ = softmax_.Add(Shared::scores(tile), params_.scale * kLog2E, Shared::probs(tile),
                            Shared::factors(tile));
  }

  __device__ int num_stages() const {
    return S::kTile.max_stages() == kMinStages ? kMinStages : launched_.num_stages;
  }
  __device__ uint32_t LastStage() const {
    return Shared::stages() + (num_stages() - 1) * S::kStageBytes;
  }
  __device__ uint32_t NextStage(uint32_t stage) const {
    return stage == LastStage() ? Shared::stages() : stage + S::kStageBytes;
  }

  __device__ __forceinline__ void Store(const WorkItem& item, const OutputFragments<S>& output) {
    const ResultRows<T> results(params_, item);
    float* normalisers = Shared::factors(0);
    softmax_.Finish();
    __syncthreads();  // the last tile's factors have been read
    if (softmax_.part() == 0) {
      normalisers[softmax_.row()] = softmax_.normaliser();
      results.StoreLse(first_row() + softmax_.row(), softmax_.lse());
    }
    __syncthreads();
    const auto [warp, lane] = WarpLane<S>();
#pragma unroll
    for (int i = 0; i < 2 * S::kOutTiles; ++i) {
      const int row = i * 8 + lane / 4;
      const float by = normalisers[row];
      float2 pairs[S::kColumnTiles];
#pragma unroll
      for (int n = 0; n < S::kColumnTiles; ++n) {
        const float(&d)[4] = output.d[i / 2][n];
        pairs[n] = {d[i % 2 * 2] * by, d[i % 2 * 2 + 1] * by};
      }
      results.StoreOutput(first_row() + row, warp * S::kWarpColumns + lane % 4 * 2, pairs);
    }
  }

  static constexpr float kLog2E = 1.44269504088896341f;

  const MlaDecodeParams& params_;
  const Launched& launched_;
  Feeder<S> feeder_;
  Softmax softmax_;
  bool filled_ = false;
  bool rescale_ = false;                    // what the row's last softmax has said
  uint32_t free_stage_ = Shared::stages();  // of the tile before the one whose values come next
  uint32_t key_stage_ = Shared::stages();   // of the tile whose scores come next
};

template <typename S, typename T>
__global__ void __launch_bounds__(kThreads, S::kBlocksPerSm)
    DecodeKernel(const __grid_constant__ MlaDecodeParams params,
                 const __grid_constant__ Launched launched) {
  BlockDecoder<S, T>(params, launched).Run();
}

template <typename S, typename T>
cudaError_t LaunchKernel(const MlaDecodeParams& params, const Plan& plan, cudaStream_t stream) {
  const auto kernel = DecodeKernel<S, T>;
  const auto shared_bytes = static_cast<int>(S::kTile.shared_bytes(plan.stages));
  const auto error =
      static_cast<cudaError_t>(AllowAllSharedMemory(reinterpret_cast<const void*>(kernel)));
  if (error != cudaSuccess) return error;
  const int64_t rows = int64_t{params.s_q} * params.heads;
  const dim3 grid(static_cast<unsigned>((rows + S::kRows - 1) / S::kRows),
                  static_cast<unsigned>(params.num_parts));
  kernel<<<grid, kThreads, shared_bytes, stream>>>(params, MakeLaunched<S>(params, plan.stages));
  return cudaGetLastError();
}

// Launches the kernel of the plan's tile, among those compiled for (d_k, d_v).
template <int kDk, int kDv, int kRows, int kTokens>
cudaError_t LaunchTile(const MlaDecodeParams& params, const Plan& plan, DType dtype,
                       cudaStream_t stream) {
  if constexpr (IsCompiled({kDk, kDv, kRows, kTokens})) {
    using S = Shape<kDk, kDv, kRows, kTokens>;
    return dtype == DType::kBF16 ? LaunchKernel<S, __nv_bfloat16>(params, plan, stream)
                                 : LaunchKernel<S, __half>(params, plan, stream);
  }
  return cudaErrorInvalidConfiguration;
}

template <int kDk, int kDv>
cudaError_t LaunchFor(const MlaDecodeParams& params, const Plan& plan, DType dtype,
                      cudaStream_t stream) {
  switch (plan.tile.rows * 1000 + plan.tile.tokens) {
    case 16016: return LaunchTile<kDk, kDv, 16, 16>(params, plan, dtype, stream);
    case 16032: return LaunchTile<kDk, kDv, 16, 32>(params, plan, dtype, stream);
    case 32016: return LaunchTile<kDk, kDv, 32, 16>(params, plan, dtype, stream);
    case 32032: return LaunchTile<kDk, kDv, 32, 32>(params, plan, dtype, stream);
    case 64032: return LaunchTile<kDk, kDv, 64, 32>(params, plan, dtype, stream);
    case 64016: return LaunchTile<kDk, kDv, 64, 16>(params, plan, dtype, stream);
    default: return cudaErrorInvalidConfiguration;
  }
}

}  // namespace mla::cuda::sm80

#endif  // MLA_KERNELS_CUDA_MLA_DECODE_SM80_KERNEL_CUH_
