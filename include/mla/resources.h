// Makes what a Context points to. Both may be kept and used for any number of calls, of any
// operator; a context without them is valid, too.
#ifndef MLA_RESOURCES_H_
#define MLA_RESOURCES_H_

#include <memory>

#include "mla/context.h"
#include "mla/result.h"

namespace mla {

struct ResourceDeleter {
  void operator()(ThreadPool* pool) const;
  void operator()(Workspace* workspace) const;
};

using ThreadPoolPtr = std::unique_ptr<ThreadPool, ResourceDeleter>;
using WorkspacePtr = std::unique_ptr<Workspace, ResourceDeleter>;

// For Context::threads: calls run on the calling thread and num_threads - 1 others, 1 to 1024 in
// all; 0 is as many as the process may use. A call from a second thread, while one runs, runs on
// its caller alone. kInvalidArgument otherwise.
Result<ThreadPoolPtr> MakeThreadPool(int num_threads = 0);

// For Context::workspace: scratch memory that is kept between calls. Of one call at a time: threads
// that call operators side by side have one each.
WorkspacePtr MakeWorkspace();

}  // namespace mla

#endif  // MLA_RESOURCES_H_
