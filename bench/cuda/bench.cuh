// What the benchmarks of the CUDA operators share: memory, errors, and the time of a graph.
#ifndef MLA_BENCH_CUDA_BENCH_CUH_
#define MLA_BENCH_CUDA_BENCH_CUH_

#include <cuda_bf16.h>
#include <cuda_runtime.h>

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <vector>

#include "mla/result.h"

namespace mla {

constexpr int kReplays = 9;
constexpr int64_t kRotateBytes = 300 << 20;

inline void Check(cudaError_t error, const char* what) {
  if (error == cudaSuccess) return;
  std::fprintf(stderr, "bench: %s: %s\n", what, cudaGetErrorString(error));
  std::exit(1);
}
inline void Check(const Status& status) {
  if (status.ok()) return;
  std::fprintf(stderr, "bench: %s\n", std::string(status.message()).c_str());
  std::exit(1);
}

template <typename T>
T* Allocate(int64_t count) {
  void* memory = nullptr;
  Check(cudaMalloc(&memory, std::max<int64_t>(count, 1) * sizeof(T)), "cudaMalloc");
  return static_cast<T*>(memory);
}

__global__ void FillRandom(__nv_bfloat16* to, int64_t n, float scale, uint32_t seed) {
  for (int64_t i = blockIdx.x * int64_t{blockDim.x} + threadIdx.x; i < n;
       i += int64_t{gridDim.x} * blockDim.x) {
    uint32_t h = static_cast<uint32_t>(i) * 0x9e3779b9u + seed;
    h = (h ^ (h >> 16)) * 0x7feb352du;
    h = (h ^ (h >> 15)) * 0x846ca68bu;
    to[i] = __float2bfloat16((static_cast<float>(h >> 8) * 0x1p-23f - 1) * scale);
  }
}

__global__ void ReadAll(const uint4* from, int64_t n, uint32_t* sink) {
  uint32_t sum = 0;
  const int64_t step = int64_t{gridDim.x} * blockDim.x;
#pragma unroll 8
  for (int64_t i = blockIdx.x * int64_t{blockDim.x} + threadIdx.x; i < n; i += step) {
    const uint4 v = from[i];
    sum += v.x ^ v.y ^ v.z ^ v.w;
  }
  if (sum == 0x12345678u) *sink = sum;
}

// Median time of a replay, in microseconds.
inline double MedianReplay(cudaGraphExec_t graph, cudaStream_t stream) {
  cudaEvent_t begin, end;
  Check(cudaEventCreate(&begin), "event");
  Check(cudaEventCreate(&end), "event");
  std::vector<float> times;
  for (int i = 0; i < kReplays + 2; ++i) {
    Check(cudaEventRecord(begin, stream), "record");
    Check(cudaGraphLaunch(graph, stream), "replay");
    Check(cudaEventRecord(end, stream), "record");
    Check(cudaStreamSynchronize(stream), "replay");
    float ms = 0;
    Check(cudaEventElapsedTime(&ms, begin, end), "elapsed time");
    if (i >= 2) times.push_back(ms);
  }
  std::sort(times.begin(), times.end());
  Check(cudaEventDestroy(begin), "event");
  Check(cudaEventDestroy(end), "event");
  return times[times.size() / 2] * 1e3;
}

template <typename Work>
double TimeGraph(cudaStream_t stream, const Work& work) {
  cudaGraph_t graph;
  cudaGraphExec_t exec;
  Check(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal), "capture");
  work();
  Check(cudaStreamEndCapture(stream, &graph), "capture");
  Check(cudaGraphInstantiate(&exec, graph, 0), "instantiate");
  const double us = MedianReplay(exec, stream);
  Check(cudaGraphExecDestroy(exec), "graph");
  Check(cudaGraphDestroy(graph), "graph");
  return us;
}

inline double ReadBandwidth(int num_sms, cudaStream_t stream) {  // bytes per second
  constexpr int64_t kBytes = int64_t{4} << 30;
  auto* memory = Allocate<uint8_t>(kBytes);
  auto* sink = Allocate<uint32_t>(1);
  Check(cudaMemset(memory, 1, kBytes), "memset");
  const double us = TimeGraph(stream, [&] {
    ReadAll<<<num_sms * 16, 512, 0, stream>>>(reinterpret_cast<uint4*>(memory), kBytes / 16, sink);
  });
  Check(cudaFree(memory), "free");
  Check(cudaFree(sink), "free");
  return kBytes / (us * 1e-6);
}

}  // namespace mla

#endif  // MLA_BENCH_CUDA_BENCH_CUH_
