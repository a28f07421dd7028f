// Runs Linear, GroupedLinear and HeadLinear on one set of inner kernels.
#ifndef MLA_KERNELS_CPU_LINEAR_DRIVER_H_
#define MLA_KERNELS_CPU_LINEAR_DRIVER_H_

#include <cstdint>

#include "kernels/cpu/linear_plan.h"
#include "mla/linear.h"

namespace mla::cpu {

// The inner kernels of one instruction set. They are called from several threads at once.
struct LinearBackend {
  int64_t element_size;  // of a packed activation
  // Elements of a row that count for the rows of a block (LinearPlan): those that run_block keeps
  // in cache at a time, or fewer if it streams them.
  int64_t panel;
  // That run_block wants per thread, for blocks of at most so many rows.
  int64_t (*scratch_floats)(int64_t packed_stride, int64_t block_rows);
  // Writes `rows` rows of `in` floats to `packed`, each padded with zeros to `stride` elements, a
  // multiple of kPackedQuantum; rounded to bf16 if `round` (a backend may always round).
  void (*pack_rows)(const float* x, int64_t x_stride, int64_t rows, int64_t in, bool round,
                    void* packed, int64_t packed_stride);
  // `scratch` belongs to the calling thread.
  void (*run_block)(const ProductBlock& block, float* scratch);
  // Null, or: whether run_block wants Product::x_tiles, the packed rows of a product once more as
  // tiles of tile_rows, which all blocks share; and what writes one, as many elements as its rows
  // have, whether there are so many or not.
  bool (*wants_tiles)(const Product& product) = nullptr;
  void (*pack_tile)(const Product& product, int64_t tile, void* to) = nullptr;
  int64_t tile_rows = 0;
};

inline constexpr int64_t kPackedQuantum = 32;

Status RunLinear(const LinearBackend& backend, const LinearArgs& args, const Context& context);
Status RunGroupedLinear(const LinearBackend& backend, const GroupedLinearArgs& args,
                        const Context& context);
Status RunHeadLinear(const LinearBackend& backend, const HeadLinearArgs& args,
                     const Context& context);

}  // namespace mla::cpu

#endif  // MLA_KERNELS_CPU_LINEAR_DRIVER_H_
