// Hopper's own instructions: barriers in shared memory, the tensor memory accelerator (TMA),
// warpgroup matrix products (wgmma), and what orders them. One function an instruction, named
// after what it does; shared memory is addressed by its 32-bit shared-window address.
//
// Compiles for every architecture; whoever calls these does so under MLA_CUDA_HAS_SM90A.
#ifndef MLA_KERNELS_CUDA_PTX_SM90_CUH_
#define MLA_KERNELS_CUDA_PTX_SM90_CUH_

#include <cuda.h>
#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>
#include <type_traits>

#include "kernels/cuda/ptx_sm80.cuh"

#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
#define MLA_CUDA_HAS_SM90A 1
#endif

namespace mla::cuda::sm90 {

// ---- Barriers in shared memory. A wait names the parity of the phase it waits for: the first
// phase of a barrier is phase 0, and the phase before it counts as complete.

__device__ __forceinline__ void BarrierInit(uint32_t barrier, uint32_t arrivals) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(barrier), "r"(arrivals) : "memory");
}

// Makes initialised barriers visible to the TMA unit.
__device__ __forceinline__ void FenceBarrierInit() {
  asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
}

__device__ __forceinline__ void BarrierArrive(uint32_t barrier, uint32_t count = 1) {
  asm volatile("mbarrier.arrive.release.cta.shared::cta.b64 _, [%0], %1;" ::"r"(barrier), "r"(count)
               : "memory");
}

// Arrives, and has the phase wait for that many bytes of TMA as well.
__device__ __forceinline__ void BarrierArriveExpectBytes(uint32_t barrier, uint32_t bytes) {
  asm volatile("mbarrier.arrive.expect_tx.release.cta.shared::cta.b64 _, [%0], %1;" ::"r"(barrier),
               "r"(bytes)
               : "memory");
}

// Whether the phase is complete.
__device__ __forceinline__ bool BarrierTest(uint32_t barrier, uint32_t parity) {
  uint32_t done;
  asm volatile(
      "{\n"
      ".reg .pred p;\n"
      "mbarrier.test_wait.parity.acquire.cta.shared::cta.b64 p, [%1], %2;\n"
      "selp.b32 %0, 1, 0, p;\n"
      "}\n"
      : "=r"(done)
      : "r"(barrier), "r"(parity)
      : "memory");
  return done != 0;
}

// Whether the phase is complete; may first sleep for a short time.
__device__ __forceinline__ bool BarrierTryWait(uint32_t barrier, uint32_t parity) {
  uint32_t done;
  asm volatile(
      "{\n"
      ".reg .pred p;\n"
      "mbarrier.try_wait.parity.acquire.cta.shared::cta.b64 p, [%1], %2;\n"
      "selp.b32 %0, 1, 0, p;\n"
      "}\n"
      : "=r"(done)
      : "r"(barrier), "r"(parity)
      : "memory");
  return done != 0;
}

__device__ __forceinline__ void BarrierWait(uint32_t barrier, uint32_t parity) {
#if defined(MLA_CUDA_DEBUG_HANGS)
  // A wait that never ends becomes a launch failure after about two seconds.
  const long long start = clock64();
  while (!BarrierTryWait(barrier, parity)) {
    if (clock64() - start > 4'000'000'000LL) __trap();
  }
#else
  while (!BarrierTryWait(barrier, parity)) {
  }
#endif
}

// All `threads` threads that name barrier `id` (1 to 15) of the thread block.
__device__ __forceinline__ void NamedBarrierSync(int id, int threads) {
  asm volatile("bar.sync %0, %1;" ::"r"(id), "r"(threads) : "memory");
}

// Whether any of the threads that meet at the barrier says so; all lanes of their warps.
__device__ __forceinline__ bool NamedBarrierAny(int id, int threads, bool mine) {
  uint32_t any;
  asm volatile(
      "{\n"
      ".reg .pred p, q;\n"
      "setp.ne.u32 q, %3, 0;\n"
      "bar.red.or.pred p, %1, %2, q;\n"
      "selp.b32 %0, 1, 0, p;\n"
      "}\n"
      : "=r"(any)
      : "r"(id), "r"(threads), "r"(static_cast<uint32_t>(mine))
      : "memory");
  return any != 0;
}

// As NamedBarrierSync for threads that do not wait: they only let the others know.
__device__ __forceinline__ void NamedBarrierArrive(int id, int threads) {
  asm volatile("bar.arrive %0, %1;" ::"r"(id), "r"(threads) : "memory");
}

// Ordinary writes to shared memory before it are seen by wgmma and TMA after it (once a barrier has
// ordered the threads).
__device__ __forceinline__ void FenceSharedToAsync() {
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}

// ---- Ordinary loads and stores of shared memory, by address.

__device__ __forceinline__ uint4 LoadShared16(uint32_t shared) {
  uint4 v;
  asm volatile("ld.shared.v4.u32 {%0, %1, %2, %3}, [%4];"
               : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
               : "r"(shared)
               : "memory");
  return v;
}

__device__ __forceinline__ float LoadSharedFloat(uint32_t shared) {
  float v;
  asm volatile("ld.shared.f32 %0, [%1];" : "=f"(v) : "r"(shared) : "memory");
  return v;
}

__device__ __forceinline__ void StoreShared16(uint32_t shared, uint4 v) {
  asm volatile("st.shared.v4.u32 [%0], {%1, %2, %3, %4};" ::"r"(shared), "r"(v.x), "r"(v.y),
               "r"(v.z), "r"(v.w)
               : "memory");
}

// ---- TMA: a box of a tensor into shared memory; its bytes complete on `barrier`.

__device__ __forceinline__ void PrefetchTensorMap(const CUtensorMap* map) {
  asm volatile("prefetch.tensormap [%0];" ::"l"(map) : "memory");
}

// Copies bytes as they lie; addresses and size are multiples of 16. Of compute capability 9.0.
__device__ __forceinline__ void BulkLoad(uint32_t shared, const void* global, uint32_t bytes,
                                         uint32_t barrier) {
  asm volatile(
      "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes.L2::cache_hint"
      " [%0], [%1], %2, [%3], %4;" ::"r"(shared),
      "l"(global), "r"(bytes), "r"(barrier), "l"(EvictFirst())
      : "memory");
}

__device__ __forceinline__ void TmaLoad3d(uint32_t shared, const CUtensorMap* map, uint32_t barrier,
                                          int32_t x, int32_t y, int32_t z) {
  asm volatile(
      "cp.async.bulk.tensor.3d.shared::cluster.global.tile.mbarrier::complete_tx::bytes"
      ".L2::cache_hint [%0], [%1, {%3, %4, %5}], [%2], %6;" ::"r"(shared),
      "l"(map), "r"(barrier), "r"(x), "r"(y), "r"(z), "l"(EvictFirst())
      : "memory");
}

__device__ __forceinline__ void TmaLoad4d(uint32_t shared, const CUtensorMap* map, uint32_t barrier,
                                          int32_t x, int32_t y, int32_t z, int32_t w) {
  asm volatile(
      "cp.async.bulk.tensor.4d.shared::cluster.global.tile.mbarrier::complete_tx::bytes"
      ".L2::cache_hint [%0], [%1, {%3, %4, %5, %6}], [%2], %7;" ::"r"(shared),
      "l"(map), "r"(barrier), "r"(x), "r"(y), "r"(z), "r"(w), "l"(EvictFirst())
      : "memory");
}

// ---- Tiles. A tile is 64 rows of 64 two-byte elements, 8 KiB, 1024-byte aligned, in the 128-byte
// swizzle that TMA and wgmma share: the 16-byte chunk c of row r lies where chunk c ^ (r % 8)
// would.

inline constexpr int kTileBytes = 8192;
inline constexpr int kTileRowBytes = 128;

__device__ __forceinline__ uint32_t TileChunkOffset(int row, int chunk) {
  return static_cast<uint32_t>(row * kTileRowBytes + ((chunk ^ (row & 7)) << 4));
}

// Four 8x8 matrices of two-byte elements between shared memory and registers; lane i names row
// i % 8 of matrix i / 8.
__device__ __forceinline__ void LoadMatrix4(uint32_t (&r)[4], uint32_t shared) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(shared)
               : "memory");
}

__device__ __forceinline__ void StoreMatrix4(uint32_t shared, uint32_t a, uint32_t b, uint32_t c,
                                             uint32_t d) {
  asm volatile("stmatrix.sync.aligned.m8n8.x4.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(shared),
               "r"(a), "r"(b), "r"(c), "r"(d)
               : "memory");
}

// As above, each matrix transposed.
__device__ __forceinline__ void LoadMatrix4Transposed(uint32_t (&r)[4], uint32_t shared) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(shared)
               : "memory");
}

__device__ __forceinline__ void StoreMatrix4Transposed(uint32_t shared, uint32_t a, uint32_t b,
                                                       uint32_t c, uint32_t d) {
  asm volatile(
      "stmatrix.sync.aligned.m8n8.x4.trans.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(shared),
      "r"(a), "r"(b), "r"(c), "r"(d)
      : "memory");
}

// ---- wgmma. D[64, N] (fp32, registers) += A[64, 16] B[16, N]; A from registers or shared memory,
// B from shared memory. Registers of a product in flight must not be touched before WgmmaWait.

// The descriptor of operands in swizzled tiles. Both strides in bytes. Rows along the product's
// inner dimension ("K-major"): `stride` is from 8 rows to the next 8, `leading` is not used.
// Columns along it ("MN-major"): `stride` is from 8 inner elements to the next 8, `leading` from 64
// outer elements to the next 64.
__device__ __forceinline__ uint64_t TileDescriptor(uint32_t shared, uint32_t leading,
                                                   uint32_t stride) {
  constexpr uint64_t kSwizzle128 = uint64_t{1} << 62;
  return kSwizzle128 | (uint64_t{stride >> 4} << 32) | (uint64_t{leading >> 4} << 16) |
         ((shared & 0x3FFFF) >> 4);
}

// The descriptor of what lies `bytes` further on.
__device__ __forceinline__ uint64_t Further(uint64_t descriptor, uint32_t bytes) {
  return descriptor + (bytes >> 4);
}

// Before the first product after ordinary code has touched its registers.
__device__ __forceinline__ void WgmmaFence() {
  asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
}

__device__ __forceinline__ void WgmmaCommit() {
  asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
}

// Until at most kGroups committed groups are in flight.
template <int kGroups>
__device__ __forceinline__ void WgmmaWait() {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(kGroups) : "memory");
}

// Keeps the compiler from moving ordinary code on these registers across this point.
template <int kCount>
__device__ __forceinline__ void PinRegisters(float (&d)[kCount]) {
#pragma unroll
  for (int i = 0; i < kCount; ++i) asm volatile("" : "+f"(d[i])::"memory");
}
// Keeps operands in their registers up to this point.
template <int kCount>
__device__ __forceinline__ void PinOperands(const uint32_t (&a)[kCount]) {
#pragma unroll
  for (int i = 0; i < kCount; ++i) asm volatile("" ::"r"(a[i]) : "memory");
}

// clang-format off
#define MLA_ACC8(d, i)                                                                          \
  "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3]), "+f"(d[i + 4]), "+f"(d[i + 5]),    \
  "+f"(d[i + 6]), "+f"(d[i + 7])

#define MLA_WGMMA_REGS_N16(TYPE)                                                                   \
  asm volatile(                                                                                    \
      "{\n"                                                                                        \
      ".reg .pred p;\n"                                                                            \
      "setp.ne.b32 p, %13, 0;\n"                                                                   \
      "wgmma.mma_async.sync.aligned.m64n16k16.f32." TYPE "." TYPE " "                              \
      "{%0, %1, %2, %3, %4, %5, %6, %7}, {%8, %9, %10, %11}, %12, p, 1, 1, 0;\n"                   \
      "}\n"                                                                                        \
      : MLA_ACC8(d, 0)                                                                             \
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(accumulate))
#define MLA_WGMMA_REGS_N32(TYPE)                                                                   \
  asm volatile(                                                                                    \
      "{\n"                                                                                        \
      ".reg .pred p;\n"                                                                            \
      "setp.ne.b32 p, %21, 0;\n"                                                                   \
      "wgmma.mma_async.sync.aligned.m64n32k16.f32." TYPE "." TYPE " "                              \
      "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15}, "                   \
      "{%16, %17, %18, %19}, %20, p, 1, 1, 0;\n"                                                   \
      "}\n"                                                                                        \
      : MLA_ACC8(d, 0), MLA_ACC8(d, 8)                                                             \
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(accumulate))
#define MLA_WGMMA_REGS_N64(TYPE)                                                                   \
  asm volatile(                                                                                    \
      "{\n"                                                                                        \
      ".reg .pred p;\n"                                                                            \
      "setp.ne.b32 p, %37, 0;\n"                                                                   \
      "wgmma.mma_async.sync.aligned.m64n64k16.f32." TYPE "." TYPE " "                              \
      "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, "          \
      "%18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31}, "                    \
      "{%32, %33, %34, %35}, %36, p, 1, 1, 0;\n"                                                   \
      "}\n"                                                                                        \
      : MLA_ACC8(d, 0), MLA_ACC8(d, 8), MLA_ACC8(d, 16), MLA_ACC8(d, 24)                           \
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(accumulate))
#define MLA_WGMMA_SHARED_N64(TYPE)                                                                 \
  asm volatile(                                                                                    \
      "{\n"                                                                                        \
      ".reg .pred p;\n"                                                                            \
      "setp.ne.b32 p, %34, 0;\n"                                                                   \
      "wgmma.mma_async.sync.aligned.m64n64k16.f32." TYPE "." TYPE " "                              \
      "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, "          \
      "%18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31}, "                    \
      "%32, %33, p, 1, 1, 0, 0;\n"                                                                 \
      "}\n"                                                                                        \
      : MLA_ACC8(d, 0), MLA_ACC8(d, 8), MLA_ACC8(d, 16), MLA_ACC8(d, 24)                           \
      : "l"(a), "l"(b), "r"(accumulate))
#define MLA_WGMMA_SHARED_N128(TYPE)                                                                \
  asm volatile(                                                                                    \
      "{\n"                                                                                        \
      ".reg .pred p;\n"                                                                            \
      "setp.ne.b32 p, %66, 0;\n"                                                                   \
      "wgmma.mma_async.sync.aligned.m64n128k16.f32." TYPE "." TYPE " "                             \
      "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, "          \
      "%18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, %32, %33, "           \
      "%34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, %48, %49, "           \
      "%50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63}, "                    \
      "%64, %65, p, 1, 1, 0, 1;\n"                                                                 \
      "}\n"                                                                                        \
      : MLA_ACC8(d, 0), MLA_ACC8(d, 8), MLA_ACC8(d, 16), MLA_ACC8(d, 24),                          \
        MLA_ACC8(d, 32), MLA_ACC8(d, 40), MLA_ACC8(d, 48), MLA_ACC8(d, 56)                         \
      : "l"(a), "l"(b), "r"(accumulate))
// clang-format on

// d (+)= A B with A from registers, B[16, N] K-major.
template <typename T>
__device__ __forceinline__ void WgmmaRegs(float (&d)[32], const uint32_t (&a)[4], uint64_t b,
                                          int32_t accumulate) {
  if constexpr (std::is_same_v<T, __half>) {
    MLA_WGMMA_REGS_N64("f16");
  } else {
    MLA_WGMMA_REGS_N64("bf16");
  }
}
template <typename T>
__device__ __forceinline__ void WgmmaRegs(float (&d)[16], const uint32_t (&a)[4], uint64_t b,
                                          int32_t accumulate) {
  if constexpr (std::is_same_v<T, __half>) {
    MLA_WGMMA_REGS_N32("f16");
  } else {
    MLA_WGMMA_REGS_N32("bf16");
  }
}
template <typename T>
__device__ __forceinline__ void WgmmaRegs(float (&d)[8], const uint32_t (&a)[4], uint64_t b,
                                          int32_t accumulate) {
  if constexpr (std::is_same_v<T, __half>) {
    MLA_WGMMA_REGS_N16("f16");
  } else {
    MLA_WGMMA_REGS_N16("bf16");
  }
}

// d (+)= A B with A[64, 16] and B[16, 64] K-major in shared memory.
template <typename T>
__device__ __forceinline__ void WgmmaShared(float (&d)[32], uint64_t a, uint64_t b,
                                            int32_t accumulate) {
  if constexpr (std::is_same_v<T, __half>) {
    MLA_WGMMA_SHARED_N64("f16");
  } else {
    MLA_WGMMA_SHARED_N64("bf16");
  }
}

// d (+)= A B with A[64, 16] K-major and B[16, 128] MN-major in shared memory.
template <typename T>
__device__ __forceinline__ void WgmmaSharedColumns(float (&d)[64], uint64_t a, uint64_t b,
                                                   int32_t accumulate) {
  if constexpr (std::is_same_v<T, __half>) {
    MLA_WGMMA_SHARED_N128("f16");
  } else {
    MLA_WGMMA_SHARED_N128("bf16");
  }
}

#undef MLA_WGMMA_SHARED_N128
#undef MLA_WGMMA_SHARED_N64
#undef MLA_WGMMA_REGS_N64
#undef MLA_WGMMA_REGS_N32
#undef MLA_WGMMA_REGS_N16
#undef MLA_ACC8

// ---- The share of the register file that the warps of a warpgroup have, per thread.

template <int kRegisters>
__device__ __forceinline__ void RaiseRegisters() {
  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(kRegisters));
}

template <int kRegisters>
__device__ __forceinline__ void LowerRegisters() {
  asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(kRegisters));
}

// ---- Stores of 16 bytes where `real` holds, without a branch, at which every one of them would
// wait for the shuffles before it.

__device__ __forceinline__ void StoreIf(bool real, float* to, float a, float b, float c, float d) {
  asm volatile(
      "{\n"
      ".reg .pred p;\n"
      "setp.ne.b32 p, %5, 0;\n"
      "@p st.global.v4.f32 [%0], {%1, %2, %3, %4};\n"
      "}\n" ::"l"(to),
      "f"(a), "f"(b), "f"(c), "f"(d), "r"(static_cast<int>(real))
      : "memory");
}
__device__ __forceinline__ void StoreIf(bool real, void* to, const uint32_t (&words)[4]) {
  asm volatile(
      "{\n"
      ".reg .pred p;\n"
      "setp.ne.b32 p, %5, 0;\n"
      "@p st.global.v4.b32 [%0], {%1, %2, %3, %4};\n"
      "}\n" ::"l"(to),
      "r"(words[0]), "r"(words[1]), "r"(words[2]), "r"(words[3]), "r"(static_cast<int>(real))
      : "memory");
}

// ---- Overlap of kernels that follow each other in a stream (programmatic dependent launch).

// Until the kernel before this one has ended and its writes are visible.
__device__ __forceinline__ void WaitForPriorKernel() {
  asm volatile("griddepcontrol.wait;" ::: "memory");
}

// The kernel after this one may begin to be launched once every thread block has said so or ended.
__device__ __forceinline__ void AllowNextKernel() {
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
}

}  // namespace mla::cuda::sm90

#endif  // MLA_KERNELS_CUDA_PTX_SM90_CUH_
