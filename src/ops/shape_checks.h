// Checks shared by the operators' validation.
#ifndef MLA_OPS_SHAPE_CHECKS_H_
#define MLA_OPS_SHAPE_CHECKS_H_

#include <cstdint>
#include <initializer_list>
#include <ostream>
#include <string_view>

#include "mla/result.h"
#include "mla/tensor.h"

namespace mla {

// An argument as messages name it: "mla_absorbed: q". Put together only where there is a message:
// to make such a string takes longer than the checks of a call.
class ArgName {
 public:
  ArgName(std::string_view whole) : name_(whole) {}  // implicit: "linear: x"
  ArgName(const char* whole) : name_(whole) {}
  ArgName(std::string_view op, std::string_view name) : op_(op), name_(name) {}

  friend std::ostream& operator<<(std::ostream& out, const ArgName& arg) {
    if (!arg.op_.empty()) out << arg.op_ << ": ";
    return out << arg.name_;
  }

 private:
  std::string_view op_, name_;  // op_ is empty: name_ is all
};

// Matches any extent in CheckShape.
inline constexpr int64_t kAny = -1;

// Present, on the CPU or all on one device, of this rank and these extents, innermost stride 1,
// and other strides non-negative.
Status CheckShape(const ConstTensor& tensor, const ArgName& what,
                  std::initializer_list<int64_t> dims);

// As CheckShape, but no stride is required to be 1.
Status CheckShapeAnyStride(const ConstTensor& tensor, const ArgName& what,
                           std::initializer_list<int64_t> dims);

Status CheckDType(const ConstTensor& tensor, const ArgName& what,
                  std::initializer_list<DType> allowed);

// The rows of int8 latents begin at multiples of Int8LatentLayout::kAlignment bytes.
Status CheckInt8LatentRows(const ConstTensor& cache, const ArgName& what);

// A matrix of weights of any type that can be computed with, quantised ones included: whole blocks,
// and for F8E4M3 block scales.
Status CheckWeightMatrix(const ConstTensor& w, const ArgName& what,
                         std::initializer_list<int64_t> dims);

inline constexpr std::initializer_list<DType> kFloatTypes = {DType::kF32, DType::kF16,
                                                             DType::kBF16};

}  // namespace mla

#endif  // MLA_OPS_SHAPE_CHECKS_H_
