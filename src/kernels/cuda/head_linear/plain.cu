// One thread per output.
#include "kernels/cuda/convert.cuh"
#include "kernels/cuda/head_linear/kernel.h"

namespace mla::cuda {
namespace {

constexpr int kThreads = 128;

struct Params {
  const void* x;
  const void* w;
  void* y;
  int64_t x_token, x_head, w_head, w_out, w_in, y_token, y_head;
  int32_t in, out;
};

template <typename T>
__global__ void __launch_bounds__(kThreads) PlainKernel(const Params p) {
  const int32_t o = static_cast<int32_t>(blockIdx.z) * kThreads + static_cast<int32_t>(threadIdx.x);
  if (o >= p.out) return;
  const int64_t token = blockIdx.x, head = blockIdx.y;
  const T* x = static_cast<const T*>(p.x) + token * p.x_token + head * p.x_head;
  const T* w = static_cast<const T*>(p.w) + head * p.w_head + o * p.w_out;
  float sum = 0;
  for (int32_t i = 0; i < p.in; ++i) sum += ToFloat(x[i]) * ToFloat(w[i * p.w_in]);
  Store(static_cast<T*>(p.y) + token * p.y_token + head * p.y_head + o, sum);
}

std::string_view Refuses(const HeadLinearArgs&, const DeviceProperties&) { return {}; }

cudaError_t Launch(const HeadLinearArgs& args, cudaStream_t stream) {
  const Params params = {
      .x = args.x.data(),
      .w = args.w.data(),
      .y = args.y.data(),
      .x_token = args.x.stride(0),
      .x_head = args.x.stride(1),
      .w_head = args.w.stride(0),
      .w_out = args.w.stride(1),
      .w_in = args.w.stride(2),
      .y_token = args.y.stride(0),
      .y_head = args.y.stride(1),
      .in = static_cast<int32_t>(args.x.dim(2)),
      .out = static_cast<int32_t>(args.w.dim(1)),
  };
  const dim3 grid(static_cast<unsigned>(args.x.dim(0)), static_cast<unsigned>(args.x.dim(1)),
                  static_cast<unsigned>((params.out + kThreads - 1) / kThreads));
  if (args.x.dtype() == DType::kBF16) {
    PlainKernel<__nv_bfloat16><<<grid, kThreads, 0, stream>>>(params);
  } else {
    PlainKernel<__half><<<grid, kThreads, 0, stream>>>(params);
  }
  return cudaGetLastError();
}

}  // namespace

const HeadLinearKernel kHeadLinearPlain = {"plain", Refuses, Launch};

}  // namespace mla::cuda
