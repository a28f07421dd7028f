#include "apps/interrupt.h"

namespace mla {
namespace {

volatile sig_atomic_t noted_signal = 0;

void NoteSignal(int signal) { noted_signal = signal; }

}  // namespace

InterruptGuard::InterruptGuard(std::initializer_list<int> signals) {
  noted_signal = 0;
  struct sigaction action {};
  action.sa_handler = NoteSignal;
  // After the first signal the default action is back. Reads and writes go on where they were.
  action.sa_flags = static_cast<int>(SA_RESETHAND | SA_RESTART);
  sigemptyset(&action.sa_mask);
  for (const int signal : signals) {
    struct sigaction before {};
    sigaction(signal, nullptr, &before);
    if (before.sa_handler == SIG_IGN) continue;
    sigaction(signal, &action, nullptr);
    before_.emplace_back(signal, before);
  }
}

InterruptGuard::~InterruptGuard() {
  for (const auto& [signal, before] : before_) sigaction(signal, &before, nullptr);
}

bool InterruptGuard::interrupted() const { return noted_signal != 0; }

void InterruptGuard::EndProgramIfInterrupted() const {
  if (!interrupted()) return;
  ::signal(noted_signal, SIG_DFL);
  ::raise(noted_signal);
}

}  // namespace mla
