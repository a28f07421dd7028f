// A pool of worker threads for short parallel regions.
#ifndef MLA_BASE_THREADS_H_
#define MLA_BASE_THREADS_H_

#include <atomic>
#include <cstdint>
#include <exception>
#include <thread>
#include <type_traits>
#include <vector>

namespace mla {

// A call runs on the calling thread and num_threads - 1 workers. Workers spin briefly between
// regions (a decode step has dozens, a few microseconds apart), then sleep; where there are more
// threads than CPUs, they sleep at once. No thread is bound to a CPU: two programs that bind theirs
// to the same ones halve each other while other CPUs idle, and the system spreads threads over free
// cores by itself.
class ThreadPool {
 public:
  // 1 or more. Where the system refuses threads (a limit, or no memory for their stacks) there are
  // fewer: half of those it gave, so that something is left for the work.
  explicit ThreadPool(int num_threads);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int num_threads() const { return num_threads_; }

  // Calls fn(task, thread) once for every task in [0, num_tasks), fewer than 2^31; thread in
  // [0, num_threads()).
  // Returns when all are done. Each thread has a run of neighbouring tasks, the same at every call
  // with as many, and takes others' last ones when it has done its own: what tasks read side by
  // side streams through one core, and memory that a thread touched first is near it at later
  // calls. A region started within a region, or while another thread's region runs, runs on its
  // caller alone. What a task throws (std::bad_alloc) is thrown here when the others are done;
  // which tasks have run is then not known.
  template <typename Fn>
  void ParallelFor(int64_t num_tasks, const Fn& fn) {
    Run(num_tasks, &fn, [](const void* f, int64_t task, int thread) {
      (*static_cast<const Fn*>(f))(task, thread);
    });
  }

 private:
  using Call = void (*)(const void*, int64_t, int);
  // Tasks [first, end) that wait for a thread, in one word: (end << 32) | first. The thread takes
  // the first, others the last.
  struct alignas(64) TaskRange {
    std::atomic<uint64_t> bounds{0};

    int64_t TakeFirst();  // -1: none are left
    int64_t TakeLast();
  };

  void Run(int64_t num_tasks, const void* fn, Call call);
  void Work(int thread);
  void WorkAndCatch(int thread) noexcept;
  bool Enter();
  void WorkerMain(int thread);

  int num_threads_;
  const bool may_spin_;
  std::vector<std::thread> workers_;
  std::atomic<bool> busy_{false};  // a region runs
  const void* fn_ = nullptr;
  Call call_ = nullptr;
  std::atomic<bool> failed_{false};  // a task of the region has thrown error_
  std::exception_ptr error_;
  std::vector<TaskRange> waiting_;              // of each thread
  alignas(64) std::atomic<uint32_t> epoch_{0};  // a new value starts a region
  // kOpen while the region takes workers, plus the number of workers in it. A worker that comes
  // late, because the system was running something else, is not waited for.
  static constexpr uint32_t kOpen = 1U << 31;
  alignas(64) std::atomic<uint32_t> gate_{0};
  std::atomic<bool> stop_{false};
};

// The CPUs this process may run on: the default number of threads.
int UsableCpus();

// ParallelFor that accepts a null pool: then the caller runs every task itself.
template <typename Fn>
void ParallelFor(ThreadPool* pool, int64_t num_tasks, const Fn& fn) {
  if (pool != nullptr && num_tasks > 1) {
    pool->ParallelFor(num_tasks, fn);
  } else {
    for (int64_t task = 0; task < num_tasks; ++task) fn(task, 0);
  }
}

inline int NumThreads(const ThreadPool* pool) { return pool == nullptr ? 1 : pool->num_threads(); }

}  // namespace mla

#endif  // MLA_BASE_THREADS_H_
