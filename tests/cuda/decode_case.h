// Calls of mla_decode for tests: a description, its memory on the device with everything that must
// not be read poisoned, and a reference in fp64.
#ifndef MLA_TESTS_CUDA_DECODE_CASE_H_
#define MLA_TESTS_CUDA_DECODE_CASE_H_

#include <cstddef>
#include <cstdint>
#include <ostream>
#include <string>
#include <vector>

#include "mla/cuda.h"

namespace mla::test {

// Memory on the current device. Fails the program when there is none left.
class DeviceBuffer {
 public:
  DeviceBuffer() = default;
  explicit DeviceBuffer(size_t bytes);
  DeviceBuffer(DeviceBuffer&& other) noexcept;
  DeviceBuffer& operator=(DeviceBuffer&& other) noexcept;
  ~DeviceBuffer();

  void* data() const { return data_; }
  size_t bytes() const { return bytes_; }
  template <typename T>
  T* as() const {
    return static_cast<T*>(data_);
  }
  void Fill(uint8_t byte);
  void CopyFrom(const void* host, size_t bytes);
  void CopyTo(void* host, size_t bytes) const;

 private:
  void* data_ = nullptr;
  size_t bytes_ = 0;
};

enum class Fp8Scales {
  kAny,     // about a 300th of the largest value there can be
  kPowers,  // the same as powers of two
  kWild,    // from 2^-20 to 2^10, some of them 0: the codes are at both ends of e4m3
};

struct DecodeCase {
  int32_t heads = 16;
  int32_t s_q = 1;
  int32_t d_k = 576;
  int32_t d_v = 512;
  int32_t page_size = 64;
  std::vector<int32_t> kv_lens = {1};
  DType dtype = DType::kBF16;
  bool fp8 = false;  // the cache is of FP8 latents
  Fp8Scales scales = Fp8Scales::kAny;
  bool causal = true;
  float sharpness = 1;   // times 1 / sqrt(d_k): what scores are multiplied by
  bool strided = false;  // gaps between the rows of q, out, lse and between cache tokens
  bool with_lse = true;
  int64_t spare_pages = 3;  // poisoned pages beside those in use
  uint32_t seed = 1;

  std::string ToString() const;
  friend std::ostream& operator<<(std::ostream& out, const DecodeCase& c) {
    return out << c.ToString();
  }
};

struct DecodeResult {
  std::vector<double> out;  // [num_seqs, s_q, heads, d_v]
  std::vector<double> lse;  // [num_seqs, s_q, heads]
};

// The memory of a case. Values come from the seed and the sequence, token and column they belong
// to, not from where they lie. Pages are shuffled; whatever is no token of a sequence is NaN, and
// page table entries past a sequence's end are 2147480000.
class DecodeMemory {
 public:
  explicit DecodeMemory(const DecodeCase& c);

  const cuda::MlaDecodeArgs& args() const { return args_; }

  // Poisons the outputs, sizes schedule and workspace for the context, schedules and attends.
  Status Run(const cuda::CudaContext& context);
  // Run's parts, for those who capture a graph.
  Status Allocate(const cuda::CudaContext& context);
  void PoisonOutputs();

  // New lengths, none longer than those of the case, in place.
  void SetLengths(const std::vector<int32_t>& kv_lens);
  // Makes the last number of a sequence's first query row, or of its first key, NaN.
  void SetQueryToNaN(int32_t seq);
  void SetKeyToNaN(int32_t seq);
  // How many entries the row of the page table holds, no more than at first; of one sequence.
  void SetPagesPerRow(int64_t pages) { args_.page_table_stride = pages; }

  // What the kernels wrote. Gaps that were written to are an error of the test.
  DecodeResult Results() const;

 private:
  DecodeCase case_;
  DeviceBuffer q_, cache_, kv_lens_, page_table_, out_, lse_, schedule_, workspace_;
  cuda::MlaDecodeArgs args_;
};

// Keeps multiprocessors from other work, from the constructor on for about so long.
class BusyDevice {
 public:
  BusyDevice(int32_t multiprocessors, double milliseconds);
  ~BusyDevice();
  BusyDevice(const BusyDevice&) = delete;
  BusyDevice& operator=(const BusyDevice&) = delete;

 private:
  void* stream_ = nullptr;
  int32_t* begun_ = nullptr;
};

// In fp64, from the values' rule: it reads neither the cache nor the page table. Of an FP8 cache it
// takes the values as they are quantised: what is tested is the attention.
DecodeResult DecodeReference(const DecodeCase& c);

// Empty if `got` is within the tolerance of `want`, else what is worst. The tolerances are those of
// the table in tolerance.h for dense bf16 and fp16 decode.
std::string CompareDecode(const DecodeCase& c, const DecodeResult& got, const DecodeResult& want);

}  // namespace mla::test

#endif  // MLA_TESTS_CUDA_DECODE_CASE_H_
