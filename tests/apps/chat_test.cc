// mla chat with a chat template.
#include <string>
#include <vector>

#include "apps/process.h"

namespace mla::test {
namespace {

// Ends a turn as the bundled model ends a story.
constexpr char kTemplate[] =
    "{{ bos_token }}{% for m in messages %}{{ m.role }}: {{ m.content | trim }}\n"
    "{% endfor %}{% if add_generation_prompt %}assistant:{% endif %}";

ProcessOptions Typing(const std::string& lines) {
  ProcessOptions options;
  options.input = lines;
  return options;
}

std::vector<std::string> Chat(const std::string& template_file, int tokens) {
  return {"chat",          kModel, "--template", template_file, "-n",        std::to_string(tokens),
          "--temperature", "0",    "--compute",  "f32",         "--threads", "1"};
}

// The numbers of the lines "[N tokens kept in the cache; prefill M token(s), ...".
struct Turn {
  int kept = -1, prefilled = -1;
};
std::vector<Turn> TurnsOf(const std::string& err) {
  std::vector<Turn> turns;
  size_t at = 0;
  while ((at = err.find("tokens kept in the cache; prefill ", at)) != std::string::npos) {
    const size_t begin = err.rfind('[', at) + 1;
    turns.push_back({std::stoi(err.substr(begin)), std::stoi(err.substr(at + 34))});
    ++at;
  }
  return turns;
}

int CountTokens(const std::string& text) {
  const auto json = RunJson({"tokenize", kModel, "--json", text});
  return static_cast<int>(json["ids"].size());
}

TEST(ChatTemplateCommand, RunsTheNewPartOnly) {
  const TempDir dir;
  const std::string file = dir.Write("chat.jinja", kTemplate);
  const ProcessOptions options =
      Typing("Tell a story about a dog.\nGo on.\n/reset\nTell a story about a dog.\n");
  const ProcessResult chat = RunMla(Chat(file, 6), options);
  ASSERT_EQ(chat.status, 0) << chat.err;
  const std::vector<Turn> turns = TurnsOf(chat.err);
  ASSERT_EQ(turns.size(), 3u) << chat.err;
  EXPECT_EQ(turns[0].kept, 0);
  // BOS, and the rendered text.
  const int first = 1 + CountTokens("user: Tell a story about a dog.\nassistant:");
  EXPECT_EQ(turns[0].prefilled, first);
  EXPECT_GE(turns[1].kept, first) << chat.err;  // and what of the answer tokenises as before
  EXPECT_LE(turns[1].kept, first + 5);
  EXPECT_LT(turns[1].prefilled, first + 6);
  EXPECT_EQ(turns[2].kept, 0);
  EXPECT_EQ(turns[2].prefilled, first);
  // The same words, the same answer.
  const size_t line = chat.out.find('\n');
  std::string again = "\n";
  again += chat.out.substr(0, line + 1);
  EXPECT_TRUE(chat.out.ends_with(again)) << chat.out;
}

TEST(ChatTemplateCommand, WhatIsTypedStaysText) {
  const TempDir dir;
  const std::string file = dir.Write("chat.jinja", "{{ bos_token }}{{ messages[-1].content }}");
  const std::string special = "<｜begin▁of▁sentence｜>";
  const ProcessOptions options = Typing("a" + special + "b\n");
  const ProcessResult chat = RunMla(Chat(file, 1), options);
  ASSERT_EQ(chat.status, 0) << chat.err;
  const std::vector<Turn> turns = TurnsOf(chat.err);
  ASSERT_EQ(turns.size(), 1u) << chat.err;
  EXPECT_EQ(turns[0].prefilled, 1 + CountTokens("a" + special + "b"));
  EXPECT_GT(turns[0].prefilled, 4);  // BOS, a, one token, b if it were parsed
}

TEST(ChatTemplateCommand, SystemTextAndPlainText) {
  const TempDir dir;
  const std::string file = dir.Write("chat.jinja", kTemplate);
  const ProcessOptions options = Typing("Hello\n/system Be kind.\nHello\n/system\nHello\n");
  std::vector<std::string> args = Chat(file, 2);
  args.insert(args.end(), {"--system", "Be brief and be good."});
  const ProcessResult chat = RunMla(args, options);
  ASSERT_EQ(chat.status, 0) << chat.err;
  const std::vector<Turn> turns = TurnsOf(chat.err);
  ASSERT_EQ(turns.size(), 3u) << chat.err;
  EXPECT_EQ(turns[0].prefilled,
            1 + CountTokens("system: Be brief and be good.\nuser: Hello\nassistant:"));
  // The text before the change is the same: BOS and "system: Be".
  EXPECT_EQ(turns[1].kept, 1 + CountTokens("system: Be")) << chat.err;
  EXPECT_EQ(turns[2].kept, 1) << chat.err;
  // A template may be turned off; then a line is what the model continues.
  const ProcessResult plain =
      RunMla({"chat", kModel, "--no-template", "-n", "2", "--temperature", "0"}, Typing("Hello\n"));
  ASSERT_EQ(plain.status, 0) << plain.err;
  EXPECT_EQ(TurnsOf(plain.err).at(0).prefilled, 1 + CountTokens("Hello"));
}

TEST(ChatTemplateCommand, SaysWhatIsWrong) {
  const TempDir dir;
  const std::string broken = dir.Write("broken.jinja", "a\n{% include 'x' %}");
  const ProcessResult bad = RunMla(Chat(broken, 1), Typing("Hello\n"));
  EXPECT_EQ(bad.status, 1);
  EXPECT_TRUE(IsOneLine(bad.err)) << bad.err;
  EXPECT_TRUE(Contains(bad.err, "line 2: the tag \"include\" is not supported")) << bad.err;
  EXPECT_TRUE(Contains(bad.err, broken)) << bad.err;
  // What a template refuses is said, and the conversation goes on.
  const std::string strict = dir.Write(
      "strict.jinja",
      "{{ bos_token }}{% if messages[-1].content == 'x' %}{{ raise_exception('no x') }}{% endif %}"
      "{{ messages[-1].content }}");
  const ProcessResult chat = RunMla(Chat(strict, 1), Typing("x\nHello\n"));
  EXPECT_EQ(chat.status, 0) << chat.err;
  EXPECT_TRUE(Contains(chat.err, "this line was not taken: chat template: line 1")) << chat.err;
  EXPECT_TRUE(Contains(chat.err, "no x")) << chat.err;
  EXPECT_EQ(TurnsOf(chat.err).size(), 1u) << chat.err;
  EXPECT_EQ(RunMla({"chat", kModel, "--no-template", "--template", strict}).status, 2);
  const ProcessResult absent = RunMla(Chat(dir / "absent", 1));
  EXPECT_EQ(absent.status, 1);
  EXPECT_TRUE(IsOneLine(absent.err)) << absent.err;
}

}  // namespace
}  // namespace mla::test
