#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <ctime>
#include <limits>
#include <memory>
#include <new>
#include <vector>

#include "base/edit_distance.h"
#include "base/numeric.h"
#include "base/threads.h"
#include "base/workspace.h"
#include "mla/result.h"

namespace mla {
namespace {

TEST(Numeric, EveryBf16AndF16SurvivesTheRoundTrip) {
  for (uint32_t bits = 0; bits < 0x10000; ++bits) {
    const auto half = static_cast<uint16_t>(bits);
    for (const bool bf16 : {true, false}) {
      const float wide = bf16 ? Bf16ToF32(half) : F16ToF32(half);
      const uint16_t back = bf16 ? F32ToBf16(wide) : F32ToF16(wide);
      if (std::isnan(wide)) {
        EXPECT_TRUE(std::isnan(bf16 ? Bf16ToF32(back) : F16ToF32(back)));
      } else {
        ASSERT_EQ(back, half) << bits << (bf16 ? " bf16" : " f16");
      }
    }
  }
}

TEST(Numeric, RoundsToNearestEven) {
  EXPECT_EQ(F32ToBf16(1.0F + 0x1p-8F), 0x3f80);            // a tie, down to even
  EXPECT_EQ(F32ToBf16(1.0F + 0x1p-7F + 0x1p-8F), 0x3f82);  // a tie, up to even
  EXPECT_EQ(F32ToBf16(1.0F + 0x1.1p-8F), 0x3f81);
  EXPECT_EQ(F32ToF16(1.0F + 0x1p-11F), 0x3c00);
  EXPECT_EQ(F32ToF16(1.0F + 0x1p-10F + 0x1p-11F), 0x3c02);
  EXPECT_EQ(F32ToF16(65519.0F), 0x7bff);
  EXPECT_EQ(F32ToF16(65520.0F), 0x7c00);
  EXPECT_EQ(F32ToF16(0x1p-25F), 0);  // half the smallest: a tie, to even
  EXPECT_EQ(F32ToF16(0x1.8p-25F), 1);
  EXPECT_EQ(F32ToF16(-0x1p-24F), 0x8001);
  EXPECT_EQ(F32ToBf16(std::numeric_limits<float>::infinity()), 0x7f80);
  EXPECT_TRUE(std::isnan(Bf16ToF32(F32ToBf16(std::bit_cast<float>(0x7f800001U)))));
}

TEST(Numeric, CheckedArithmeticNoticesOverflow) {
  EXPECT_EQ(CheckedMul(1 << 20, 1 << 20), int64_t{1} << 40);
  EXPECT_FALSE(CheckedMul(int64_t{1} << 40, int64_t{1} << 40).has_value());
  EXPECT_FALSE(CheckedAdd(std::numeric_limits<int64_t>::max(), 1).has_value());
}

TEST(EditDistance, CountsEdits) {
  EXPECT_EQ(EditDistance("bench", "bench"), 0U);
  EXPECT_EQ(EditDistance("bnech", "bench"), 2U);
  EXPECT_EQ(EditDistance("", "run"), 3U);
  EXPECT_EQ(EditDistance("deepseek-v2", "deepseek-v3"), 1U);
}

TEST(ThreadPool, EveryTaskRunsOnceInEveryRegion) {
  for (const int threads : {1, 2, 5}) {
    ThreadPool pool(threads);
    for (int region = 0; region < 200; ++region) {
      const int tasks = region % 7 * 13;
      std::vector<std::atomic<int>> runs(tasks);
      std::atomic<bool> bad_thread{false};
      pool.ParallelFor(tasks, [&](int64_t task, int thread) {
        ++runs[task];
        if (thread < 0 || thread >= threads) bad_thread = true;
      });
      for (const auto& count : runs) ASSERT_EQ(count, 1);
      ASSERT_FALSE(bad_thread);
    }
  }
}

TEST(ThreadPool, RegionsWithinRegionsRunOnTheirCaller) {
  ThreadPool pool(3);
  std::atomic<int> inner{0};
  pool.ParallelFor(8, [&](int64_t, int) { pool.ParallelFor(5, [&](int64_t, int) { ++inner; }); });
  EXPECT_EQ(inner, 40);
}

TEST(ThreadPool, TwoCallersShareOnePool) {
  ThreadPool pool(2);
  std::atomic<int64_t> sum{0};
  const auto call = [&] {
    for (int i = 0; i < 500; ++i) {
      pool.ParallelFor(10, [&](int64_t task, int) { sum += task; });
    }
  };
  std::thread other(call);
  call();
  other.join();
  EXPECT_EQ(sum, 2 * 500 * 45);
}

// A worker that enters late, in the middle of another region, runs that region's tasks only.
TEST(ThreadPool, ManyShortRegionsOfManyThreadsKeepTheirTasksApart) {
  ThreadPool pool(8);  // more than the machine's CPUs: workers are late all the time
  for (int64_t region = 0; region < 3000; ++region) {
    std::atomic<int64_t> sum{0};
    pool.ParallelFor(3, [&sum, region](int64_t task, int) { sum += region * 10 + task; });
    ASSERT_EQ(sum, 3 * region * 10 + 3);
  }
}

TEST(ThreadPool, WorkersSleepAndWakeAgain) {
  ThreadPool pool(2);
  for (int i = 0; i < 3; ++i) {
    std::this_thread::sleep_for(std::chrono::milliseconds(30));
    std::atomic<int> runs{0};
    pool.ParallelFor(4, [&](int64_t, int) { ++runs; });
    EXPECT_EQ(runs, 4);
  }
}

// The caller sleeps, and is woken, when a worker takes longer than anyone spins; with more threads
// than CPUs at once.
TEST(ThreadPool, WaitsForSlowWorkers) {
  for (const int threads : {2, 3, UsableCpus() + 2}) {
    ThreadPool pool(threads);
    EXPECT_EQ(pool.num_threads(), threads);
    for (int region = 0; region < 20; ++region) {
      std::atomic<int> done{0};
      pool.ParallelFor(2 * threads, [&](int64_t task, int thread) {
        const int64_t microseconds = (thread == 0 ? 0 : 1000) + 10 * task;
        std::this_thread::sleep_for(std::chrono::microseconds(microseconds));
        ++done;
      });
      ASSERT_EQ(done, 2 * threads);
    }
  }
}

TEST(ThreadPool, IdleThreadsUseNoProcessorTime) {
  ThreadPool pool(4);
  pool.ParallelFor(4, [](int64_t, int) {});
  const std::clock_t before = std::clock();
  std::this_thread::sleep_for(std::chrono::milliseconds(200));
  const double seconds = static_cast<double>(std::clock() - before) / CLOCKS_PER_SEC;
  EXPECT_LT(seconds, 0.05);
}

TEST(ThreadPool, WhatATaskThrowsReachesTheCaller) {
  ThreadPool pool(4);
  for (const int64_t bad : {0, 499, 999}) {
    const auto region = [&] {
      pool.ParallelFor(1000, [&](int64_t task, int) {
        if (task == bad) throw std::bad_alloc();
      });
    };
    EXPECT_THROW(region(), std::bad_alloc);
    std::atomic<int> done{0};
    pool.ParallelFor(1000, [&](int64_t, int) { ++done; });
    EXPECT_EQ(done, 1000);
  }
}

#ifndef MLA_SANITIZED  // whose own memory takes terabytes of addresses
// In a process of its own, whose memory does not hold the stacks of all threads.
TEST(ThreadPool, RunsWithTheThreadsThatThereAre) {
  const auto run = [] {
    long pages = 0;
    if (std::FILE* const statm = std::fopen("/proc/self/statm", "r")) {
      if (std::fscanf(statm, "%ld", &pages) != 1) pages = 0;
      std::fclose(statm);
    }
    const rlim_t bytes = static_cast<rlim_t>(pages) * ::sysconf(_SC_PAGESIZE) + (rlim_t{200} << 20);
    const struct rlimit limit { bytes, bytes };
    if (::setrlimit(RLIMIT_AS, &limit) != 0) return 1;
    // qemu's user mode takes a limit and does not keep to it: nothing to be seen there.
    if (::mmap(nullptr, size_t{400} << 20, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0) !=
        MAP_FAILED) {
      return 0;
    }
    ThreadPool pool(256);
    if (pool.num_threads() >= 256) return 2;
    for (int region = 0; region < 3; ++region) {
      std::atomic<int> done{0};
      pool.ParallelFor(1000, [&](int64_t, int thread) {
        if (thread < pool.num_threads()) ++done;
      });
      if (done != 1000) return 3;
    }
    // Not all of the memory is theirs.
    const std::unique_ptr<void, decltype(&std::free)> memory(std::malloc(30 << 20), &std::free);
    if (memory == nullptr) return 4;
    return 0;
  };
  EXPECT_EXIT(::_exit(run()), testing::ExitedWithCode(0), "");
}
#endif

TEST(Workspace, ScopesGiveBackAndMemoryIsAlignedAndDistinct) {
  Workspace workspace;
  float* first = workspace.Allocate<float>(3);
  float* inner = nullptr;
  {
    const Workspace::Scope scope(workspace);
    inner = workspace.Allocate<float>(1000);
    float* big = workspace.Allocate<float>(1 << 20);  // more than a block
    std::fill_n(first, 3, 1.0F);
    std::fill_n(inner, 1000, 2.0F);
    std::fill_n(big, 1 << 20, 3.0F);
    EXPECT_EQ(first[2], 1.0F);
    EXPECT_EQ(inner[999], 2.0F);
    for (const float* p : {first, inner, big}) {
      EXPECT_EQ(reinterpret_cast<uintptr_t>(p) % Workspace::kAlignment, 0U);
    }
  }
  EXPECT_EQ(workspace.Allocate<float>(1000), inner);
  const size_t reserved = workspace.bytes_reserved();
  for (int i = 0; i < 100; ++i) {
    const Workspace::Scope scope(workspace);
    workspace.Allocate<float>(1 << 20);
  }
  EXPECT_EQ(workspace.bytes_reserved(), reserved);  // kept, not taken anew
}

Result<int> Half(int value) {
  if (value % 2 != 0) return InvalidArgument("value is ", value, ", want an even number");
  return value / 2;
}
Result<int> Quarter(int value) {
  MLA_ASSIGN_OR_RETURN(const int half, Half(value));
  return Half(half);
}

TEST(Result, ErrorsTravelWithTheirValues) {
  EXPECT_EQ(*Quarter(8), 2);
  EXPECT_EQ(Quarter(6).message(), "value is 3, want an even number");
  EXPECT_EQ(Quarter(6).error().code, ErrorCode::kInvalidArgument);
}

}  // namespace
}  // namespace mla
