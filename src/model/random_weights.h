// Weights for a model without a checkpoint: deterministic random numbers in memory, under the names
// that the loader looks for, so that every family is loaded and run as it always is.
#ifndef MLA_MODEL_RANDOM_WEIGHTS_H_
#define MLA_MODEL_RANDOM_WEIGHTS_H_

#include <cstdint>

#include "io/checkpoint.h"
#include "mla/result.h"
#include "model/spec.h"

namespace mla {

class ThreadPool;

struct RandomWeightsOptions {
  // kBF16, kF16, kF32, or kF8E4M3: projections in FP8 with scales per 128 x 128 block, as
  // DeepSeek-V3 is released; embedding, head, routers, norms and biases in bf16.
  StoredDType dtype = StoredDType::kBF16;
  uint64_t seed = 1;
  ThreadPool* threads = nullptr;
  int64_t max_bytes = -1;  // -1: what the system says is available
};

// Matrices are uniform with variance 1 / in, so that activations neither vanish nor overflow; norms
// are near 1, biases near 0. The numbers depend on spec, dtype and seed alone. Memory is first
// written by the threads, each a part. kOutOfMemory, with both sizes, if the weights exceed
// max_bytes; kUnsupported for other dtypes.
Result<Checkpoint> MakeRandomCheckpoint(const ModelSpec& spec, const RandomWeightsOptions& options);

}  // namespace mla

#endif  // MLA_MODEL_RANDOM_WEIGHTS_H_
