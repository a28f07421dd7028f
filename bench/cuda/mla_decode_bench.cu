// mla_decode at the published shapes, against the read bandwidth of this device.
//
//   mla_decode_bench [--kernel NAME] [--fp8] [--heads LIST] [--batch LIST] [--csv] [--schedule]
//                    [--matrix-peak TFLOPS] [--point BATCH,S_Q,HEADS,KV_LEN]
//
// Each figure: a CUDA graph of at least 16 calls rotating over caches that together exceed 300 MB
// (several times the L2), median of 9 replays, time per call. GB/s counts the cached tokens once,
// q and out; TFLOP/s = 2 batch s_q heads (d_k + d_v) kv_len. --fp8 has a cache of FP8 latents, the
// scales of which are no powers of two. --schedule puts the making of the
// schedule into every call; without it one schedule serves all, as it serves all layers of a step.
// `floor` is the share of the bandwidth that a read of 4 GiB reaches in this run; with
// --matrix-peak also that of the matrix units, and of the two the one that binds.
#include <cuda_bf16.h>
#include <cuda_runtime.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <numeric>
#include <random>
#include <string>
#include <vector>

#include "bench.cuh"
#include "mla/cuda.h"

namespace mla {
namespace {

constexpr int32_t kDk = 576, kDv = 512, kPage = 64;

// FP8 latents: any codes but NaN, scales of about 2^-11, k_pe as in a cache of bf16.
__global__ void FillLatents(uint8_t* rows, int64_t n, uint32_t seed) {
  for (int64_t token = blockIdx.x; token < n; token += gridDim.x) {
    uint8_t* row = rows + token * cuda::kFp8LatentBytes;
    for (int i = threadIdx.x; i < cuda::kFp8LatentBytes; i += blockDim.x) {
      uint32_t h = (static_cast<uint32_t>(token) * 1031u + i) * 0x9e3779b9u + seed;
      h = (h ^ (h >> 16)) * 0x7feb352du;
      h ^= h >> 15;
      if (i < cuda::kFp8LatentRank) {
        row[i] = static_cast<uint8_t>((h & 0x7f) == 0x7f ? h & 0x80 : h & 0xff);
      } else if (i < cuda::kFp8LatentRank + 16) {
        if (i % 4 == 0) *reinterpret_cast<float*>(row + i) = (h >> 8) * 0x1p-36f + 0x1p-12f;
      } else if (i % 2 == 0) {
        *reinterpret_cast<__nv_bfloat16*>(row + i) =
            __float2bfloat16((static_cast<float>(h >> 8) * 0x1p-23f - 1) * 0.2f);
      }
    }
  }
}

struct Point {
  int batch, s_q, heads, kv_len;
};

struct Options {
  std::string kernel;
  std::vector<int> heads, batch;
  bool fp8 = false;
  bool csv = false;
  bool schedule = false;
  double matrix_peak = 0;     // FLOP/s
  std::vector<Point> points;  // empty: the grid
};

std::vector<Point> Grid() {
  std::vector<Point> grid;
  for (const int heads : {16, 32, 64, 128}) {
    for (const auto& [batch, kv] : std::vector<std::pair<int, int>>{{1, 1024},
                                                                    {1, 4096},
                                                                    {1, 16384},
                                                                    {1, 65536},
                                                                    {4, 4096},
                                                                    {4, 16384},
                                                                    {16, 1024},
                                                                    {16, 4096},
                                                                    {16, 16384},
                                                                    {64, 1024},
                                                                    {64, 4096},
                                                                    {64, 16384},
                                                                    {128, 4096},
                                                                    {128, 8192}}) {
      grid.push_back({batch, 1, heads, kv});
    }
  }
  for (const auto& [s_q, heads] : std::vector<std::pair<int, int>>{
           {1, 8}, {2, 8}, {2, 16}, {4, 16}, {2, 32}, {2, 64}, {2, 128}}) {
    for (const auto& [batch, kv] :
         std::vector<std::pair<int, int>>{{1, 4096}, {16, 4096}, {64, 8192}, {128, 4096}}) {
      grid.push_back({batch, s_q, heads, kv});
    }
  }
  return grid;
}

int64_t TokenBytes(const Options& options) {
  return options.fp8 ? cuda::kFp8LatentBytes : kDk * int64_t{sizeof(__nv_bfloat16)};
}

ConstTensor CacheView(const uint8_t* memory, int64_t pages, const Options& options) {
  const Device gpu = {DeviceType::kCuda, 0};
  if (options.fp8) {
    return ConstTensor(memory, DType::kF8E4M3, {pages, kPage, cuda::kFp8LatentBytes}, gpu);
  }
  return ConstTensor(memory, DType::kBF16, {pages, kPage, kDk}, gpu);
}

// Time per call in microseconds.
double TimePoint(const Point& p, const Options& options, cudaStream_t stream) {
  const int64_t pages_per_seq = (p.kv_len + kPage - 1) / kPage;
  const int64_t pages = pages_per_seq * p.batch;
  const int64_t cache_bytes = pages * kPage * TokenBytes(options);
  const auto rotate = static_cast<int>(kRotateBytes / cache_bytes + 1);
  const int64_t q_elements = int64_t{p.batch} * p.s_q * p.heads * kDk;
  const int64_t out_elements = int64_t{p.batch} * p.s_q * p.heads * kDv;

  auto* cache = Allocate<uint8_t>(cache_bytes * rotate);
  auto* q = Allocate<__nv_bfloat16>(q_elements);
  auto* out = Allocate<__nv_bfloat16>(out_elements);
  auto* lse = Allocate<float>(int64_t{p.batch} * p.s_q * p.heads);
  if (options.fp8) {
    FillLatents<<<1024, 256>>>(cache, pages * kPage * rotate, 1);
  } else {
    FillRandom<<<1024, 256>>>(reinterpret_cast<__nv_bfloat16*>(cache), cache_bytes / 2 * rotate,
                              0.2f, 1);
  }
  FillRandom<<<256, 256>>>(q, q_elements, 1.0f, 2);
  std::vector<int32_t> table(pages);
  std::iota(table.begin(), table.end(), 0);
  std::shuffle(table.begin(), table.end(), std::mt19937(1));
  const std::vector<int32_t> lens(p.batch, p.kv_len);
  auto* table_memory = Allocate<int32_t>(pages);
  auto* lens_memory = Allocate<int32_t>(p.batch);
  Check(cudaMemcpy(table_memory, table.data(), pages * 4, cudaMemcpyHostToDevice), "copy");
  Check(cudaMemcpy(lens_memory, lens.data(), p.batch * 4, cudaMemcpyHostToDevice), "copy");

  const Device gpu = {DeviceType::kCuda, 0};
  cuda::MlaDecodeArgs args;
  args.q = ConstTensor(q, DType::kBF16, {p.batch, p.s_q, p.heads, kDk}, gpu);
  args.cache = CacheView(cache, pages, options);
  args.kv_lens = lens_memory;
  args.page_table = table_memory;
  args.page_table_stride = pages_per_seq;
  args.kv_lora_rank = kDv;
  args.scale = 1 / std::sqrt(192.0f);
  args.out = Tensor(out, DType::kBF16, {p.batch, p.s_q, p.heads, kDv}, gpu);
  args.lse = Tensor(lse, DType::kF32, {p.batch, p.s_q, p.heads}, gpu);
  cuda::CudaContext context;
  context.stream = stream;
  context.kernel = options.kernel;
  const auto sizes = cuda::MlaDecodeMemory(args, context);
  if (!sizes.ok()) Check(Status(sizes.error()));
  args.schedule = Allocate<uint8_t>(static_cast<int64_t>(sizes->schedule_bytes));
  args.workspace = Allocate<uint8_t>(static_cast<int64_t>(sizes->workspace_bytes));
  Check(cuda::MlaDecodeSchedule(args, context));
  Check(cudaDeviceSynchronize(), "setting up");

  const int calls = std::max(16, rotate);
  const double us = TimeGraph(stream, [&] {
    for (int i = 0; i < calls; ++i) {
      cuda::MlaDecodeArgs call = args;
      call.cache = CacheView(cache + cache_bytes * (i % rotate), pages, options);
      if (options.schedule) Check(cuda::MlaDecodeSchedule(call, context));
      Check(cuda::MlaDecode(call, context));
    }
  });
  for (void* memory : {static_cast<void*>(cache), static_cast<void*>(q), static_cast<void*>(out),
                       static_cast<void*>(lse), static_cast<void*>(table_memory),
                       static_cast<void*>(lens_memory), args.schedule, args.workspace}) {
    Check(cudaFree(memory), "free");
  }
  return us / calls;
}

std::vector<int> ParseList(const char* text) {
  std::vector<int> values;
  for (char* next = nullptr; *text != 0; text = *next == ',' ? next + 1 : next) {
    values.push_back(static_cast<int>(std::strtol(text, &next, 10)));
    if (next == text || (*next != 0 && *next != ',')) {
      std::fprintf(stderr, "mla_decode_bench: '%s' is no list of numbers, like 16,128\n", text);
      std::exit(1);
    }
  }
  return values;
}

Options ParseOptions(int argc, char** argv) {
  Options options;
  for (int i = 1; i < argc; ++i) {
    const std::string flag = argv[i];
    const bool last = i + 1 == argc;
    if (flag == "--csv") {
      options.csv = true;
    } else if (flag == "--fp8") {
      options.fp8 = true;
    } else if (flag == "--schedule") {
      options.schedule = true;
    } else if (flag == "--kernel" && !last) {
      options.kernel = argv[++i];
    } else if (flag == "--heads" && !last) {
      options.heads = ParseList(argv[++i]);
    } else if (flag == "--batch" && !last) {
      options.batch = ParseList(argv[++i]);
    } else if (flag == "--point" && !last) {
      const std::vector<int> p = ParseList(argv[++i]);
      if (p.size() != 4 || *std::min_element(p.begin(), p.end()) < 1) {
        std::fprintf(stderr, "mla_decode_bench: --point is '%s', want BATCH,S_Q,HEADS,KV_LEN\n",
                     argv[i]);
        std::exit(1);
      }
      options.points.push_back({p[0], p[1], p[2], p[3]});
    } else if (flag == "--matrix-peak" && !last) {
      options.matrix_peak = std::atof(argv[++i]) * 1e12;
    } else {
      std::fprintf(
          stderr,
          "usage: mla_decode_bench [--kernel NAME] [--fp8] [--heads LIST] [--batch LIST] "
          "[--csv] [--schedule] [--matrix-peak TFLOPS] [--point BATCH,S_Q,HEADS,KV_LEN]\n");
      std::exit(flag == "--help" ? 0 : 1);
    }
  }
  return options;
}

bool Wanted(const std::vector<int>& list, int value) {
  return list.empty() || std::find(list.begin(), list.end(), value) != list.end();
}

void Print(const Point& p, double us, double bandwidth, const Options& options) {
  const double pairs = double(p.batch) * p.s_q * p.heads;
  const double flops = 2 * pairs * (kDk + kDv) * p.kv_len;
  const double bytes = double(p.batch) * p.kv_len * static_cast<double>(TokenBytes(options)) +
                       2.0 * pairs * (kDk + kDv);
  double floor_us = bytes / bandwidth * 1e6;
  if (options.matrix_peak > 0) floor_us = std::max(floor_us, flops / options.matrix_peak * 1e6);
  std::printf(options.csv ? "%d,%d,%d,%d,%.2f,%.1f,%.0f,%.1f\n"
                          : "| %d | %d | %d | %d | %.1f | %.0f | %.0f | %.0f %% |\n",
              p.batch, p.s_q, p.heads, p.kv_len, us, flops / us * 1e-6, bytes / us * 1e-3,
              100 * floor_us / us);
  std::fflush(stdout);
}

int Main(int argc, char** argv) {
  const Options options = ParseOptions(argc, argv);
  const auto devices = cuda::Devices();
  if (!devices.ok()) Check(Status(devices.error()));
  cudaStream_t stream;
  Check(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), "stream");
  const double bandwidth = ReadBandwidth((*devices)[0].num_sms, stream);
  if (options.csv) {
    std::printf("batch,s_q,heads,kv_len,us,tflops,gbps,floor_pct\n");
  } else {
    std::printf("%s, read bandwidth %.0f GB/s, kernel %s\n", (*devices)[0].name.c_str(),
                bandwidth * 1e-9, options.kernel.empty() ? "chosen" : options.kernel.c_str());
    std::printf("| batch | s_q | heads | kv_len | us | TFLOP/s | GB/s | floor |\n");
    std::printf("|--:|--:|--:|--:|--:|--:|--:|--:|\n");
  }
  for (const Point& p : options.points.empty() ? Grid() : options.points) {
    if (!Wanted(options.heads, p.heads) || !Wanted(options.batch, p.batch)) continue;
    Print(p, TimePoint(p, options, stream), bandwidth, options);
  }
  return 0;
}

}  // namespace
}  // namespace mla

int main(int argc, char** argv) { return mla::Main(argc, argv); }
