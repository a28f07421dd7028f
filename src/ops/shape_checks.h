// Checks shared by the operators' validation. `what` names the argument: "mla_absorbed: q".
#ifndef MLA_OPS_SHAPE_CHECKS_H_
#define MLA_OPS_SHAPE_CHECKS_H_

#include <cstdint>
#include <initializer_list>
#include <string_view>

#include "mla/result.h"
#include "mla/tensor.h"

namespace mla {

// Matches any extent in CheckShape.
inline constexpr int64_t kAny = -1;

// Present, on the CPU or all on one device, of this rank and these extents, innermost stride 1,
// and other strides non-negative.
Status CheckShape(const ConstTensor& tensor, std::string_view what,
                  std::initializer_list<int64_t> dims);

// As CheckShape, but no stride is required to be 1.
Status CheckShapeAnyStride(const ConstTensor& tensor, std::string_view what,
                           std::initializer_list<int64_t> dims);

Status CheckDType(const ConstTensor& tensor, std::string_view what,
                  std::initializer_list<DType> allowed);

// The rows of int8 latents begin at multiples of Int8LatentLayout::kAlignment bytes.
Status CheckInt8LatentRows(const ConstTensor& cache, std::string_view what);

// A matrix of weights of any type that can be computed with, quantised ones included: whole blocks,
// and for F8E4M3 block scales.
Status CheckWeightMatrix(const ConstTensor& w, std::string_view what,
                         std::initializer_list<int64_t> dims);

inline constexpr std::initializer_list<DType> kFloatTypes = {DType::kF32, DType::kF16,
                                                             DType::kBF16};

}  // namespace mla

#endif  // MLA_OPS_SHAPE_CHECKS_H_
