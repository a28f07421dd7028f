// What a form of MLA costs, and the choice between the two.
//
// The estimate of a call is a sum of counts (multiply-adds, numbers packed, numbers merged), each
// times a price that was fitted to measurements of the CPU kernels: bench/form_grid.cc measures a
// grid of queries, heads and depths in both forms, fits the prices (--fit) and reports what the
// choice costs against the better form. The prices are constants, not measured at start: only their
// ratios matter for a choice, these hardly differ between machines of an instruction set, and the
// forms differ in rounding, so that a measured choice would let a result depend on what else the
// machine was doing when the program started.
#ifndef MLA_DISPATCH_MLA_COST_H_
#define MLA_DISPATCH_MLA_COST_H_

#include <array>
#include <cstdint>
#include <string_view>

#include "dispatch/mla_form.h"
#include "mla/context.h"
#include "mla/tensor.h"

namespace mla {

// The kernels that would run, as far as prices differ.
enum class MlaArithmetic {
  kF32,      // fp32 multiply-adds, also of numbers rounded to bf16
  kBf16,     // bf16 dot products, a cache of numbers
  kInt8,     // bf16 dot products, int8 latents: the absorbed form has integer products
  kAmxBf16,  // the same two with AMX tiles in place of bf16 dot products
  kAmxInt8,
};

MlaArithmetic MlaArithmeticOf(ComputeMode compute, DType cache);

// The terms of a cost.
enum MlaTerm {
  kMlaProducts,    // multiply-adds of scores and sums
  kMlaTiles,       // numbers of keys and values loaded for a tile of rows
  kMlaProjection,  // multiply-adds with W_UK and W_UV
  kMlaWeights,     // numbers of W_UK and W_UV read once
  kMlaMerge,       // numbers of partial results written and merged, where keys are split
  kMlaCall,        // 1
  kMlaTerms
};
std::string_view MlaTermName(MlaTerm term);  // "products"

struct MlaWork {
  std::array<double, kMlaTerms> counts{};
  int32_t splits = 1;  // of the keys
};

// Counts for q_len causal queries at the end of kv_len cached tokens, on the CPU.
MlaWork CountMlaWork(MlaForm form, const MlaShape& shape, int64_t q_len, int64_t kv_len);

struct MlaEstimate {
  std::array<double, kMlaTerms> seconds{};  // of one thread of the machine of the measurements
  int32_t splits = 1;

  double total() const;
  MlaTerm largest() const;
};
MlaEstimate EstimateMla(MlaForm form, const MlaShape& shape, int64_t q_len, int64_t kv_len,
                        MlaArithmetic arithmetic);

// The form with the smaller estimate. A function of this one sequence's lengths, so that a
// sequence's result does not depend on the batch it is in, nor on the threads.
MlaForm ChooseMlaForm(const MlaShape& shape, int64_t q_len, int64_t kv_len,
                      MlaArithmetic arithmetic);

}  // namespace mla

#endif  // MLA_DISPATCH_MLA_COST_H_
