#include "support/test_tensor.h"

#include <algorithm>
#include <cstring>
#include <limits>

#include "base/check.h"
#include "base/numeric.h"

namespace mla::test {
namespace {

std::vector<int64_t> RowMajorStrides(const std::vector<int64_t>& dims) {
  std::vector<int64_t> strides(dims.size());
  int64_t stride = 1;
  for (size_t axis = dims.size(); axis-- > 0;) {
    strides[axis] = stride;
    stride *= dims[axis];
  }
  return strides;
}

template <typename View, typename Pointer>
View MakeView(Pointer data, DType dtype, const std::vector<int64_t>& d,
              const std::vector<int64_t>& s) {
  switch (d.size()) {
    case 1: return View(data, dtype, {d[0]}, {s[0]});
    case 2: return View(data, dtype, {d[0], d[1]}, {s[0], s[1]});
    case 3: return View(data, dtype, {d[0], d[1], d[2]}, {s[0], s[1], s[2]});
    case 4: return View(data, dtype, {d[0], d[1], d[2], d[3]}, {s[0], s[1], s[2], s[3]});
  }
  MLA_CHECK(d.empty(), "rank ", d.size());
  return View();
}

}  // namespace

TestTensor::TestTensor(DType dtype, std::vector<int64_t> dims)
    : TestTensor(dtype, dims, RowMajorStrides(dims)) {}

TestTensor::TestTensor(DType dtype, std::vector<int64_t> dims, std::vector<int64_t> strides)
    : dtype_(dtype), dims_(std::move(dims)), strides_(std::move(strides)) {
  MLA_CHECK(dims_.size() == strides_.size());
  int64_t last = 0;
  for (size_t axis = 0; axis < dims_.size(); ++axis) last += (dims_[axis] - 1) * strides_[axis];
  const bool empty = std::find(dims_.begin(), dims_.end(), 0) != dims_.end();
  // At least one element: the data of an absent tensor would be null.
  bytes_.assign(std::max<int64_t>(empty ? 1 : last + 1, 1) * SizeOf(dtype), 0xff);  // NaN
}

TestTensor& TestTensor::Fill(std::mt19937& random, float scale) {
  std::normal_distribution<float> normal(0, scale);
  const int64_t count = size();
  for (int64_t i = 0; i < count; ++i) Set(i, normal(random));
  return *this;
}

int64_t TestTensor::Offset(int64_t index) const {
  int64_t offset = 0;
  for (size_t axis = dims_.size(); axis-- > 0;) {
    offset += index % dims_[axis] * strides_[axis];
    index /= dims_[axis];
  }
  return offset;
}

float TestTensor::At(int64_t index) const {
  const uint8_t* from = bytes_.data() + Offset(index) * SizeOf(dtype_);
  if (dtype_ == DType::kF32) {
    float value;
    std::memcpy(&value, from, sizeof(value));
    return value;
  }
  uint16_t bits;
  std::memcpy(&bits, from, sizeof(bits));
  return dtype_ == DType::kF16 ? F16ToF32(bits) : Bf16ToF32(bits);
}

void TestTensor::Set(int64_t index, float value) {
  uint8_t* to = bytes_.data() + Offset(index) * SizeOf(dtype_);
  if (dtype_ == DType::kF32) {
    std::memcpy(to, &value, sizeof(value));
    return;
  }
  const uint16_t bits = dtype_ == DType::kF16 ? F32ToF16(value) : F32ToBf16(value);
  std::memcpy(to, &bits, sizeof(bits));
}

Tensor TestTensor::view() { return MakeView<Tensor>(bytes_.data(), dtype_, dims_, strides_); }
ConstTensor TestTensor::view() const {
  return MakeView<ConstTensor>(bytes_.data(), dtype_, dims_, strides_);
}

std::vector<float> TestTensor::Values() const {
  std::vector<float> values(size());
  for (int64_t i = 0; i < size(); ++i) values[i] = At(i);
  return values;
}

}  // namespace mla::test
