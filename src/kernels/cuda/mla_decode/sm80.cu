// The host's side of the Ampere kernel: which calls it takes, and with what tile.
#include <algorithm>
#include <cstdint>
#include <string_view>

#include "kernels/cuda/device.h"
#include "kernels/cuda/mla_decode/kernel.h"
#include "kernels/cuda/mla_decode/sm80.h"

namespace mla::cuda {
namespace sm80 {
namespace {

// The stages that fit if a multiprocessor is to hold this many thread blocks.
int StagesThatFit(const Tile& tile, int blocks_per_sm, size_t max_shared_bytes,
                  size_t shared_bytes_per_sm) {
  const size_t bytes =
      std::min(max_shared_bytes, shared_bytes_per_sm / blocks_per_sm - kReservedSharedBytes);
  int stages = tile.max_stages();
  while (stages > 0 && tile.shared_bytes(stages) > bytes) --stages;
  return stages < kMinStages ? 0 : stages;
}

// The tile of this many rows for the device: with the longest run of tokens that leaves room for
// the stages.
Plan PlanRows(int d_k, int d_v, int rows, size_t max_shared_bytes, size_t shared_bytes_per_sm) {
  Plan plan;
  for (const int tokens : {32, 16}) {
    const Tile tile = {d_k, d_v, rows, tokens};
    if (!IsCompiled(tile)) continue;
    // Two blocks on a multiprocessor fill each other's pauses.
    for (int blocks = tile.blocks_per_sm(); blocks >= 1; --blocks) {
      const int stages = StagesThatFit(tile, blocks, max_shared_bytes, shared_bytes_per_sm);
      if (stages > 0) return {tile, stages, blocks};
    }
  }
  return plan;
}

// What the keys cost a tile of rows beside other tiles, as measured on an H200 (d_k 576).
struct RowTile {
  int rows;
  int cost;
};
constexpr RowTile kRowTiles[] = {{64, 30}, {32, 20}, {16, 14}};

}  // namespace

bool RowsAligned(const ConstTensor& tensor, size_t bytes) {
  bool aligned = reinterpret_cast<uintptr_t>(tensor.data()) % bytes == 0;
  for (int axis = 0; axis + 1 < tensor.rank(); ++axis) {
    aligned &= tensor.dim(axis) == 1 || tensor.stride(axis) *
                                                static_cast<int64_t>(SizeOf(tensor.dtype())) %
                                                static_cast<int64_t>(bytes) ==
                                            0;
  }
  return aligned;
}

bool StridesFit(const ConstTensor& cache) {
  constexpr int64_t kMostBytes = int64_t{16} << 32;
  const auto size = static_cast<int64_t>(SizeOf(cache.dtype()));
  for (int axis = 0; axis < 2; ++axis) {
    const int64_t stride = cache.stride(axis);
    if (cache.dim(axis) > 1 && stride >= kMostBytes / size) return false;
  }
  return true;
}

Plan MakePlan(int d_k, int d_v, int64_t num_rows, size_t max_shared_bytes,
              size_t shared_bytes_per_sm) {
  Plan best;
  int64_t best_cost = 0;
  for (const RowTile& candidate : kRowTiles) {
    const Plan plan = PlanRows(d_k, d_v, candidate.rows, max_shared_bytes, shared_bytes_per_sm);
    if (plan.stages == 0) continue;
    const int64_t cost = (num_rows + candidate.rows - 1) / candidate.rows * candidate.cost;
    if (best.stages == 0 || cost < best_cost) best = plan, best_cost = cost;
  }
  return best;
}

cudaError_t Launch(const MlaDecodeParams& params, const Plan& plan, DType dtype,
                   cudaStream_t stream) {
  switch (plan.tile.d_k) {
    case 576: return Launch576(params, plan, dtype, stream);
    case 512: return Launch512(params, plan, dtype, stream);
    case 320: return Launch320(params, plan, dtype, stream);
    case 288: return Launch288(params, plan, dtype, stream);
    default: return cudaErrorInvalidConfiguration;
  }
}

}  // namespace sm80

namespace {

using sm80::Plan;

constexpr int kMinArch = 80;
constexpr int64_t kMaxRows = int64_t{1} << 30;

Plan PlanFor(const MlaDecodeArgs& args, const DeviceProperties& device) {
  return sm80::MakePlan(static_cast<int>(args.q.dim(3)), args.kv_lora_rank,
                        args.q.dim(1) * args.q.dim(2), device.max_shared_bytes,
                        device.shared_bytes_per_sm);
}

std::string_view Refuses(const MlaDecodeArgs& args, const DeviceProperties& device) {
  if (device.arch < kMinArch) return "needs compute capability 8.0 or later";
  const auto dtype = args.q.dtype();
  if (args.cache.dtype() != dtype) return "the cache must be of the type of q";
  const int64_t d_k = args.q.dim(3), d_v = args.kv_lora_rank;
  const bool wide = d_v == 512 && (d_k == 576 || d_k == 512);
  const bool narrow = d_v == 256 && (d_k == 320 || d_k == 288);
  if (!wide && !narrow) {
    return "(d_k, kv_lora_rank) must be (576, 512), (512, 512), (320, 256) or (288, 256)";
  }
  if (args.q.dim(1) * args.q.dim(2) > kMaxRows) return "at most 2^30 query rows per sequence";
  if (!sm80::RowsAligned(args.cache, 16)) {
    return "tokens of the cache must begin at multiples of 16 bytes";
  }
  if (!sm80::StridesFit(args.cache)) return "pages and tokens must be less than 64 GiB apart";
  if (!sm80::RowsAligned(args.q, 4)) return "rows of q must begin at multiples of 4 bytes";
  if (!sm80::RowsAligned(args.out, 4)) {
    return "rows of out must begin at multiples of 4 bytes";
  }
  if (PlanFor(args, device).stages == 0) {
    return "needs 99 KiB of shared memory for a thread block";
  }
  return {};
}

int32_t RowTile(const MlaDecodeArgs& args, const DeviceProperties& device) {
  return PlanFor(args, device).tile.rows;
}

int32_t BlocksPerSm(const MlaDecodeArgs& args, const DeviceProperties& device) {
  return PlanFor(args, device).blocks_per_sm;
}

cudaError_t Launch(const MlaDecodeParams& params, DType dtype, cudaStream_t stream) {
  const Result<DeviceProperties> device = CurrentDevice();
  if (!device.ok()) return cudaErrorInvalidDevice;
  const Plan plan = sm80::MakePlan(params.d_k, params.d_v, int64_t{params.s_q} * params.heads,
                                   device->max_shared_bytes, device->shared_bytes_per_sm);
  if (plan.stages == 0) return cudaErrorInvalidConfiguration;
  return sm80::Launch(params, plan, dtype, stream);
}

}  // namespace

const MlaDecodeKernel kMlaDecodeSm80 = {"sm80", Refuses, RowTile, BlocksPerSm, Launch};

}  // namespace mla::cuda
