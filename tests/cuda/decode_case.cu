#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_fp8.h>
#include <cuda_runtime.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <numeric>
#include <random>
#include <utility>

#include "cuda/decode_case.h"
#include "support/tolerance.h"

namespace mla::test {
namespace {

constexpr int32_t kPoisonPage = 2147480000;
constexpr int kThreads = 256;

void Check(cudaError_t error, const char* what) {
  if (error == cudaSuccess) return;
  std::fprintf(stderr, "%s: %s\n", what, cudaGetErrorString(error));
  std::abort();
}

__host__ __device__ uint32_t Hash(uint32_t x) {
  x ^= x >> 16;
  x *= 0x7feb352du;
  x ^= x >> 15;
  x *= 0x846ca68bu;
  return x ^ (x >> 16);
}

// About normal, of standard deviation 1, within [-3.5, 3.5]: a sum of uniform numbers.
__device__ float Normal(uint32_t seed, uint32_t a, uint32_t b, uint32_t c) {
  uint32_t h = Hash(seed * 0x9e3779b9u + a);
  h = Hash(h + b * 0x85ebca6bu);
  h = Hash(h + c);
  float sum = 0;
  for (int i = 0; i < 4; ++i) sum += static_cast<float>((h >> (8 * i)) & 255u) / 255.0f - 0.5f;
  return sum * 1.73f;
}

__device__ float Clamp(float v) { return fminf(1.0f, fmaxf(-1.0f, v)); }
__device__ float QueryValue(uint32_t seed, uint32_t seq, uint32_t row, uint32_t d) {
  return Clamp(Normal(seed, seq, row, d));
}
__device__ float KeyValue(uint32_t seed, uint32_t seq, uint32_t token, uint32_t d) {
  return Clamp(Normal(seed + 77u, seq, token, d) / 10);
}

template <typename T>
__device__ T Round(float v);
template <>
__device__ __nv_bfloat16 Round(float v) {
  return __float2bfloat16(v);
}
template <>
__device__ __half Round(float v) {
  return __float2half(v);
}
__device__ double Wide(__nv_bfloat16 v) { return __bfloat162float(v); }
__device__ double Wide(__half v) { return __half2float(v); }

template <typename T>
__global__ void FillQueries(T* q, int64_t seq_stride, int64_t token_stride, int64_t head_stride,
                            int32_t heads, int32_t d_k, uint32_t seed) {
  const uint32_t seq = blockIdx.y, row = blockIdx.x;
  T* to = q + seq * seq_stride + row / heads * token_stride + row % heads * head_stride;
  for (int32_t d = threadIdx.x; d < d_k; d += kThreads) {
    to[d] = Round<T>(QueryValue(seed, seq, row, d));
  }
}

// What the keys of a case are made from.
struct KeyRule {
  uint32_t seed;
  bool fp8;
  Fp8Scales scales;
};
KeyRule KeyRuleOf(const DecodeCase& c) { return {c.seed, c.fp8, c.scales}; }

// One FP8 group has one scale.
__device__ float GroupScale(const KeyRule& rule, uint32_t seq, uint32_t token, uint32_t group) {
  const float scale = (1 + fabsf(Normal(rule.seed + 99u, seq, token, group))) / 600;
  if (rule.scales == Fp8Scales::kAny) return scale;
  if (rule.scales == Fp8Scales::kPowers) return exp2f(ceilf(log2f(scale)));
  const uint32_t h = Hash(Hash(rule.seed + seq * 0x9e3779b9u) + token * 4 + group);
  if (h % 16 == 0) return 0;
  return ldexpf(1 + static_cast<float>(h >> 16) / 65536, static_cast<int>(h / 16 % 30) - 20);
}
__device__ __nv_fp8_e4m3 Code(const KeyRule& rule, uint32_t seq, uint32_t token, uint32_t d) {
  const float scale = GroupScale(rule, seq, token, d / 128);
  return __nv_fp8_e4m3(KeyValue(rule.seed, seq, token, d) / (scale == 0 ? 1.0f : scale));
}

// The value of a cached number, as it is stored.
template <typename T>
__device__ double StoredValue(const KeyRule& rule, uint32_t seq, uint32_t token, uint32_t d) {
  if (rule.fp8 && d < cuda::kFp8LatentRank) {
    return static_cast<double>(static_cast<float>(Code(rule, seq, token, d))) *
           GroupScale(rule, seq, token, d / 128);
  }
  const float value = KeyValue(rule.seed, seq, token, d);
  return rule.fp8 ? Wide(Round<__nv_bfloat16>(value)) : Wide(Round<T>(value));
}

struct CachePlace {
  void* data;
  int64_t page_stride, token_stride;  // bytes
  int32_t page_size;
  const int32_t* page_table;
  int64_t page_table_stride;
};

template <typename T>
__global__ void FillKeys(CachePlace cache, const int32_t* kv_lens, int32_t d_k, KeyRule rule) {
  const uint32_t seq = blockIdx.y;
  for (int32_t token = blockIdx.x; token < kv_lens[seq]; token += gridDim.x) {
    const int64_t page = cache.page_table[seq * cache.page_table_stride + token / cache.page_size];
    char* row = static_cast<char*>(cache.data) + page * cache.page_stride +
                token % cache.page_size * cache.token_stride;
    for (int32_t d = threadIdx.x; d < d_k; d += kThreads) {
      const float value = KeyValue(rule.seed, seq, token, d);
      if (!rule.fp8) {
        reinterpret_cast<T*>(row)[d] = Round<T>(value);
      } else if (d < 512) {
        row[d] = static_cast<char>(Code(rule, seq, token, d).__x);
        if (d % 128 == 0) {
          reinterpret_cast<float*>(row + 512)[d / 128] = GroupScale(rule, seq, token, d / 128);
        }
      } else {
        reinterpret_cast<__nv_bfloat16*>(row + 528)[d - 512] = Round<__nv_bfloat16>(value);
      }
    }
  }
}

// keys[seq, token, d], for the reference.
template <typename T>
__global__ void FillDense(double* keys, int64_t max_kv, const int32_t* kv_lens, int32_t d_k,
                          KeyRule rule) {
  const uint32_t seq = blockIdx.y;
  for (int32_t token = blockIdx.x; token < kv_lens[seq]; token += gridDim.x) {
    for (int32_t d = threadIdx.x; d < d_k; d += kThreads) {
      keys[(seq * max_kv + token) * d_k + d] = StoredValue<T>(rule, seq, token, d);
    }
  }
}

__device__ double BlockSum(double v) {
  __shared__ double sums[kThreads];
  __syncthreads();
  sums[threadIdx.x] = v;
  __syncthreads();
  for (int half = kThreads / 2; half > 0; half /= 2) {
    if (threadIdx.x < half) sums[threadIdx.x] += sums[threadIdx.x + half];
    __syncthreads();
  }
  return sums[0];
}

// One thread block per row: all scores into global memory, then two passes over them.
template <typename T>
__global__ void Reference(const int32_t* kv_lens, int32_t s_q, int32_t heads, int32_t d_k,
                          int32_t d_v, double scale, bool causal, uint32_t seed, const double* keys,
                          double* scores, int64_t max_kv, double* out, double* lse) {
  const uint32_t seq = blockIdx.y, row = blockIdx.x;
  const int64_t place = int64_t{seq} * gridDim.x + row;
  double* score = scores + place * max_kv;
  keys += seq * max_kv * d_k;
  const int32_t kv_len = kv_lens[seq];
  const int32_t seen =
      max(0, causal ? kv_len - s_q + static_cast<int32_t>(row) / heads + 1 : kv_len);
  double most = -INFINITY;
  for (int32_t j = threadIdx.x; j < seen; j += kThreads) {
    double dot = 0;
    for (int32_t d = 0; d < d_k; ++d) {
      dot += Wide(Round<T>(QueryValue(seed, seq, row, d))) * keys[int64_t{j} * d_k + d];
    }
    score[j] = dot * scale;
    most = fmax(most, score[j]);
  }
  __shared__ double maxima[kThreads];
  maxima[threadIdx.x] = most;
  __syncthreads();
  for (int i = 0; i < kThreads; ++i) most = fmax(most, maxima[i]);
  double sum = 0;
  for (int32_t j = threadIdx.x; j < seen; j += kThreads) sum += exp(score[j] - most);
  sum = BlockSum(sum);
  for (int32_t d = threadIdx.x; d < d_v; d += kThreads) {
    double acc = 0;
    for (int32_t j = 0; j < seen; ++j) {
      acc += exp(score[j] - most) * keys[int64_t{j} * d_k + d];
    }
    out[place * d_v + d] = seen > 0 ? acc / sum : 0;
  }
  if (threadIdx.x == 0) lse[place] = seen > 0 ? most + log(sum) : -INFINITY;
}

double ScaleOf(const DecodeCase& c) {
  return static_cast<float>(c.sharpness / std::sqrt(double(c.d_k)));
}

double ToDouble(uint16_t bits, DType dtype) {
  if (dtype == DType::kBF16) return __bfloat162float(__ushort_as_bfloat16(bits));
  return __half2float(__ushort_as_half(bits));
}

}  // namespace

DeviceBuffer::DeviceBuffer(size_t bytes) : bytes_(bytes) {
  Check(cudaMalloc(&data_, std::max<size_t>(bytes, 1)), "cudaMalloc");
}
DeviceBuffer::DeviceBuffer(DeviceBuffer&& other) noexcept { *this = std::move(other); }
DeviceBuffer& DeviceBuffer::operator=(DeviceBuffer&& other) noexcept {
  std::swap(data_, other.data_);
  std::swap(bytes_, other.bytes_);
  return *this;
}
DeviceBuffer::~DeviceBuffer() { cudaFree(data_); }
void DeviceBuffer::Fill(uint8_t byte) { Check(cudaMemset(data_, byte, bytes_), "cudaMemset"); }
void DeviceBuffer::CopyFrom(const void* host, size_t bytes) {
  Check(cudaMemcpy(data_, host, bytes, cudaMemcpyHostToDevice), "copy to the device");
}
void DeviceBuffer::CopyTo(void* host, size_t bytes) const {
  Check(cudaMemcpy(host, data_, bytes, cudaMemcpyDeviceToHost), "copy from the device");
}

std::string DecodeCase::ToString() const {
  std::string text =
      Concat(DTypeName(dtype), fp8 ? " over fp8" : "",
             fp8 && scales == Fp8Scales::kPowers ? " with powers" : "",
             fp8 && scales == Fp8Scales::kWild ? " with wild scales" : "", " heads ", heads,
             " s_q ", s_q, " d ", d_k, "/", d_v, " page ", page_size, causal ? "" : " full",
             strided ? " strided" : "", with_lse ? "" : " no lse", " kv");
  for (size_t i = 0; i < std::min<size_t>(kv_lens.size(), 8); ++i) {
    text += Concat(" ", kv_lens[i]);
  }
  if (kv_lens.size() > 8) text += Concat(" ... (", kv_lens.size(), ")");
  return text;
}

DecodeMemory::DecodeMemory(const DecodeCase& c) : case_(c) {
  const auto seqs = static_cast<int64_t>(c.kv_lens.size());
  const int64_t gap = c.strided ? 8 : 0;  // elements: strides stay multiples of 16 bytes
  const int64_t q_head = c.d_k + gap, q_token = q_head * c.heads + 2 * gap;
  const int64_t q_seq = q_token * c.s_q + gap;
  const int64_t out_head = c.d_v + gap, out_token = out_head * c.heads + gap;
  const int64_t out_seq = out_token * c.s_q + 2 * gap;
  // Of the cache in elements: of two bytes, or of one.
  const int64_t element = c.fp8 ? 1 : 2;
  const int64_t row = c.fp8 ? cuda::kFp8LatentBytes + 2 * gap : c.d_k + gap;
  const int64_t page = row * c.page_size + (c.fp8 ? 6 : 3) * gap;
  const int64_t lse_gap = c.strided ? 3 : 0;

  // Pages in a shuffled order; a row of the table has one entry more than the longest needs.
  int64_t most_pages = 0, pages = c.spare_pages;
  for (const int32_t len : c.kv_lens) {
    const int64_t n = (len + c.page_size - 1) / c.page_size;
    most_pages = std::max(most_pages, n);
    pages += n;
  }
  const int64_t table_stride = most_pages + 1;
  std::vector<int32_t> order(pages);
  std::iota(order.begin(), order.end(), 0);
  std::shuffle(order.begin(), order.end(), std::mt19937(c.seed));
  std::vector<int32_t> table(seqs * table_stride, kPoisonPage);
  int64_t next = 0;
  for (int64_t s = 0; s < seqs; ++s) {
    const int64_t n = (c.kv_lens[s] + c.page_size - 1) / c.page_size;
    for (int64_t i = 0; i < n; ++i) table[s * table_stride + i] = order[next++];
  }

  q_ = DeviceBuffer(seqs * q_seq * 2);
  cache_ = DeviceBuffer(pages * page * element);
  kv_lens_ = DeviceBuffer(seqs * 4);
  page_table_ = DeviceBuffer(table.size() * 4);
  out_ = DeviceBuffer(seqs * out_seq * 2);
  lse_ = DeviceBuffer(seqs * c.s_q * (c.heads + lse_gap) * 4);
  q_.Fill(0xff);  // NaN in bf16, f16 and f32
  cache_.Fill(0xff);
  kv_lens_.CopyFrom(c.kv_lens.data(), seqs * 4);
  page_table_.CopyFrom(table.data(), table.size() * 4);

  const Device gpu = {DeviceType::kCuda, 0};
  args_.q = ConstTensor(q_.data(), c.dtype, {seqs, c.s_q, c.heads, c.d_k},
                        {q_seq, q_token, q_head, 1}, gpu);
  args_.cache =
      c.fp8 ? ConstTensor(cache_.data(), DType::kF8E4M3,
                          {pages, c.page_size, cuda::kFp8LatentBytes}, {page, row, 1}, gpu)
            : ConstTensor(cache_.data(), c.dtype, {pages, c.page_size, c.d_k}, {page, row, 1}, gpu);
  args_.kv_lens = kv_lens_.as<int32_t>();
  args_.page_table = page_table_.as<int32_t>();
  args_.page_table_stride = table_stride;
  args_.kv_lora_rank = c.d_v;
  args_.scale = static_cast<float>(ScaleOf(c));
  args_.causal = c.causal;
  args_.out = Tensor(out_.data(), c.dtype, {seqs, c.s_q, c.heads, c.d_v},
                     {out_seq, out_token, out_head, 1}, gpu);
  if (c.with_lse) {
    // As [num_seqs, heads, s_q] in memory, which engines ask for.
    args_.lse = Tensor(lse_.data(), DType::kF32, {seqs, c.s_q, c.heads},
                       {c.s_q * (c.heads + lse_gap), 1, c.s_q}, gpu);
  }

  const dim3 rows(static_cast<unsigned>(c.s_q * c.heads), static_cast<unsigned>(seqs));
  const dim3 tokens(512, static_cast<unsigned>(seqs));
  const CachePlace place = {cache_.data(), page * element,   row * element,
                            c.page_size,   args_.page_table, table_stride};
  if (seqs > 0 && c.dtype == DType::kBF16) {
    FillQueries<<<rows, kThreads>>>(q_.as<__nv_bfloat16>(), q_seq, q_token, q_head, c.heads, c.d_k,
                                    c.seed);
    FillKeys<__nv_bfloat16><<<tokens, kThreads>>>(place, args_.kv_lens, c.d_k, KeyRuleOf(c));
  } else if (seqs > 0) {
    FillQueries<<<rows, kThreads>>>(q_.as<__half>(), q_seq, q_token, q_head, c.heads, c.d_k,
                                    c.seed);
    FillKeys<__half><<<tokens, kThreads>>>(place, args_.kv_lens, c.d_k, KeyRuleOf(c));
  }
  Check(cudaDeviceSynchronize(), "filling the memory of a case");
}

namespace {

// Takes a multiprocessor's shared memory, says so, and waits.
__global__ void Occupy(volatile int32_t* begun, long long nanoseconds) {
  const auto now = [] {
    long long time;
    asm volatile("mov.u64 %0, %globaltimer;" : "=l"(time));
    return time;
  };
  const long long end = now() + nanoseconds;
  begun[blockIdx.x] = 1;
  __threadfence_system();
  while (now() < end) __nanosleep(1000);
}

}  // namespace

BusyDevice::BusyDevice(int32_t multiprocessors, double milliseconds) {
  cudaStream_t stream = nullptr;
  Check(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), "a stream");
  stream_ = stream;
  if (multiprocessors == 0) return;
  Check(cudaMallocHost(&begun_, multiprocessors * sizeof(int32_t)), "memory of the host");
  std::fill_n(begun_, multiprocessors, 0);
  int shared = 0;
  Check(cudaDeviceGetAttribute(&shared, cudaDevAttrMaxSharedMemoryPerBlockOptin, 0), "attribute");
  Check(cudaFuncSetAttribute(Occupy, cudaFuncAttributeMaxDynamicSharedMemorySize, shared),
        "shared memory");
  Occupy<<<static_cast<unsigned>(multiprocessors), 1, shared, stream>>>(
      begun_, static_cast<long long>(milliseconds * 1e6));
  Check(cudaGetLastError(), "occupying multiprocessors");
  for (int32_t i = 0; i < multiprocessors; ++i) {
    while (const_cast<volatile int32_t*>(begun_)[i] == 0) {
    }
  }
}

BusyDevice::~BusyDevice() {
  const auto stream = static_cast<cudaStream_t>(stream_);
  Check(cudaStreamSynchronize(stream), "occupying multiprocessors");
  Check(cudaStreamDestroy(stream), "a stream");
  Check(cudaFreeHost(begun_), "memory of the host");
}

Status DecodeMemory::Allocate(const cuda::CudaContext& context) {
  MLA_ASSIGN_OR_RETURN(const cuda::MlaDecodeSizes sizes, cuda::MlaDecodeMemory(args_, context));
  schedule_ = DeviceBuffer(sizes.schedule_bytes);
  workspace_ = DeviceBuffer(sizes.workspace_bytes);
  schedule_.Fill(0xff);
  workspace_.Fill(0x7e);  // 8e37: what kernels take for results, if anything
  args_.schedule = schedule_.data();
  args_.workspace = workspace_.data();
  return {};
}

void DecodeMemory::PoisonOutputs() {
  out_.Fill(0xff);
  lse_.Fill(0xff);
}

Status DecodeMemory::Run(const cuda::CudaContext& context) {
  MLA_RETURN_IF_ERROR(Allocate(context));
  PoisonOutputs();
  MLA_RETURN_IF_ERROR(cuda::MlaDecodeSchedule(args_, context));
  MLA_RETURN_IF_ERROR(cuda::MlaDecode(args_, context));
  if (const cudaError_t error = cudaDeviceSynchronize(); error != cudaSuccess) {
    return Unsupported("the kernels failed: ", cudaGetErrorString(error));
  }
  return {};
}

void DecodeMemory::SetQueryToNaN(int32_t seq) {
  char* row = q_.as<char>() + args_.q.stride(0) * seq * 2;
  Check(cudaMemset(row + (args_.q.dim(3) - 1) * 2, 0xff, 2), "cudaMemset");
}

void DecodeMemory::SetKeyToNaN(int32_t seq) {
  int32_t page = 0;
  Check(cudaMemcpy(&page, args_.page_table + seq * args_.page_table_stride, sizeof(page),
                   cudaMemcpyDeviceToHost),
        "copy to the host");
  const auto bytes = static_cast<int64_t>(SizeOf(args_.cache.dtype()));
  char* key = cache_.as<char>() + args_.cache.stride(0) * page * bytes;
  // k_pe, in FP8 latents too.
  Check(cudaMemset(key + args_.cache.dim(2) * bytes - 2, 0xff, 2), "cudaMemset");
}

void DecodeMemory::SetLengths(const std::vector<int32_t>& kv_lens) {
  kv_lens_.CopyFrom(kv_lens.data(), kv_lens.size() * 4);
}

DecodeResult DecodeMemory::Results() const {
  std::vector<uint16_t> out(out_.bytes() / 2);
  std::vector<float> lse(lse_.bytes() / 4);
  out_.CopyTo(out.data(), out_.bytes());
  lse_.CopyTo(lse.data(), lse_.bytes());
  DecodeResult result;
  size_t written = 0;
  const Tensor& o = args_.out;
  for (int64_t s = 0; s < o.dim(0); ++s) {
    for (int64_t t = 0; t < o.dim(1); ++t) {
      for (int64_t h = 0; h < o.dim(2); ++h) {
        const int64_t at = s * o.stride(0) + t * o.stride(1) + h * o.stride(2);
        for (int64_t d = 0; d < o.dim(3); ++d, ++written) {
          result.out.push_back(ToDouble(out[at + d], case_.dtype));
          out[at + d] = 0xffff;
        }
        if (!args_.lse.present()) continue;
        const Tensor& l = args_.lse;
        float& value = lse[s * l.stride(0) + t * l.stride(1) + h * l.stride(2)];
        result.lse.push_back(value);
        value = NAN;
      }
    }
  }
  for (const uint16_t left : out) {
    if (left != 0xffff) {
      std::fprintf(stderr, "%s: a gap of out was written to\n", case_.ToString().c_str());
      std::abort();
    }
  }
  for (const float left : lse) {
    if (!std::isnan(left)) {
      std::fprintf(stderr, "%s: a gap of lse was written to\n", case_.ToString().c_str());
      std::abort();
    }
  }
  return result;
}

DecodeResult DecodeReference(const DecodeCase& c) {
  const auto seqs = static_cast<int64_t>(c.kv_lens.size());
  const int64_t rows = int64_t{c.s_q} * c.heads;
  int64_t max_kv = 1;
  for (const int32_t len : c.kv_lens) max_kv = std::max<int64_t>(max_kv, len);
  DeviceBuffer lens(seqs * 4), scores(seqs * rows * max_kv * 8);
  DeviceBuffer out(seqs * rows * c.d_v * 8), lse(seqs * rows * 8);
  lens.CopyFrom(c.kv_lens.data(), seqs * 4);
  DecodeResult result;
  result.out.resize(seqs * rows * c.d_v);
  result.lse.resize(c.with_lse ? seqs * rows : 0);
  if (seqs == 0) return result;
  const dim3 grid(static_cast<unsigned>(rows), static_cast<unsigned>(seqs));
  const dim3 tokens(512, static_cast<unsigned>(seqs));
  DeviceBuffer keys(seqs * max_kv * c.d_k * 8);
  const auto run = [&](auto fill, auto attend) {
    fill<<<tokens, kThreads>>>(keys.as<double>(), max_kv, lens.as<int32_t>(), c.d_k, KeyRuleOf(c));
    attend<<<grid, kThreads>>>(lens.as<int32_t>(), c.s_q, c.heads, c.d_k, c.d_v, ScaleOf(c),
                               c.causal, c.seed, keys.as<double>(), scores.as<double>(), max_kv,
                               out.as<double>(), lse.as<double>());
  };
  if (c.dtype == DType::kBF16) {
    run(FillDense<__nv_bfloat16>, Reference<__nv_bfloat16>);
  } else {
    run(FillDense<__half>, Reference<__half>);
  }
  Check(cudaDeviceSynchronize(), "the reference");
  out.CopyTo(result.out.data(), result.out.size() * 8);
  if (c.with_lse) lse.CopyTo(result.lse.data(), result.lse.size() * 8);
  return result;
}

std::string CompareDecode(const DecodeCase& c, const DecodeResult& got, const DecodeResult& want) {
  if (got.out.size() != want.out.size() || got.lse.size() != want.lse.size()) {
    return Concat(c.ToString(), ": sizes differ");
  }
  double dot = 0, got_square = 0, want_square = 0, worst = 0;
  size_t worst_at = 0;
  for (size_t i = 0; i < got.out.size(); ++i) {
    const double error = std::abs(got.out[i] - want.out[i]);
    const double share = error / kMlaDecodeOut.Limit(std::abs(want.out[i]));
    if (!(share <= worst)) {
      worst = std::isnan(share) ? INFINITY : share;
      worst_at = i;
    }
    dot += got.out[i] * want.out[i];
    got_square += got.out[i] * got.out[i];
    want_square += want.out[i] * want.out[i];
  }
  if (worst > 1) {
    return Concat(c.ToString(), ": out[", worst_at, "] (row ", worst_at / c.d_v, ", column ",
                  worst_at % c.d_v, ") is ", got.out[worst_at], ", want ", want.out[worst_at]);
  }
  const double squares = got_square + want_square;
  if (squares > 0 && 1 - 2 * dot / squares > kMlaDecodeCosine) {
    return Concat(c.ToString(), ": 1 - cosine is ", 1 - 2 * dot / squares);
  }
  const Tolerance limit =
      c.fp8 && c.scales != Fp8Scales::kPowers ? kMlaDecodeFp8Lse : kMlaDecodeLse;
  for (size_t i = 0; i < got.lse.size(); ++i) {
    if (got.lse[i] == want.lse[i]) continue;  // both -inf
    const double error = std::abs(got.lse[i] - want.lse[i]);
    if (!(error <= limit.Limit(std::abs(want.lse[i])))) {
      return Concat(c.ToString(), ": lse[", i, "] is ", got.lse[i], ", want ", want.lse[i]);
    }
  }
  return {};
}

}  // namespace mla::test
