#include "base/workspace.h"

#include <algorithm>
#include <new>

namespace mla {

void* Workspace::AllocateBytes(size_t bytes) {
  constexpr size_t kMinBlock = size_t{1} << 20;
  bytes = (std::max<size_t>(bytes, 1) + kAlignment - 1) / kAlignment * kAlignment;
  while (block_ < blocks_.size() && used_ + bytes > blocks_[block_].size) {
    ++block_;
    used_ = 0;
  }
  if (block_ == blocks_.size()) {
    // Doubling keeps the number of blocks small while sizes are still being discovered.
    const size_t last = blocks_.empty() ? 0 : blocks_.back().size;
    const size_t size = std::max({bytes, kMinBlock, 2 * last});
    void* memory = std::aligned_alloc(kAlignment, size);
    if (memory == nullptr) throw std::bad_alloc();
    blocks_.push_back(Block{std::unique_ptr<void, FreeDeleter>(memory), size});
    used_ = 0;
  }
  void* result = static_cast<char*>(blocks_[block_].memory.get()) + used_;
  used_ += bytes;
  return result;
}

size_t Workspace::bytes_reserved() const {
  size_t total = 0;
  for (const Block& block : blocks_) total += block.size;
  return total;
}

}  // namespace mla
