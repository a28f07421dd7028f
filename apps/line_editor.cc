#include "apps/line_editor.h"

#include <histedit.h>
#include <langinfo.h>
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

volatile sig_atomic_t line_interrupted = 0;

// While it lives, Ctrl-C interrupts a read instead of ending the program.
class InterruptibleReads {
 public:
  InterruptibleReads() {
    line_interrupted = 0;
    struct sigaction action {};
    action.sa_handler = [](int) { line_interrupted = 1; };
    sigemptyset(&action.sa_mask);
    sigaction(SIGINT, &action, &before_);
  }
  ~InterruptibleReads() { sigaction(SIGINT, &before_, nullptr); }
  InterruptibleReads(const InterruptibleReads&) = delete;
  InterruptibleReads& operator=(const InterruptibleReads&) = delete;

 private:
  struct sigaction before_ {};
};

constexpr wchar_t kCtrlC = 3;

// libedit's source of characters: 1 and a character, 0 at the end, -1 for an error. Ctrl-C becomes
// a key like others, which libedit's own reader would not let it be.
int ReadCharacter(EditLine*, wchar_t* character) {
  std::mbstate_t state{};
  while (true) {
    char byte;
    const ssize_t count = ::read(STDIN_FILENO, &byte, 1);
    if (count < 0 && errno == EINTR) {
      if (line_interrupted == 0) continue;
      line_interrupted = 0;
      *character = kCtrlC;
      return 1;
    }
    if (count <= 0) return static_cast<int>(count);
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
    const InterruptibleReads interruptible;
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
