#include "model/random_weights.h"

#include <sys/mman.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cerrno>
#include <cmath>
#include <cstring>
#include <fstream>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/check.h"
#include "base/numeric.h"
#include "base/threads.h"
#include "model/weights.h"
#include "tensor/quant_blocks.h"

namespace mla {
namespace {

constexpr int64_t kAlignment = 64;
constexpr int64_t kChunk = 1 << 18;  // elements: one task, one stretch of the random sequence
constexpr int64_t kScaleBlock = 128;

// A bijection of 32 bits in which every bit of the result depends on every bit of x.
inline uint32_t Mix(uint32_t x) {
  x ^= x >> 16;
  x *= 0x7feb352dU;
  x ^= x >> 15;
  x *= 0x846ca68bU;
  return x ^ (x >> 16);
}

// Uniform in [-scale, scale) around `center`.
struct Distribution {
  float center = 0;
  float scale = 0;
};

inline float Draw(const Distribution& d, uint32_t seed, uint32_t index) {
  return d.center +
         d.scale * 0x1p-31f * static_cast<float>(static_cast<int32_t>(Mix(seed + index)));
}

// For every byte b, the F8_E4M3 code nearest to a number that grows evenly with b: uniform bytes
// become uniform numbers in [-448, 448].
std::array<uint8_t, 256> UniformF8Codes() {
  std::array<uint8_t, 256> codes{};
  for (int b = 0; b < 256; ++b) {
    const float want = (static_cast<float>(b) - 127.5f) / 127.5f * 448;
    float nearest = INFINITY;
    for (int code = 0; code < 256; ++code) {
      const float distance = std::fabs(F8E4M3ToF32(static_cast<uint8_t>(code)) - want);
      if (!(distance < nearest)) continue;  // NaN codes compare false
      nearest = distance;
      codes[b] = static_cast<uint8_t>(code);
    }
  }
  return codes;
}

// `count` elements at `to`. Truncating to bf16 is as random as rounding, and vectorises.
void Fill(StoredDType dtype, const Distribution& d, uint32_t seed, int64_t count, std::byte* to) {
  const auto n = static_cast<uint32_t>(count);
  switch (dtype) {
    case StoredDType::kF32: {
      auto* out = reinterpret_cast<float*>(to);
      for (uint32_t i = 0; i < n; ++i) out[i] = Draw(d, seed, i);
      return;
    }
    case StoredDType::kF16: {
      auto* out = reinterpret_cast<uint16_t*>(to);
      for (uint32_t i = 0; i < n; ++i) out[i] = F32ToF16(Draw(d, seed, i));
      return;
    }
    case StoredDType::kBF16: {
      auto* out = reinterpret_cast<uint16_t*>(to);
      for (uint32_t i = 0; i < n; ++i) {
        out[i] = static_cast<uint16_t>(std::bit_cast<uint32_t>(Draw(d, seed, i)) >> 16);
      }
      return;
    }
    case StoredDType::kF8E4M3: {
      static const std::array<uint8_t, 256> codes = UniformF8Codes();
      auto* out = reinterpret_cast<uint8_t*>(to);
      for (uint32_t i = 0; i < n; ++i) out[i] = codes[Mix(seed + i) >> 24];
      return;
    }
    default: MLA_CHECK(false, "dtype ", StoredDTypeName(dtype));
  }
}

// What checkpoints in FP8 leave in bf16.
bool StaysBf16(const NamedShape& tensor) {
  if (tensor.shape.size() != 2) return true;
  for (const std::string_view part :
       {"embed_tokens.", "lm_head.", ".gate.", ".classifier.", ".weights_proj."}) {
    if (tensor.name.find(part) != std::string::npos) return true;
  }
  return false;
}

struct PlannedTensor {
  StoredTensor tensor;  // without data
  int64_t offset = 0, elements = 0;
  Distribution values;
};

// The tensors one after another.
class Layout {
 public:
  explicit Layout(StoredDType dtype) : dtype_(dtype) {}

  Status Add(const NamedShape& named) {
    if (dtype_ == StoredDType::kF8E4M3 && !StaysBf16(named)) {
      MLA_RETURN_IF_ERROR(Add(named.name, StoredDType::kF8E4M3, named.shape, {}));
      const std::vector<int64_t> blocks = {CeilDiv(named.shape[0], kScaleBlock),
                                           CeilDiv(named.shape[1], kScaleBlock)};
      const float scale = MatrixScale(named.shape[1]) / 448;
      return Add(named.name + "_scale_inv", StoredDType::kF32, blocks, {scale, scale / 4});
    }
    const StoredDType dtype = dtype_ == StoredDType::kF8E4M3 ? StoredDType::kBF16 : dtype_;
    return Add(named.name, dtype, named.shape, ValuesOf(named));
  }

  std::vector<PlannedTensor>& tensors() { return tensors_; }
  int64_t bytes() const { return bytes_; }

 private:
  // A uniform distribution of variance 1 / in.
  static float MatrixScale(int64_t in) { return std::sqrt(3 / static_cast<float>(in)); }

  static Distribution ValuesOf(const NamedShape& named) {
    if (named.shape.size() >= 2) return {0, MatrixScale(named.shape.back())};
    const bool bias = named.name.find("bias") != std::string::npos;
    return bias ? Distribution{0, 0.01f} : Distribution{1, 0.1f};
  }

  Status Add(const std::string& name, StoredDType dtype, const std::vector<int64_t>& shape,
             const Distribution& values) {
    const auto bytes = ByteSize(dtype, shape);
    const auto end = CheckedAdd(bytes_, bytes.value_or(-1));
    if (!bytes || !end || *end > INT64_MAX - kAlignment) {
      return InvalidArgument(name, " of shape ", ShapeString(shape), " is too large");
    }
    PlannedTensor planned;
    planned.tensor = {name, dtype, shape, {}};
    planned.offset = bytes_;
    planned.elements = *bytes / static_cast<int64_t>(SizeOf(dtype));
    planned.values = values;
    tensors_.push_back(std::move(planned));
    bytes_ = CeilDiv(*end, kAlignment) * kAlignment;
    return {};
  }

  StoredDType dtype_;
  std::vector<PlannedTensor> tensors_;
  int64_t bytes_ = 0;
};

// Bytes that can be allocated without swapping; INT64_MAX where the system does not say.
int64_t AvailableMemory() {
  std::ifstream file("/proc/meminfo");
  std::string key, unit;
  int64_t value = 0;
  while (file >> key >> value) {
    if (key == "MemAvailable:") return value * 1024;
    std::getline(file, unit);
  }
  return INT64_MAX;
}

Result<std::shared_ptr<std::byte>> Reserve(int64_t size) {
  const auto bytes = static_cast<size_t>(size);
  void* data = mmap(nullptr, bytes, PROT_READ | PROT_WRITE,
                    MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (data == MAP_FAILED) {
    return Error{ErrorCode::kOutOfMemory,
                 Concat("cannot reserve ", size, " bytes of weights: ", std::strerror(errno))};
  }
  return std::shared_ptr<std::byte>(static_cast<std::byte*>(data),
                                    [bytes](std::byte* p) { munmap(p, bytes); });
}

void FillAll(const std::vector<PlannedTensor>& tensors, const RandomWeightsOptions& options,
             std::byte* memory) {
  struct Task {
    const PlannedTensor* tensor;
    int64_t begin;
    uint32_t seed;
  };
  std::vector<Task> tasks;
  const uint32_t seed =
      Mix(static_cast<uint32_t>(options.seed)) ^ static_cast<uint32_t>(options.seed >> 32);
  for (const PlannedTensor& tensor : tensors) {
    for (int64_t begin = 0; begin < tensor.elements; begin += kChunk) {
      const auto index = static_cast<uint32_t>(tasks.size());
      tasks.push_back({&tensor, begin, Mix(seed + Mix(index))});
    }
  }
  ParallelFor(options.threads, std::ssize(tasks), [&](int64_t i, int) {
    const auto& [planned, begin, task_seed] = tasks[i];
    const StoredDType dtype = planned->tensor.dtype;
    Fill(dtype, planned->values, task_seed, std::min(kChunk, planned->elements - begin),
         memory + planned->offset + begin * static_cast<int64_t>(SizeOf(dtype)));
  });
}

}  // namespace

Result<Checkpoint> MakeRandomCheckpoint(const ModelSpec& spec,
                                        const RandomWeightsOptions& options) {
  switch (options.dtype) {
    case StoredDType::kF32:
    case StoredDType::kF16:
    case StoredDType::kBF16:
    case StoredDType::kF8E4M3: break;
    default:
      return Unsupported("random weights in ", StoredDTypeName(options.dtype),
                         ", want F32, F16, BF16 or F8_E4M3");
  }
  Layout layout(options.dtype);
  for (const NamedShape& tensor : ListTensors(spec)) MLA_RETURN_IF_ERROR(layout.Add(tensor));
  const int64_t most = options.max_bytes >= 0 ? options.max_bytes : AvailableMemory();
  if (layout.bytes() > most) {
    return Error{ErrorCode::kOutOfMemory,
                 Concat("the weights take ", static_cast<double>(layout.bytes()) / 1e9, " GB, and ",
                        static_cast<double>(most) / 1e9, " GB are available")};
  }
  if (layout.tensors().empty()) return Checkpoint::FromMemory({}, nullptr);
  MLA_ASSIGN_OR_RETURN(const std::shared_ptr<std::byte> memory, Reserve(layout.bytes()));
  FillAll(layout.tensors(), options, memory.get());
  std::vector<StoredTensor> tensors;
  tensors.reserve(layout.tensors().size());
  for (PlannedTensor& planned : layout.tensors()) {
    StoredTensor& tensor = planned.tensor;
    tensor.data = {memory.get() + planned.offset,
                   static_cast<size_t>(planned.elements) * SizeOf(tensor.dtype)};
    tensors.push_back(std::move(tensor));
  }
  return Checkpoint::FromMemory(std::move(tensors), memory);
}

}  // namespace mla
