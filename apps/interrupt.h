// Ctrl-C and other signals as a request to stop, not the end of the program.
#ifndef MLA_APPS_INTERRUPT_H_
#define MLA_APPS_INTERRUPT_H_

#include <signal.h>

#include <initializer_list>
#include <utility>
#include <vector>

namespace mla {

// What usually ends a program, by the user's wish or the system's.
inline constexpr std::initializer_list<int> kEndingSignals = {SIGINT, SIGTERM, SIGHUP};

// While it lives, the first of `signals` (Ctrl-C is SIGINT) is only noted; the same again ends the
// program as usual, so that work which does not look at interrupted() can still be stopped. What
// the program was started to ignore stays ignored. One at a time.
class InterruptGuard {
 public:
  explicit InterruptGuard(std::initializer_list<int> signals = {SIGINT});
  ~InterruptGuard();
  InterruptGuard(const InterruptGuard&) = delete;
  InterruptGuard& operator=(const InterruptGuard&) = delete;

  bool interrupted() const;

  // Ends the program by the signal that was noted, as if it had not been caught: shells and scripts
  // then see why. Does nothing if none was.
  void EndProgramIfInterrupted() const;

 private:
  std::vector<std::pair<int, struct sigaction>> before_;
};

}  // namespace mla

#endif  // MLA_APPS_INTERRUPT_H_
