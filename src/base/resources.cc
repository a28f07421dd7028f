#include "mla/resources.h"

#include "base/threads.h"
#include "base/workspace.h"

namespace mla {
namespace {

constexpr int kMostThreads = 1024;

}  // namespace

void ResourceDeleter::operator()(ThreadPool* pool) const { delete pool; }
void ResourceDeleter::operator()(Workspace* workspace) const { delete workspace; }

Result<ThreadPoolPtr> MakeThreadPool(int num_threads) {
  if (num_threads < 0 || num_threads > kMostThreads) {
    return InvalidArgument("num_threads is ", num_threads, ", want 0 to ", kMostThreads);
  }
  return ThreadPoolPtr(new ThreadPool(num_threads == 0 ? UsableCpus() : num_threads));
}

WorkspacePtr MakeWorkspace() { return WorkspacePtr(new Workspace); }

}  // namespace mla
