#include "apps/interrupt.h"

namespace mla {
namespace {

volatile sig_atomic_t interrupt_noted = 0;

void NoteInterrupt(int) { interrupt_noted = 1; }

}  // namespace

InterruptGuard::InterruptGuard() {
  interrupt_noted = 0;
  struct sigaction action {};
  action.sa_handler = NoteInterrupt;
  // After the first signal the default action is back. Reads and writes go on where they were.
  action.sa_flags = static_cast<int>(SA_RESETHAND | SA_RESTART);
  sigemptyset(&action.sa_mask);
  sigaction(SIGINT, &action, &before_);
}

InterruptGuard::~InterruptGuard() { sigaction(SIGINT, &before_, nullptr); }

bool InterruptGuard::interrupted() const { return interrupt_noted != 0; }

}  // namespace mla
