// What this machine can do at best: reading from memory and from the last-level cache, and the
// arithmetic of each kind. Kernels are held against these figures.
//
//   ceilings [--json] [--threads N]
//
// Measured with 1 and with N threads (default: one per usable CPU), each bound to a CPU of its own;
// the best of many short runs, since other programs can only make one slower. Reading: the best
// over numbers of streams and over small and huge pages; each thread reads memory that it has
// written itself. Takes about 5 seconds.
#include <pthread.h>
#include <sched.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <charconv>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <functional>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include "base/threads.h"
#include "ceilings/loops.h"

namespace mla {
namespace {

using Clock = std::chrono::steady_clock;

constexpr int64_t kMemoryBytes = int64_t{256} << 20;  // of one thread; far beyond any cache share
constexpr int64_t kReadUnit = 8 << 10;
constexpr int kSegments = 8;  // of it, read in turns: each is out of the caches by its next turn
// Many short runs rather than few long ones: some fit between two turns of another program.
constexpr int kRuns = 48;
constexpr int64_t kTurns = 200'000;  // of a loop of arithmetic: about a millisecond

// The CPUs this process may run on.
std::vector<int> Cpus() {
  cpu_set_t set;
  CPU_ZERO(&set);
  std::vector<int> cpus;
  if (sched_getaffinity(0, sizeof(set), &set) == 0) {
    for (int cpu = 0; cpu < CPU_SETSIZE; ++cpu) {
      if (CPU_ISSET(cpu, &set)) cpus.push_back(cpu);
    }
  }
  return cpus;
}

// Threads that start each run together.
class Team {
 public:
  explicit Team(int size) : size_(size), seconds_(size) {
    const std::vector<int> cpus = Cpus();
    for (int i = 0; i < size; ++i) {
      threads_.emplace_back([this, i] { Main(i); });
      if (static_cast<int>(cpus.size()) < size) continue;
      cpu_set_t set;
      CPU_ZERO(&set);
      CPU_SET(cpus[i], &set);
      pthread_setaffinity_np(threads_.back().native_handle(), sizeof(set), &set);
    }
  }
  ~Team() {
    work_ = nullptr;
    Start();
    for (std::thread& thread : threads_) thread.join();
  }
  Team(const Team&) = delete;
  Team& operator=(const Team&) = delete;

  int size() const { return size_; }

  // Calls work(thread) in every thread; the seconds of the slowest.
  double Run(const std::function<void(int)>& work) {
    work_ = &work;
    Start();
    while (running_.load(std::memory_order_acquire) > 0) std::this_thread::yield();
    return *std::max_element(seconds_.begin(), seconds_.end());
  }

 private:
  void Start() {
    ready_ = 0;
    running_ = size_;
    turn_.fetch_add(1, std::memory_order_release);
    turn_.notify_all();
  }

  void Main(int index) {
    uint32_t seen = 0;
    for (;;) {
      turn_.wait(seen, std::memory_order_acquire);
      ++seen;
      if (work_ == nullptr) return;
      ready_.fetch_add(1);
      while (ready_.load() < size_) {
      }
      const auto begin = Clock::now();
      (*work_)(index);
      seconds_[index] = std::chrono::duration<double>(Clock::now() - begin).count();
      running_.fetch_sub(1, std::memory_order_release);
    }
  }

  int size_;
  std::vector<std::thread> threads_;
  std::vector<double> seconds_;
  const std::function<void(int)>* work_ = nullptr;
  std::atomic<uint32_t> turn_{0};
  std::atomic<int> ready_{0}, running_{0};
};

double MeasureArithmetic(Team& team, const ArithmeticLoop& loop) {
  double best = 0;
  std::vector<double> operations(team.size());
  for (int i = 0; i < kRuns; ++i) {
    const double seconds = team.Run([&](int thread) { operations[thread] = loop.run(kTurns); });
    best = std::max(best, operations[0] * team.size() / seconds);
  }
  return best;
}

// Memory of one thread, first written by it.
class Buffers {
 public:
  Buffers(Team& team, int64_t bytes, bool huge_pages) : bytes_(bytes), data_(team.size()) {
    team.Run([&](int thread) {
      void* data =
          mmap(nullptr, bytes_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
      if (data == MAP_FAILED) return;
      madvise(data, bytes_, huge_pages ? MADV_HUGEPAGE : MADV_NOHUGEPAGE);
      std::fill_n(static_cast<uint64_t*>(data), bytes_ / 8, 0x0123456789abcdefU + thread);
      data_[thread] = data;
    });
  }
  ~Buffers() {
    for (void* data : data_) {
      if (data != nullptr) munmap(data, bytes_);
    }
  }
  Buffers(const Buffers&) = delete;
  Buffers& operator=(const Buffers&) = delete;

  bool complete() const { return std::count(data_.begin(), data_.end(), nullptr) == 0; }
  const void* operator[](int thread) const { return data_[thread]; }

 private:
  int64_t bytes_;
  std::vector<void*> data_;
};

// Bytes per second, the best over streams and kinds of pages; 0 if there is no memory for it. Each
// run reads one of the segments, `passes` times.
double MeasureRead(Team& team, int64_t bytes, int segments, int passes) {
  double best = 0;
  std::atomic<uint64_t> sum{0};
  const int64_t segment = bytes / segments;
  for (const bool huge_pages : {false, true}) {
    const Buffers buffers(team, bytes, huge_pages);
    if (!buffers.complete()) return 0;
    for (const int streams : {1, 2, 4, 8}) {
      int run = 0;
      const std::function<void(int)> work = [&](int thread) {
        const char* data = static_cast<const char*>(buffers[thread]) + run % segments * segment;
        uint64_t all = 0;
        for (int i = 0; i < passes; ++i) all += ReadStreams(data, segment, streams);
        sum += all;
      };
      for (; run < kRuns; ++run) {
        const double seconds = team.Run(work);
        best = std::max(best, static_cast<double>(segment) * passes * team.size() / seconds);
      }
    }
  }
  return best;
}

// Of one thread: beyond its second-level cache, and with those of all threads within half of the
// last level. 0: there is no such size.
int64_t LastLevelBytes(int threads) {
  const int64_t l2 = sysconf(_SC_LEVEL2_CACHE_SIZE), l3 = sysconf(_SC_LEVEL3_CACHE_SIZE);
  const int64_t bytes =
      std::min<int64_t>(l3 / 2 / threads, int64_t{8} << 20) / kReadUnit * kReadUnit;
  return l2 > 0 && bytes >= 2 * l2 ? bytes : 0;
}

struct Ceiling {
  std::string name, key, unit;
  std::vector<double> values;  // per number of threads; 0: not measured
};

std::vector<Ceiling> MeasureAll(const std::vector<int>& counts) {
  std::vector<Ceiling> ceilings = {{"read from memory", "memory", "GB/s", {}},
                                   {"read from L3", "l3", "GB/s", {}}};
  const std::vector<ArithmeticLoop> loops = ArithmeticLoops();
  for (const ArithmeticLoop& loop : loops)
    ceilings.push_back({loop.name, loop.name, loop.unit, {}});
  for (const int count : counts) {
    Team team(count);
    ceilings[0].values.push_back(MeasureRead(team, kMemoryBytes, kSegments, 1) / 1e9);
    const int64_t l3 = LastLevelBytes(count);
    ceilings[1].values.push_back(l3 > 0 ? MeasureRead(team, l3, 1, 4) / 1e9 : 0);
    for (size_t i = 0; i < loops.size(); ++i) {
      ceilings[2 + i].values.push_back(MeasureArithmetic(team, loops[i]) / 1e9);
    }
  }
  return ceilings;
}

void PrintTable(const std::vector<int>& counts, const std::vector<Ceiling>& ceilings) {
  std::printf("%-18s %-8s", "", "");
  for (const int count : counts) {
    std::printf(" %4d %s", count, count == 1 ? "thread " : "threads");
  }
  std::printf("\n");
  for (const Ceiling& ceiling : ceilings) {
    std::printf("%-18s %-8s", ceiling.name.c_str(), ceiling.unit.c_str());
    for (const double value : ceiling.values) {
      if (value > 0) {
        std::printf(" %12.1f", value);
      } else {
        std::printf(" %12s", "-");
      }
    }
    std::printf("\n");
  }
}

void PrintJson(const std::vector<int>& counts, const std::vector<Ceiling>& ceilings) {
  nlohmann::ordered_json json;
  for (const Ceiling& ceiling : ceilings) {
    nlohmann::ordered_json row = {{"name", ceiling.key}, {"unit", ceiling.unit}};
    for (size_t i = 0; i < counts.size(); ++i) {
      if (ceiling.values[i] > 0) {
        row["by_threads"][std::to_string(counts[i])] = ceiling.values[i];
      }
    }
    json["ceilings"].push_back(row);
  }
  std::printf("%s\n", json.dump(1).c_str());
}

int Usage(std::string_view problem) {
  std::fprintf(stderr, "ceilings: error: %.*s; usage: ceilings [--json] [--threads N]\n",
               static_cast<int>(problem.size()), problem.data());
  return 2;
}

int Main(int argc, char** argv) {
  bool json = false;
  int threads = UsableCpus();
  for (int i = 1; i < argc; ++i) {
    const std::string_view arg = argv[i];
    if (arg == "--json") {
      json = true;
    } else if (arg == "--threads" && i + 1 < argc) {
      const std::string_view text = argv[++i];
      const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), threads);
      if (error != std::errc() || end != text.data() + text.size() || threads < 1 ||
          threads > UsableCpus()) {
        return Usage("--threads is " + std::string(text) + ", want 1 to " +
                     std::to_string(UsableCpus()) + ", the usable CPUs");
      }
    } else {
      return Usage("unknown argument " + std::string(arg));
    }
  }
  std::vector<int> counts = {1};
  if (threads > 1) counts.push_back(threads);
  const std::vector<Ceiling> ceilings = MeasureAll(counts);
  if (json) {
    PrintJson(counts, ceilings);
  } else {
    PrintTable(counts, ceilings);
  }
  return 0;
}

}  // namespace
}  // namespace mla

int main(int argc, char** argv) { return mla::Main(argc, argv); }
