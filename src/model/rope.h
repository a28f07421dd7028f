// Rotary-embedding parameters from a config, in both of its styles: `rope_theta` beside
// `rope_scaling`, and the newer `rope_parameters` that holds them all.
#ifndef MLA_MODEL_ROPE_H_
#define MLA_MODEL_ROPE_H_

#include <cstdint>

#include "io/config.h"
#include "mla/result.h"
#include "model/spec.h"

namespace mla {

struct RopeResult {
  RopeSpec rope;
  // What the softmax scale is multiplied by in MLA models: m(mscale_all_dim)^2 under YaRN, with
  // m(a) = 0.1 a ln(factor) + 1 (YaRN, arXiv 2309.00071, and DeepSeek-V2's use of it); else 1.
  double scale_factor = 1;
};

// For heads of which `dim` numbers (even) are rotated. Types: default, linear, llama3, yarn,
// longrope. An unknown type is kUnsupported and the error lists the known ones.
Result<RopeResult> ReadRope(const ConfigReader& config, int64_t dim, RopePairing pairing,
                            double default_theta);

}  // namespace mla

#endif  // MLA_MODEL_ROPE_H_
