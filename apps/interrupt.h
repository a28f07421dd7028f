// Ctrl-C as a request to stop, not the end of the program.
#ifndef MLA_APPS_INTERRUPT_H_
#define MLA_APPS_INTERRUPT_H_

#include <signal.h>

namespace mla {

// While it lives, the first Ctrl-C is only noted; a second one ends the program as usual, so that
// work which does not look at interrupted() can still be stopped. One at a time.
class InterruptGuard {
 public:
  InterruptGuard();
  ~InterruptGuard();
  InterruptGuard(const InterruptGuard&) = delete;
  InterruptGuard& operator=(const InterruptGuard&) = delete;

  bool interrupted() const;

 private:
  struct sigaction before_ {};
};

}  // namespace mla

#endif  // MLA_APPS_INTERRUPT_H_
