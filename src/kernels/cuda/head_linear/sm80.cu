// mma.sync: a thread block computes 64 outputs of one head for a tile of tokens. Outputs are the
// rows of the products and tokens their columns, which come in eights: a small batch pads little.
// In decode this is bound by reading the weights once, so weights go through a pipeline of copies.
#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <algorithm>

#include "kernels/cuda/device.h"
#include "kernels/cuda/head_linear/kernel.h"
#include "kernels/cuda/ptx_sm80.cuh"

namespace mla::cuda {
namespace {

constexpr int kWarp = 32;
constexpr int kWarps = 4;
constexpr int kThreads = kWarps * kWarp;
constexpr int kOut = 16 * kWarps;  // outputs of a thread block, 16 for each warp
constexpr int kIn = 64;            // inputs of a step
constexpr int64_t kEnoughBlocks = 512;
constexpr int kChunk = 8;             // elements of a 16-byte copy
constexpr int kPitch = kIn + kChunk;  // of a row in shared memory: no two rows share their banks
static_assert(kOut == kIn, "a weight tile has the same pitch either way round");

struct Params {
  const void* x;
  const void* w;
  void* y;
  int64_t x_token, x_head, w_head, w_row, y_token, y_head;
  int32_t tokens, in, out;
  bool wide_y;  // rows of y begin at multiples of 16 bytes
};

// Steps whose copies have been asked for or are in use, with tiles of so many tokens.
constexpr int Stages(int tokens) { return tokens <= 16 ? 6 : tokens <= 32 ? 4 : 3; }

template <typename T, int kTokens>
struct Stage {
  T w[kOut * kPitch];
  T x[kTokens * kPitch];
};

// Rows [row0, row0 + kRows) and columns [column0, column0 + 64) of a matrix; zeros past its end.
template <typename T, int kRows>
__device__ void CopyTile(const T* from, int64_t stride, int32_t row0, int32_t rows, int32_t column0,
                         int32_t columns, T* to) {
  constexpr int kChunks = kIn / kChunk;
  for (int i = static_cast<int>(threadIdx.x); i < kRows * kChunks; i += kThreads) {
    const int32_t row = i / kChunks, column = i % kChunks * kChunk;
    const bool real = row0 + row < rows && column0 + column < columns;
    const T* source = real ? from + (row0 + row) * stride + column0 + column : from;
    CopyAsync16(SharedAddress(to + row * kPitch + column), source, real);
  }
}

// kInMajor: the inputs of an output lie one after another (W_UV); else its outputs do (W_UK).
template <typename T, int kTokens, bool kInMajor>
__device__ void CopyStep(const Params& p, int32_t out0, int32_t token0, int32_t in0,
                         Stage<T, kTokens>& stage) {
  const T* w = static_cast<const T*>(p.w) + blockIdx.y * p.w_head;
  if constexpr (kInMajor) {
    CopyTile<T, kOut>(w, p.w_row, out0, p.out, in0, p.in, stage.w);
  } else {
    CopyTile<T, kIn>(w, p.w_row, in0, p.in, out0, p.out, stage.w);
  }
  const T* x = static_cast<const T*>(p.x) + blockIdx.y * p.x_head;
  CopyTile<T, kTokens>(x, p.x_token, token0, p.tokens, in0, p.in, stage.x);
}

// The 16 outputs of this warp by 16 inputs, as the left operand.
template <typename T, bool kInMajor>
__device__ void LoadWeights(uint32_t (&a)[4], const T* w, int warp, int k) {
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  if constexpr (kInMajor) {
    const int row = warp * 16 + lane % 16, column = k + lane / 16 * 8;
    LoadMatrices4(a, SharedAddress(w + row * kPitch + column));
  } else {
    const int row = k + lane / 16 * 8 + lane % 8, column = warp * 16 + lane / 8 % 2 * 8;
    LoadMatrices4Transposed(a, SharedAddress(w + row * kPitch + column));
  }
}

template <typename T, int kTokens, bool kInMajor>
__device__ void MultiplyStep(const Stage<T, kTokens>& stage, int warp,
                             float (&sum)[kTokens / 8][4]) {
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
#pragma unroll
  for (int k = 0; k < kIn; k += 16) {
    uint32_t a[4];
    LoadWeights<T, kInMajor>(a, stage.w, warp, k);
    const T* const x = stage.x + lane % 8 * kPitch + k + lane / 8 % 2 * 8;
    if constexpr (kTokens == 8) {
      uint32_t b[2];
      LoadMatrices2(b, SharedAddress(x));
      MultiplyAdd<T>(sum[0], a, b[0], b[1]);
    } else {
#pragma unroll
      for (int t = 0; t < kTokens; t += 16) {
        uint32_t b[4];
        LoadMatrices4(b, SharedAddress(x + (t + lane / 16 * 8) * kPitch));
        MultiplyAdd<T>(sum[t / 8], a, b[0], b[1]);
        MultiplyAdd<T>(sum[t / 8 + 1], a, b[2], b[3]);
      }
    }
  }
}

// Through shared memory, so that a token's outputs are stored together.
template <typename T, int kTokens>
__device__ void StoreTile(const Params& p, int32_t out0, int32_t token0, int warp,
                          const float (&sum)[kTokens / 8][4], T* tile) {
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
#pragma unroll
  for (int t = 0; t < kTokens; t += 8) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int token = t + lane % 4 * 2 + i % 2, out = warp * 16 + lane / 4 + i / 2 * 8;
      const uint32_t bits = PackPair<T>(sum[t / 8][i], 0);
      tile[token * kPitch + out] = *reinterpret_cast<const T*>(&bits);
    }
  }
  __syncthreads();
  T* const y = static_cast<T*>(p.y) + token0 * p.y_token + blockIdx.y * p.y_head + out0;
  const int together = p.wide_y ? kChunk : 1;
  for (int i = static_cast<int>(threadIdx.x) * together; i < kTokens * kOut;
       i += kThreads * together) {
    const int32_t token = i / kOut, out = i % kOut;
    if (token0 + token >= p.tokens || out0 + out >= p.out) continue;
    T* const to = y + token * p.y_token + out;
    const T* const from = tile + token * kPitch + out;
    if (p.wide_y) {
      *reinterpret_cast<uint4*>(to) = *reinterpret_cast<const uint4*>(from);
    } else {
      *to = *from;
    }
  }
}

template <typename T, int kTokens, bool kInMajor>
__global__ void __launch_bounds__(kThreads) Kernel(const Params p) {
  extern __shared__ uint4 shared_memory[];
  // As many as there are steps, if those are fewer.
  auto* const stages = reinterpret_cast<Stage<T, kTokens>*>(shared_memory);
  const int32_t out0 = static_cast<int32_t>(blockIdx.x) * kOut;
  const int32_t token0 = static_cast<int32_t>(blockIdx.z) * kTokens;
  const int warp = static_cast<int>(threadIdx.x) / kWarp;
  const int32_t steps = (p.in + kIn - 1) / kIn;
#pragma unroll
  for (int s = 0; s < Stages(kTokens) - 1; ++s) {
    if (s < steps) CopyStep<T, kTokens, kInMajor>(p, out0, token0, s * kIn, stages[s]);
    CommitCopies();
  }
  float sum[kTokens / 8][4] = {};
  for (int32_t step = 0; step < steps; ++step) {
    WaitCopies<Stages(kTokens) - 2>();
    __syncthreads();
    const int32_t ahead = step + Stages(kTokens) - 1;
    if (ahead < steps) {
      CopyStep<T, kTokens, kInMajor>(p, out0, token0, ahead * kIn, stages[ahead % Stages(kTokens)]);
    }
    CommitCopies();
    MultiplyStep<T, kTokens, kInMajor>(stages[step % Stages(kTokens)], warp, sum);
  }
  WaitCopies<0>();
  __syncthreads();
  StoreTile<T, kTokens>(p, out0, token0, warp, sum, stages[0].x);
}

// Whether rows along the axis `inner` begin at multiples of 16 bytes.
bool Aligned(const ConstTensor& tensor, int inner) {
  if (reinterpret_cast<uintptr_t>(tensor.data()) % 16 != 0) return false;
  for (int axis = 0; axis < tensor.rank(); ++axis) {
    if (axis != inner && tensor.dim(axis) > 1 && tensor.stride(axis) % kChunk != 0) return false;
  }
  return true;
}

bool IsInMajor(const HeadLinearArgs& args) { return args.w.stride(2) == 1; }

std::string_view Refuses(const HeadLinearArgs& args, const DeviceProperties& device) {
  if (device.arch < 80) return "needs compute capability 8.0 or later";
  if (args.x.dim(2) % kChunk != 0 || args.w.dim(1) % kChunk != 0) {
    return "inputs and outputs must be multiples of 8";
  }
  if (!Aligned(args.x, 2) || !Aligned(args.w, IsInMajor(args) ? 2 : 1)) {
    return "rows of x and w must begin at multiples of 16 bytes";
  }
  return {};
}

template <typename T, int kTokens, bool kInMajor>
cudaError_t LaunchKernel(const Params& p, int64_t heads, cudaStream_t stream) {
  const auto kernel = Kernel<T, kTokens, kInMajor>;
  constexpr auto kStageBytes = static_cast<int>(sizeof(Stage<T, kTokens>));
  const auto error =
      static_cast<cudaError_t>(AllowAllSharedMemory(reinterpret_cast<const void*>(kernel)));
  if (error != cudaSuccess) return error;
  const int32_t stages = std::clamp((p.in + kIn - 1) / kIn, 1, Stages(kTokens));
  const dim3 grid(static_cast<unsigned>((p.out + kOut - 1) / kOut), static_cast<unsigned>(heads),
                  static_cast<unsigned>((p.tokens + kTokens - 1) / kTokens));
  kernel<<<grid, kThreads, stages * kStageBytes, stream>>>(p);
  return cudaGetLastError();
}

template <typename T, int kTokens>
cudaError_t LaunchFor(const Params& p, int64_t heads, bool in_major, cudaStream_t stream) {
  return in_major ? LaunchKernel<T, kTokens, true>(p, heads, stream)
                  : LaunchKernel<T, kTokens, false>(p, heads, stream);
}

template <typename T>
cudaError_t LaunchOf(const Params& p, int64_t heads, bool in_major, cudaStream_t stream) {
  if (p.tokens <= 8) return LaunchFor<T, 8>(p, heads, in_major, stream);
  if (p.tokens <= 16) return LaunchFor<T, 16>(p, heads, in_major, stream);
  // A tile of 64 tokens reads less for each product, if there are thread blocks enough to go round.
  const int64_t blocks = (p.out + kOut - 1) / kOut * heads * ((p.tokens + 63) / 64);
  if (blocks >= kEnoughBlocks) return LaunchFor<T, 64>(p, heads, in_major, stream);
  return LaunchFor<T, 32>(p, heads, in_major, stream);
}

cudaError_t Launch(const HeadLinearArgs& args, cudaStream_t stream) {
  const bool in_major = IsInMajor(args);
  const Params params = {
      .x = args.x.data(),
      .w = args.w.data(),
      .y = args.y.data(),
      .x_token = args.x.stride(0),
      .x_head = args.x.stride(1),
      .w_head = args.w.stride(0),
      .w_row = args.w.stride(in_major ? 1 : 2),
      .y_token = args.y.stride(0),
      .y_head = args.y.stride(1),
      .tokens = static_cast<int32_t>(args.x.dim(0)),
      .in = static_cast<int32_t>(args.x.dim(2)),
      .out = static_cast<int32_t>(args.w.dim(1)),
      .wide_y = Aligned(ConstTensor(args.y), 2),
  };
  return args.x.dtype() == DType::kBF16
             ? LaunchOf<__nv_bfloat16>(params, args.x.dim(1), in_major, stream)
             : LaunchOf<__half>(params, args.x.dim(1), in_major, stream);
}

}  // namespace

const HeadLinearKernel kHeadLinearSm80 = {"sm80", Refuses, Launch};

}  // namespace mla::cuda
