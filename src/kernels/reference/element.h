// Element access by dtype, for plain loops.
#ifndef MLA_KERNELS_REFERENCE_ELEMENT_H_
#define MLA_KERNELS_REFERENCE_ELEMENT_H_

#include <cstdint>
#include <vector>

#include "base/check.h"
#include "base/numeric.h"
#include "mla/int8_latent.h"
#include "mla/tensor.h"
#include "tensor/quant_blocks.h"

namespace mla::reference {

inline double Load(const void* data, DType dtype, int64_t index) {
  switch (dtype) {
    case DType::kF32: return static_cast<const float*>(data)[index];
    case DType::kF16: return F16ToF32(static_cast<const uint16_t*>(data)[index]);
    case DType::kBF16: return Bf16ToF32(static_cast<const uint16_t*>(data)[index]);
    case DType::kI32: return static_cast<const int32_t*>(data)[index];
    case DType::kI8: return static_cast<const int8_t*>(data)[index];
    default: break;
  }
  MLA_CHECK(false, "no single elements in ", DTypeName(dtype));
}

inline void Store(void* data, DType dtype, int64_t index, double value) {
  const auto f32 = static_cast<float>(value);
  switch (dtype) {
    case DType::kF32: static_cast<float*>(data)[index] = f32; break;
    case DType::kF16: static_cast<uint16_t*>(data)[index] = F32ToF16(f32); break;
    case DType::kBF16: static_cast<uint16_t*>(data)[index] = F32ToBf16(f32); break;
    case DType::kI32: static_cast<int32_t*>(data)[index] = static_cast<int32_t>(value); break;
    default: MLA_CHECK(false, "no single elements in ", DTypeName(dtype));
  }
}

// Element (i, j, k) of a strided tensor; trailing indices default to 0.
inline double At(const ConstTensor& t, int64_t i, int64_t j = 0, int64_t k = 0, int64_t l = 0) {
  int64_t index = i * t.stride(0);
  if (t.rank() > 1) index += j * t.stride(1);
  if (t.rank() > 2) index += k * t.stride(2);
  if (t.rank() > 3) index += l * t.stride(3);
  return Load(t.data(), t.dtype(), index);
}

// The numbers along the last axis: t[i, :], t[i, j, :] or t[i, j, k, :].
inline std::vector<double> RowAt(const ConstTensor& t, int64_t i, int64_t j = 0, int64_t k = 0) {
  const int last = t.rank() - 1;
  int64_t index = i * t.stride(0);
  if (last > 1) index += j * t.stride(1);
  if (last > 2) index += k * t.stride(2);
  std::vector<double> values(t.dim(last));
  for (size_t d = 0; d < values.size(); ++d) {
    values[d] = Load(t.data(), t.dtype(), index + static_cast<int64_t>(d) * t.stride(last));
  }
  return values;
}

inline double Dot(const std::vector<double>& x, const std::vector<double>& y) {
  double sum = 0;
  for (size_t i = 0; i < x.size(); ++i) sum += x[i] * y[i];
  return sum;
}

// The cached latent at (page, offset): a row of numbers, or those of an int8 latent.
inline std::vector<double> LatentAt(const ConstTensor& cache, const Int8LatentLayout& layout,
                                    int64_t page, int64_t offset) {
  if (cache.dtype() != DType::kI8) return RowAt(cache, page, offset);
  const char* row =
      static_cast<const char*>(cache.data()) + page * cache.stride(0) + offset * cache.stride(1);
  std::vector<double> values(layout.kv_lora_rank + layout.qk_rope_head_dim);
  for (int64_t d = 0; d < layout.kv_lora_rank; ++d) {
    const double scale = Load(row + layout.scales_offset(), DType::kF32, d / layout.kGroup);
    values[d] = Load(row, DType::kI8, d) * scale;
  }
  for (int64_t d = 0; d < layout.qk_rope_head_dim; ++d) {
    values[layout.kv_lora_rank + d] = Load(row + layout.rope_offset(), DType::kBF16, d);
  }
  return values;
}

// Row `row` of a matrix of weights of any type, scales applied in fp64.
inline std::vector<double> WeightRow(const ConstTensor& w, int64_t row) {
  const int64_t count = w.dim(1);
  std::vector<float> codes(count);
  DequantiseMatrixRow(w.WithScales({}), row, 0, count, codes.data());
  std::vector<double> values(codes.begin(), codes.end());
  if (w.scales().data == nullptr) return values;
  for (int64_t i = 0; i < count; ++i) values[i] *= double{w.scales().At(row, i)};
  return values;
}

inline void SetAt(const Tensor& t, double value, int64_t i, int64_t j = 0, int64_t k = 0) {
  int64_t index = i * t.stride(0);
  if (t.rank() > 1) index += j * t.stride(1);
  if (t.rank() > 2) index += k * t.stride(2);
  Store(t.data(), t.dtype(), index, value);
}

}  // namespace mla::reference

#endif  // MLA_KERNELS_REFERENCE_ELEMENT_H_
