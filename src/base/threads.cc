#include "base/threads.h"

#include <sched.h>

#include <algorithm>
#include <chrono>
#include <exception>
#include <utility>

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
    : num_threads_(1), may_spin_(num_threads <= UsableCpus()), waiting_(std::max(num_threads, 1)) {
  MLA_CHECK(num_threads >= 1, "num_threads ", num_threads);
  workers_.reserve(num_threads - 1);
  try {
    for (int i = 1; i < num_threads; ++i) workers_.emplace_back([this, i] { WorkerMain(i); });
    num_threads_ = num_threads;      // read by workers after the start of a region
  } catch (const std::exception&) {  // system_error, or bad_alloc
    num_threads_ = 1 + static_cast<int>(workers_.size() / 2);
    epoch_.fetch_add(1, std::memory_order_release);  // the others end
    epoch_.notify_all();
    for (; std::ssize(workers_) >= num_threads_; workers_.pop_back()) workers_.back().join();
  }
}

ThreadPool::~ThreadPool() {
  stop_.store(true, std::memory_order_relaxed);
  epoch_.fetch_add(1, std::memory_order_release);
  epoch_.notify_all();
  for (std::thread& worker : workers_) worker.join();
}

int64_t ThreadPool::TaskRange::TakeFirst() {
  uint64_t now = bounds.load(std::memory_order_relaxed);
  for (;;) {
    const uint64_t first = now & UINT32_MAX;
    if (first >= now >> 32) return -1;
    if (bounds.compare_exchange_weak(now, now + 1, std::memory_order_relaxed)) {
      return static_cast<int64_t>(first);
    }
  }
}

int64_t ThreadPool::TaskRange::TakeLast() {
  uint64_t now = bounds.load(std::memory_order_relaxed);
  for (;;) {
    const uint64_t end = now >> 32;
    if ((now & UINT32_MAX) >= end) return -1;
    if (bounds.compare_exchange_weak(now, now - (uint64_t{1} << 32), std::memory_order_relaxed)) {
      return static_cast<int64_t>(end - 1);
    }
  }
}

void ThreadPool::Work(int thread) {
  for (int64_t task; (task = waiting_[thread].TakeFirst()) >= 0;) call_(fn_, task, thread);
  for (int i = 1; i < num_threads_; ++i) {
    TaskRange& other = waiting_[(thread + i) % num_threads_];
    for (int64_t task; (task = other.TakeLast()) >= 0;) call_(fn_, task, thread);
  }
}

void ThreadPool::WorkAndCatch(int thread) noexcept {
  try {
    Work(thread);
  } catch (...) {
    if (!failed_.exchange(true, std::memory_order_relaxed)) error_ = std::current_exception();
  }
}

void ThreadPool::Run(int64_t num_tasks, const void* fn, Call call) {
  if (workers_.empty() || num_tasks <= 1 || busy_.exchange(true, std::memory_order_acquire)) {
    for (int64_t task = 0; task < num_tasks; ++task) call(fn, task, 0);
    return;
  }
  MLA_CHECK(num_tasks <= INT32_MAX, "num_tasks ", num_tasks);
  fn_ = fn;
  call_ = call;
  for (int i = 0; i < num_threads_; ++i) {
    const auto first = static_cast<uint64_t>(num_tasks * i / num_threads_);
    const auto end = static_cast<uint64_t>(num_tasks * (i + 1) / num_threads_);
    waiting_[i].bounds.store(end << 32 | first, std::memory_order_relaxed);
  }
  gate_.store(kOpen, std::memory_order_release);
  epoch_.fetch_add(1, std::memory_order_release);
  epoch_.notify_all();
  WorkAndCatch(0);
  gate_.fetch_and(~kOpen, std::memory_order_relaxed);
  Spinner spinner(may_spin_);
  for (uint32_t inside; (inside = gate_.load(std::memory_order_acquire)) != 0;) {
    // A worker that the system has taken off its CPU needs this one more than we do.
    if (!spinner.LookAgain()) gate_.wait(inside, std::memory_order_acquire);
  }
  std::exception_ptr error;
  if (failed_.load(std::memory_order_relaxed)) {
    error = std::exchange(error_, nullptr);
    failed_.store(false, std::memory_order_relaxed);
  }
  busy_.store(false, std::memory_order_release);
  if (error) std::rethrow_exception(error);
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
    if (stop_.load(std::memory_order_relaxed) || thread >= num_threads_) return;
    if (!Enter()) continue;
    WorkAndCatch(thread);
    if (gate_.fetch_sub(1, std::memory_order_release) == 1) gate_.notify_one();
  }
}

}  // namespace mla
