// Non-owning views of memory: element type, shape, strides and device.
#ifndef MLA_TENSOR_H_
#define MLA_TENSOR_H_

#include <array>
#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <string>
#include <string_view>
#include <type_traits>

namespace mla {

// Plain types have one element after another. The block types, those of GGUF, store a run of
// elements of a row as codes and scales together (src/tensor/quant_blocks.h). F8E4M3 has one byte
// per element, and its scales lie elsewhere: see BlockScales. I8 is one byte: in a cache, one of an
// int8 latent (mla/int8_latent.h).
// clang-format off
enum class DType : uint8_t {
  kF32, kF16, kBF16, kI32, kI8, kF8E4M3, kQ8_0, kQ4_0, kQ5_0, kQ4_K, kQ5_K, kQ6_K
};
// clang-format on

size_t SizeOf(DType dtype);               // bytes per element; 0 for block types
std::string_view DTypeName(DType dtype);  // "f32", "bf16", "i8", "f8_e4m3", "q8_0", "q4_K"

int64_t BlockElements(DType dtype);  // 32 or 256; 1 for plain types
int64_t BlockBytes(DType dtype);     // of one block; SizeOf for plain types
inline bool IsBlockType(DType dtype) { return SizeOf(dtype) == 0; }
// True if weights of this type need a kernel that decodes them: block types and F8E4M3.
inline bool IsQuantised(DType dtype) { return IsBlockType(dtype) || dtype == DType::kF8E4M3; }

// Bytes of `elements` elements, a multiple of BlockElements (anything else stops the program).
int64_t RowBytes(DType dtype, int64_t elements);

// The scales of a matrix in F8E4M3: element (i, j) of the matrix they belong to is its code times
// data[i / rows * stride + j / cols]. The last block of a row or column may be partial. A view
// begins at element (row0, col0) of that matrix, which need not be the corner of a block.
struct BlockScales {
  const float* data = nullptr;  // [ceil(matrix rows / rows), ceil(matrix cols / cols)]
  int64_t stride = 0;           // floats from one row of scales to the next
  int64_t rows = 128, cols = 128;
  int64_t row0 = 0, col0 = 0;

  float At(int64_t i, int64_t j) const {
    return data[(row0 + i) / rows * stride + (col0 + j) / cols];
  }
};

enum class DeviceType : uint8_t { kCpu, kCuda };

struct Device {
  DeviceType type = DeviceType::kCpu;
  int index = 0;
  bool operator==(const Device&) const = default;
};

inline constexpr int kMaxRank = 4;

// A strided view. Void is `void` (Tensor) or `const void` (ConstTensor). Strides are in elements.
// A view whose data is null is absent: how an optional argument is left out. In a block type the
// innermost stride is 1, and every other stride and the innermost extent are whole blocks.
template <typename Void>
class BasicTensor {
 public:
  BasicTensor() = default;

  // A contiguous, row-major view.
  BasicTensor(Void* data, DType dtype, std::initializer_list<int64_t> dims, Device device = {})
      : data_(data), dtype_(dtype), rank_(static_cast<int>(dims.size())), device_(device) {
    int i = 0;
    for (int64_t d : dims) dims_[i++] = d;
    int64_t stride = 1;
    for (int axis = rank_ - 1; axis >= 0; --axis) {
      strides_[axis] = stride;
      stride *= dims_[axis];
    }
  }

  // Explicit strides, in elements.
  BasicTensor(Void* data, DType dtype, std::initializer_list<int64_t> dims,
              std::initializer_list<int64_t> strides, Device device = {})
      : BasicTensor(data, dtype, dims, device) {
    int i = 0;
    for (int64_t s : strides) strides_[i++] = s;
  }

  // A Tensor is a ConstTensor.
  template <typename Other,
            typename = std::enable_if_t<std::is_const_v<Void> && !std::is_const_v<Other>>>
  BasicTensor(const BasicTensor<Other>& other)
      : data_(other.data()),
        dtype_(other.dtype()),
        rank_(other.rank()),
        device_(other.device()),
        scales_(other.scales()) {
    for (int i = 0; i < rank_; ++i) {
      dims_[i] = other.dim(i);
      strides_[i] = other.stride(i);
    }
  }

  Void* data() const { return data_; }
  DType dtype() const { return dtype_; }
  int rank() const { return rank_; }
  Device device() const { return device_; }
  int64_t dim(int axis) const { return dims_[axis]; }
  int64_t stride(int axis) const { return strides_[axis]; }
  bool present() const { return data_ != nullptr; }
  const BlockScales& scales() const { return scales_; }  // of F8E4M3; else without data

  // The same view of a matrix with these scales.
  BasicTensor WithScales(const BlockScales& scales) const {
    BasicTensor view = *this;
    view.scales_ = scales;
    return view;
  }

  int64_t num_elements() const {
    int64_t n = 1;
    for (int i = 0; i < rank_; ++i) n *= dims_[i];
    return n;
  }

  // Typed pointer to element 0. T's size must match the dtype; bf16 and f16 are read as uint16_t.
  template <typename T>
  auto as() const {
    using Ptr = std::conditional_t<std::is_const_v<Void>, const T*, T*>;
    return static_cast<Ptr>(data_);
  }

  // The view of elements [begin, end) of one axis; of the innermost axis of a block type, whole
  // blocks. Scales follow the slices of a matrix.
  BasicTensor Slice(int axis, int64_t begin, int64_t end) const {
    BasicTensor view = *this;
    using Byte = std::conditional_t<std::is_const_v<Void>, const char, char>;
    view.data_ = static_cast<Byte*>(data_) + RowBytes(dtype_, begin * strides_[axis]);
    view.dims_[axis] = end - begin;
    if (scales_.data != nullptr) (axis == 0 ? view.scales_.row0 : view.scales_.col0) += begin;
    return view;
  }

  // True if element order in memory is row-major without gaps.
  bool contiguous() const {
    int64_t stride = 1;
    for (int axis = rank_ - 1; axis >= 0; --axis) {
      if (dims_[axis] != 1 && strides_[axis] != stride) return false;
      stride *= dims_[axis];
    }
    return true;
  }

  std::string ShapeString() const {  // "[2, 3, 64]"
    std::string text = "[";
    for (int i = 0; i < rank_; ++i) {
      if (i > 0) text += ", ";
      text += std::to_string(dims_[i]);
    }
    return text + "]";
  }

 private:
  Void* data_ = nullptr;
  DType dtype_ = DType::kF32;
  int rank_ = 0;
  Device device_;
  std::array<int64_t, kMaxRank> dims_{};
  std::array<int64_t, kMaxRank> strides_{};
  BlockScales scales_;
};

using Tensor = BasicTensor<void>;
using ConstTensor = BasicTensor<const void>;

}  // namespace mla

#endif  // MLA_TENSOR_H_
