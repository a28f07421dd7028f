// The warps that bring keys in, of the Hopper kernel over FP8 latents.
#ifndef MLA_KERNELS_CUDA_MLA_DECODE_SM90_FP8_DIRECT_LOADER_CUH_
#define MLA_KERNELS_CUDA_MLA_DECODE_SM90_FP8_DIRECT_LOADER_CUH_

#include <algorithm>
#include <cstdint>

#include "kernels/cuda/fp8_codes.cuh"
#include "kernels/cuda/mla_decode/sm90_fp8_direct_layout.cuh"
#include "kernels/cuda/mla_decode/sm90_loader.cuh"
#include "kernels/cuda/ptx_sm80.cuh"

namespace mla::cuda::sm90::direct {

// Copies the rows of one unit after another to the ring. A copy is `run` tokens, which follow one
// another in a page without a gap; it divides a unit. Past the end of a sequence nothing is copied:
// scores there are replaced, scales of values are zeros, and codes are finite as values.
template <typename S>
class Fp8Loader {
 public:
  __device__ __forceinline__ Fp8Loader(const MlaDecodeParams& params, int run,
                                       Fp8SharedMemory<S>& shared)
      : params_(params),
        shared_(shared),
        lane_(static_cast<int>(threadIdx.x) % kWarp),
        run_(run),
        boxes_(params, run) {}

  __device__ __forceinline__ void Run() {
    Work work = LoadWork(params_.first_items[blockIdx.y]);
    const int begin = params_.part_begin[blockIdx.y];
    const int end = params_.part_begin[blockIdx.y + 1];
    for (int i = begin; i < end; ++i) {
      if (i > begin) work = LoadWork(params_, i);
      if (work.empty()) continue;
      boxes_.BeginItem();
      constexpr int kUnitsOfBlock = S::kTokens / S::kUnitTokens;
      for (int unit = work.first * kUnitsOfBlock; unit < work.end * kUnitsOfBlock; ++unit) {
        LoadUnit(work, unit);
      }
    }
  }

 private:
  __device__ __forceinline__ void LoadUnit(const Work& work, int unit) {
    const int copies = S::kUnitTokens / run_;
    boxes_.Know(work, unit * copies);
    const KeyBoxes::Box box = boxes_.At(unit * copies + lane_ % copies);
    const int tokens = min(S::kUnitTokens, work.kv_len - unit * S::kUnitTokens);
    BarrierWait(SharedAddress(&shared_.unit_freed[ring_.slot]), ring_.parity ^ 1);
    const uint32_t barrier = SharedAddress(&shared_.unit_loaded[ring_.slot]);
    if (lane_ == 0) {
      // An item's last unit may have no tokens.
      BarrierArriveExpectBytes(barrier, max(tokens, 0) * S::kPitch);
    }
    __syncwarp();
    const int mine = min(run_, tokens - lane_ * run_);
    if (lane_ < copies && mine > 0) {
      BulkLoad(SharedAddress(shared_.units[ring_.slot]) + lane_ * run_ * S::kPitch,
               static_cast<const char*>(params_.cache) + box.page * params_.cache_stride_page +
                   box.row * params_.cache_stride_token,
               mine * S::kPitch, barrier);
    }
    ring_ = ring_.Plus(1);
  }

  const MlaDecodeParams& params_;
  Fp8SharedMemory<S>& shared_;
  const int lane_, run_;
  RingPosition<S::kUnits> ring_;
  KeyBoxes boxes_;
};

// What products want of the scales of each unit, a token a lane.
template <typename S>
class Fp8Scaler {
 public:
  __device__ __forceinline__ Fp8Scaler(const MlaDecodeParams& params, Fp8SharedMemory<S>& shared)
      : params_(params), shared_(shared), lane_(static_cast<int>(threadIdx.x) % kWarp) {}

  __device__ __forceinline__ void Run() {
    const int end = params_.part_begin[blockIdx.y + 1];
    for (int i = params_.part_begin[blockIdx.y]; i < end; ++i) {
      const Work work = LoadWork(params_, i);
      const int last = work.end * kBlockTokens;
      for (int first = work.first * kBlockTokens; first < last; first += S::kUnitTokens) {
        ScaleUnit(first + lane_ < work.kv_len);
      }
    }
  }

 private:
  // `real`: whether the lane's token is one of the sequence. Values of others are to be 0.
  __device__ __forceinline__ void ScaleUnit(bool real) {
    constexpr int kBias = 127, kLeast = 64, kGreatest = 192, kRaise = 7;
    BarrierWait(SharedAddress(&shared_.unit_loaded[ring_.slot]), ring_.parity);
    const uint4 raw =
        LoadShared16(SharedAddress(shared_.units[ring_.slot]) + lane_ * S::kPitch + S::kScalesAt);
    const float scales[S::kGroups] = {__uint_as_float(raw.x), __uint_as_float(raw.y),
                                      __uint_as_float(raw.z), __uint_as_float(raw.w)};
    const float most = fmaxf(fmaxf(scales[0], scales[1]), fmaxf(scales[2], scales[3]));
    const int exponent = min(max(__float_as_int(most) >> 23, kLeast), kGreatest) + 1;
    const float up = __int_as_float((2 * kBias + kRaise - exponent) << 23);
    StoreShared16(
        SharedAddress(&shared_.key_scales[ring_.slot][lane_]),
        {PackPair<__half>(scales[0] * up, scales[1] * up),
         PackPair<__half>(scales[2] * up, scales[3] * up), PackPair<__nv_bfloat16>(up, up),
         static_cast<uint32_t>((exponent - kRaise) << 23)});
#pragma unroll
    for (int g = 0; g < S::kGroups; ++g) StoreValueScale(g, real ? scales[g] : 0.0f);
    WarpArrive(shared_.unit_scaled[ring_.slot]);
    ring_ = ring_.Plus(1);
  }

  // As two numbers of bf16, the second of what the first leaves.
  __device__ __forceinline__ void StoreValueScale(int group, float scale) {
    constexpr float kUp = PowerOfTwo(CodeFormat<__nv_bfloat16>::kBelow - kFp8ValuesBelow);
    const int place = Fp8Place(lane_ % 16);
    Fp8ValueScales& to =
        shared_.value_scales[ring_.slot][group / 2][lane_ / 16][group % 2][place % 8 / 2];
    const int i = place / 8 * 2 + place % 2;
    const __nv_bfloat16 high = __float2bfloat16(scale * kUp);
    to.high[i] = high;
    to.low[i] = __float2bfloat16(scale * kUp - __bfloat162float(high));
  }

  const MlaDecodeParams& params_;
  Fp8SharedMemory<S>& shared_;
  const int lane_;
  RingPosition<S::kUnits> ring_;
};

}  // namespace mla::cuda::sm90::direct

#endif  // MLA_KERNELS_CUDA_MLA_DECODE_SM90_FP8_DIRECT_LOADER_CUH_
