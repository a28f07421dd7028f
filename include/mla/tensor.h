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

enum class DType : uint8_t { kF32, kF16, kBF16, kI32 };

size_t SizeOf(DType dtype);               // bytes per element
std::string_view DTypeName(DType dtype);  // "f32", "f16", "bf16", "i32"

enum class DeviceType : uint8_t { kCpu, kCuda };

struct Device {
  DeviceType type = DeviceType::kCpu;
  int index = 0;
  bool operator==(const Device&) const = default;
};

inline constexpr int kMaxRank = 4;

// A strided view. Void is `void` (Tensor) or `const void` (ConstTensor). Strides are in elements.
// A view whose data is null is absent: how an optional argument is left out.
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
      : data_(other.data()), dtype_(other.dtype()), rank_(other.rank()), device_(other.device()) {
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

  // The view of elements [begin, end) of one axis.
  BasicTensor Slice(int axis, int64_t begin, int64_t end) const {
    BasicTensor view = *this;
    using Byte = std::conditional_t<std::is_const_v<Void>, const char, char>;
    const int64_t offset = begin * strides_[axis] * static_cast<int64_t>(SizeOf(dtype_));
    view.data_ = static_cast<Byte*>(data_) + offset;
    view.dims_[axis] = end - begin;
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
};

using Tensor = BasicTensor<void>;
using ConstTensor = BasicTensor<const void>;

}  // namespace mla

#endif  // MLA_TENSOR_H_
