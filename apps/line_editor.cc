#include "apps/line_editor.h"

#include <fcntl.h>
#include <histedit.h>
#include <langinfo.h>
#include <poll.h>
#include <signal.h>
#include <unistd.h>

#include <cerrno>
#include <clocale>
#include <cstdio>
#include <cstring>
#include <cwchar>
#include <iostream>
#include <string_view>
#include <utility>

namespace mla {
namespace {

constexpr int kHistoryLines = 1000;

// libedit decodes what is typed by the locale; ours is UTF-8 whatever the environment says.
void UseUtf8Locale() {
  std::setlocale(LC_CTYPE, "");
  if (std::strcmp(nl_langinfo(CODESET), "UTF-8") != 0) std::setlocale(LC_CTYPE, "C.UTF-8");
}

// Where the handler of Ctrl-C leaves a byte for the reader to find: whichever thread the signal
// comes to, and whether the reader waits already or is about to.
int interrupt_pipe[2] = {-1, -1};

// While it lives, Ctrl-C is a key for the line being edited instead of the end of the program.
class InterruptAsKey {
 public:
  InterruptAsKey() {
    if (interrupt_pipe[0] < 0 && ::pipe2(interrupt_pipe, O_CLOEXEC | O_NONBLOCK) != 0) return;
    struct sigaction action {};
    action.sa_handler = [](int) {
      const int before = errno;
      [[maybe_unused]] const ssize_t written = ::write(interrupt_pipe[1], "", 1);
      errno = before;
    };
    action.sa_flags = SA_RESTART;
    sigemptyset(&action.sa_mask);
    installed_ = sigaction(SIGINT, &action, &before_) == 0;
  }
  ~InterruptAsKey() {
    if (installed_) sigaction(SIGINT, &before_, nullptr);
  }
  InterruptAsKey(const InterruptAsKey&) = delete;
  InterruptAsKey& operator=(const InterruptAsKey&) = delete;

 private:
  struct sigaction before_ {};
  bool installed_ = false;
};

constexpr wchar_t kCtrlC = 3;
constexpr char kCtrlD = 4;

// Waits for a byte of input: 1 if there is one to read, or 0 if Ctrl-C came first.
int WaitForKey() {
  while (true) {
    pollfd sources[2] = {{STDIN_FILENO, POLLIN, 0}, {interrupt_pipe[0], POLLIN, 0}};
    if (::poll(sources, 2, -1) < 0) {
      if (errno == EINTR) continue;
      return 1;  // the read will say what is wrong
    }
    char byte;
    if (sources[1].revents != 0 && ::read(interrupt_pipe[0], &byte, 1) == 1) return 0;
    if (sources[0].revents != 0) return 1;
  }
}

// libedit's source of characters: 1 and a character, 0 at the end, -1 for an error. libedit's own
// reader would not let Ctrl-C be a key.
int ReadCharacter(EditLine* edit, wchar_t* character) {
  std::mbstate_t state{};
  while (true) {
    if (WaitForKey() == 0) {
      *character = kCtrlC;
      return 1;
    }
    char byte;
    const ssize_t count = ::read(STDIN_FILENO, &byte, 1);
    if (count < 0 && errno == EINTR) continue;
    if (count <= 0) return static_cast<int>(count);
    // Ctrl-D on an empty line is the end. Decided here: libedit has been seen to answer it with a
    // bell instead, when it came right after the prompt.
    const LineInfo* line = el_line(edit);
    if (byte == kCtrlD && line->lastchar == line->buffer) return 0;
    const size_t used = std::mbrtowc(character, &byte, 1, &state);
    if (used == static_cast<size_t>(-2)) continue;  // more bytes to come
    if (used == static_cast<size_t>(-1)) {          // not UTF-8: that byte is left out
      state = {};
      continue;
    }
    return 1;
  }
}

}  // namespace

class LineEditor::Terminal {
 public:
  explicit Terminal(std::string prompt) : prompt_(std::move(prompt)) {
    UseUtf8Locale();
    edit_ = el_init("mla", stdin, stderr, stderr);
    history_ = history_init();
    if (edit_ == nullptr || history_ == nullptr) return;
    HistEvent event;
    history(history_, &event, H_SETSIZE, kHistoryLines);
    el_set(edit_, EL_CLIENTDATA, this);
    el_set(edit_, EL_PROMPT, &Terminal::Prompt);
    el_set(edit_, EL_EDITOR, "emacs");
    el_set(edit_, EL_HIST, history, history_);
    el_set(edit_, EL_GETCFN, &ReadCharacter);
    el_set(edit_, EL_ADDFN, "mla-clear", "Clear the line", &Terminal::Clear);
    el_set(edit_, EL_BIND, "^C", "mla-clear", nullptr);
    el_source(edit_, nullptr);  // the user's own ~/.editrc
  }

  ~Terminal() {
    if (history_ != nullptr) history_end(history_);
    if (edit_ != nullptr) el_end(edit_);
  }
  Terminal(const Terminal&) = delete;
  Terminal& operator=(const Terminal&) = delete;

  bool usable() const { return edit_ != nullptr && history_ != nullptr; }

  std::optional<std::string> Read() {
    const InterruptAsKey interrupt_as_key;
    while (true) {
      cleared_ = false;
      int length = 0;
      const char* text = el_gets(edit_, &length);
      if (cleared_) continue;
      if (text == nullptr || length <= 0) return std::nullopt;
      std::string line(text, static_cast<size_t>(length));
      HistEvent event;
      if (line.find_first_not_of(" \t\r\n") != std::string::npos) {
        history(history_, &event, H_ENTER, line.c_str());
      }
      while (line.ends_with('\n') || line.ends_with('\r')) line.pop_back();
      return line;
    }
  }

 private:
  static Terminal* Self(EditLine* edit) {
    void* self = nullptr;
    el_get(edit, EL_CLIENTDATA, &self);
    return static_cast<Terminal*>(self);
  }
  // libedit's interface takes a modifiable string and does not modify it.
  static char* Prompt(EditLine* edit) { return Self(edit)->prompt_.data(); }
  static unsigned char Clear(EditLine* edit, int) {
    Self(edit)->cleared_ = true;
    std::fputs("^C\n", stderr);
    return CC_NEWLINE;
  }

  std::string prompt_;
  EditLine* edit_ = nullptr;
  History* history_ = nullptr;
  bool cleared_ = false;
};

LineEditor::LineEditor(std::string prompt) {
  if (::isatty(STDIN_FILENO) == 0 || ::isatty(STDERR_FILENO) == 0) return;
  terminal_ = std::make_unique<Terminal>(std::move(prompt));
  if (!terminal_->usable()) terminal_.reset();
}

LineEditor::~LineEditor() = default;

std::optional<std::string> LineEditor::Read() {
  if (terminal_ != nullptr) return terminal_->Read();
  std::string line;
  if (!std::getline(std::cin, line)) return std::nullopt;
  if (line.ends_with('\r')) line.pop_back();
  return line;
}

}  // namespace mla
