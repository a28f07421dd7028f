// Scratch memory for operator calls: a stack of aligned blocks, kept between calls.
#ifndef MLA_BASE_WORKSPACE_H_
#define MLA_BASE_WORKSPACE_H_

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <vector>

namespace mla {

// Memory from Allocate stays valid until the Scope it was taken in ends. It is not cleared.
// Not thread-safe: allocate before a parallel region, use inside it.
class Workspace {
 public:
  static constexpr size_t kAlignment = 64;

  Workspace() = default;
  Workspace(const Workspace&) = delete;
  Workspace& operator=(const Workspace&) = delete;

  // `count` elements of T, 64-byte aligned. Throws std::bad_alloc if there is no memory left.
  template <typename T>
  T* Allocate(int64_t count) {
    return static_cast<T*>(AllocateBytes(static_cast<size_t>(count) * sizeof(T)));
  }

  size_t bytes_reserved() const;  // held from the system, for statistics

  // Gives back on destruction what was allocated since construction.
  class Scope {
   public:
    explicit Scope(Workspace& workspace)
        : workspace_(workspace), block_(workspace.block_), used_(workspace.used_) {}
    ~Scope() {
      workspace_.block_ = block_;
      workspace_.used_ = used_;
    }
    Scope(const Scope&) = delete;
    Scope& operator=(const Scope&) = delete;

   private:
    Workspace& workspace_;
    size_t block_, used_;
  };

 private:
  struct FreeDeleter {
    void operator()(void* p) const { std::free(p); }
  };
  struct Block {
    std::unique_ptr<void, FreeDeleter> memory;
    size_t size = 0;
  };
  void* AllocateBytes(size_t bytes);

  std::vector<Block> blocks_;
  size_t block_ = 0;  // the block being filled
  size_t used_ = 0;   // bytes of it in use
};

// The context's workspace, or one of its own for a caller who gave none.
class ScopedWorkspace {
 public:
  explicit ScopedWorkspace(Workspace* given)
      : scope_(given != nullptr ? *given : own_), workspace_(given != nullptr ? given : &own_) {}
  Workspace* operator->() { return workspace_; }
  Workspace& operator*() { return *workspace_; }

 private:
  Workspace own_;
  Workspace::Scope scope_;
  Workspace* workspace_;
};

}  // namespace mla

#endif  // MLA_BASE_WORKSPACE_H_
