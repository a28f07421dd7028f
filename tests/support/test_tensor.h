// Tensors for tests: random values, any strides, and poison wherever the view does not reach.
#ifndef MLA_TESTS_SUPPORT_TEST_TENSOR_H_
#define MLA_TESTS_SUPPORT_TEST_TENSOR_H_

#include <cstdint>
#include <random>
#include <vector>

#include "mla/tensor.h"

namespace mla::test {

// Owns the memory of a view. All of it starts as NaN; what Fill does not write stays so. The memory
// ends where the view's last element ends: AddressSanitizer sees a read past it.
class TestTensor {
 public:
  TestTensor() = default;
  TestTensor(DType dtype, std::vector<int64_t> dims);  // contiguous
  TestTensor(DType dtype, std::vector<int64_t> dims, std::vector<int64_t> strides);

  // Normally distributed numbers in every element of the view.
  TestTensor& Fill(std::mt19937& random, float scale = 1);

  // Element `index` of the view in row-major order, as f32.
  float At(int64_t index) const;
  void Set(int64_t index, float value);
  int64_t size() const { return view().num_elements(); }

  Tensor view();
  ConstTensor view() const;
  std::vector<float> Values() const;  // in row-major order

 private:
  int64_t Offset(int64_t index) const;

  DType dtype_ = DType::kF32;
  std::vector<int64_t> dims_, strides_;
  std::vector<uint8_t> bytes_;
};

}  // namespace mla::test

#endif  // MLA_TESTS_SUPPORT_TEST_TENSOR_H_
