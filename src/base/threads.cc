#include "base/threads.h"

#include <sched.h>

#include <algorithm>
#include <chrono>

#include "base/check.h"

namespace mla {
namespace {

// How long a thread looks again and again before it sleeps: longer than the serial work between two
// regions of a decode step, short enough to leave the CPU to others soon when the model waits. In
// time, as the pause instruction takes from 4 to 140 cycles.
constexpr std::chrono::microseconds kSpinTime{100};

inline void Pause() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

// The looks that a thread takes before it sleeps.
class Spinner {
 public:
  explicit Spinner(bool enabled) : enabled_(enabled) {}

  // Pauses, and says whether to look again. Asks for the time only now and then.
  bool LookAgain() {
    if (!enabled_) return false;
    Pause();
    if (++looks_ % kLooksPerClock != 0) return true;
    const auto now = std::chrono::steady_clock::now();
    if (looks_ == kLooksPerClock) end_ = now + kSpinTime;
    return now < end_;
  }

 private:
  static constexpr uint32_t kLooksPerClock = 64;
  bool enabled_;
  uint32_t looks_ = 0;
  std::chrono::steady_clock::time_point end_;
};

}  // namespace

int UsableCpus() {
  cpu_set_t set;
  CPU_ZERO(&set);
  if (sched_getaffinity(0, sizeof(set), &set) == 0) return std::max(1, CPU_COUNT(&set));
  return std::max(1u, std::thread::hardware_concurrency());
}

// With more threads than CPUs, one that spins keeps another from its work.
ThreadPool::ThreadPool(int num_threads)
    : num_threads_(num_threads), may_spin_(num_threads <= UsableCpus()) {
  MLA_CHECK(num_threads >= 1, "num_threads ", num_threads);
  workers_.reserve(num_threads - 1);
  for (int i = 1; i < num_threads; ++i) workers_.emplace_back([this, i] { WorkerMain(i); });
}

ThreadPool::~ThreadPool() {
  stop_.store(true, std::memory_order_relaxed);
  epoch_.fetch_add(1, std::memory_order_release);
  epoch_.notify_all();
  for (std::thread& worker : workers_) worker.join();
}

void ThreadPool::Work(int thread) {
  for (;;) {
    const int64_t task = next_task_.fetch_add(1, std::memory_order_relaxed);
    if (task >= num_tasks_) return;
    call_(fn_, task, thread);
  }
}

void ThreadPool::Run(int64_t num_tasks, const void* fn, Call call) {
  if (workers_.empty() || num_tasks <= 1 || busy_.exchange(true, std::memory_order_acquire)) {
    for (int64_t task = 0; task < num_tasks; ++task) call(fn, task, 0);
    return;
  }
  fn_ = fn;
  call_ = call;
  num_tasks_ = num_tasks;
  next_task_.store(0, std::memory_order_relaxed);
  gate_.store(kOpen, std::memory_order_release);
  epoch_.fetch_add(1, std::memory_order_release);
  epoch_.notify_all();
  Work(0);
  gate_.fetch_and(~kOpen, std::memory_order_relaxed);
  Spinner spinner(may_spin_);
  for (uint32_t inside; (inside = gate_.load(std::memory_order_acquire)) != 0;) {
    // A worker that the system has taken off its CPU needs this one more than we do.
    if (!spinner.LookAgain()) gate_.wait(inside, std::memory_order_acquire);
  }
  busy_.store(false, std::memory_order_release);
}

// Joins the region if it is still open. It may be a later one than the worker was woken for: what
// it runs is read after the gate, and stays as it is while a worker is inside.
bool ThreadPool::Enter() {
  uint32_t gate = gate_.load(std::memory_order_relaxed);
  while ((gate & kOpen) != 0) {
    if (gate_.compare_exchange_weak(gate, gate + 1, std::memory_order_acquire)) return true;
  }
  return false;
}

void ThreadPool::WorkerMain(int thread) {
  uint32_t seen = 0;
  for (;;) {
    uint32_t now;
    Spinner spinner(may_spin_);
    while ((now = epoch_.load(std::memory_order_acquire)) == seen) {
      if (!spinner.LookAgain()) epoch_.wait(seen, std::memory_order_acquire);
    }
    seen = now;
    if (stop_.load(std::memory_order_relaxed)) return;
    if (!Enter()) continue;
    Work(thread);
    if (gate_.fetch_sub(1, std::memory_order_release) == 1) gate_.notify_one();
  }
}

}  // namespace mla
