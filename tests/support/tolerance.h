// How far a kernel may be from the fp64 reference, per operator and compute mode: the one table of
// the operator tests. A value passes if |got - want| <= abs + rel * magnitude; the magnitude is
// |want| unless the table says otherwise. Inputs of the tests are drawn so that outputs and scores
// are of order 1; the measured worst case is at most half of each.
#ifndef MLA_TESTS_SUPPORT_TOLERANCE_H_
#define MLA_TESTS_SUPPORT_TOLERANCE_H_

#include "mla/context.h"

namespace mla::test {

struct Tolerance {
  double abs = 0;
  double rel = 0;
  double Limit(double magnitude) const { return abs + rel * magnitude; }
};

enum class Operator { kMlaAbsorbed, kMlaExpanded, kGqa, kLinear, kQuantLinear, kRowwise };

inline Tolerance ToleranceFor(Operator op, ComputeMode mode) {
  const bool f32 = mode == ComputeMode::kF32;
  switch (op) {
    // f32: fp32 sums of up to 576 terms. bf16: q and p have 8 bits; over int8 latents p has 8 below
    // the largest of 64.
    case Operator::kMlaAbsorbed:
    case Operator::kGqa: return f32 ? Tolerance{4e-6, 4e-6} : Tolerance{2e-2, 1e-2};
    // bf16: the projected keys and values have 8 bits too.
    case Operator::kMlaExpanded: return f32 ? Tolerance{4e-6, 4e-6} : Tolerance{3e-2, 1e-2};
    // Linear, GroupedLinear, HeadLinear. Magnitude: sum |x| |w| of the output, x rounded as the
    // mode says; what is left is the order of fp32 additions. VDPBF16PS also rounds twice per pair
    // and flushes subnormal numbers.
    case Operator::kLinear: return f32 ? Tolerance{1e-7, 2e-6} : Tolerance{1e-7, 4e-6};
    // The same with quantised weights. bf16: numbers of x that are below 2^-7 of the largest of
    // their 32 may be rounded to 2^-15 of it, which rows of few groups feel most.
    case Operator::kQuantLinear: return f32 ? Tolerance{1e-7, 2e-6} : Tolerance{1e-7, 1.6e-5};
    // RmsNorm, SiluMul: fp32 in both modes.
    case Operator::kRowwise: return {1e-7, 2e-6};
  }
  return {};
}

// mla_decode on CUDA, bf16 and fp16, FP8 caches too (their reference reads the quantised values).
// Cosine: 1 - 2 a.b / (a.a + b.b) over all of out.
inline constexpr Tolerance kMlaDecodeOut = {8e-4, 2.0 / 128};
inline constexpr Tolerance kMlaDecodeLse = {1e-6, 8.0 / 65536};
// Where scales are no powers of two, an FP8 key is rounded to bf16 once more.
inline constexpr Tolerance kMlaDecodeFp8Lse = {1e-3, 8.0 / 65536};
inline constexpr double kMlaDecodeCosine = 5e-6;

}  // namespace mla::test

#endif  // MLA_TESTS_SUPPORT_TOLERANCE_H_
