// docs/from-mha-to-mla.md and the README's story against the programs that they quote.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <regex>
#include <set>
#include <sstream>
#include <string>
#include <vector>

#include "apps/process.h"

namespace mla::test {
namespace {

const std::string kDocs = MLA_SOURCE_DIR "/docs";

std::string Document() { return ReadAll(kDocs + "/from-mha-to-mla.md"); }

// What the programs of examples/ print, line by line.
std::vector<std::string> RunExamples() {
  const std::string bin = std::filesystem::path(MLA_BINARY).parent_path().string();
  std::vector<std::string> lines;
  for (const auto& entry : std::filesystem::directory_iterator(MLA_SOURCE_DIR "/examples")) {
    if (entry.path().extension() != ".cc") continue;
    const std::string name = entry.path().stem().string();
    FILE* pipe = ::popen((bin + "/example_" + name).c_str(), "r");
    if (pipe == nullptr) {
      ADD_FAILURE() << name;
      continue;
    }
    const size_t before = lines.size();
    char line[256];
    while (std::fgets(line, sizeof(line), pipe) != nullptr) {
      lines.emplace_back(line);
      lines.back().pop_back();  // the line's end
    }
    EXPECT_EQ(::pclose(pipe), 0) << name;
    EXPECT_GT(lines.size(), before) << name;
    EXPECT_TRUE(Contains(Document(), "example_" + name)) << "the document does not name it";
  }
  return lines;
}

// The lines between ``` and ```, and the others.
struct Split {
  std::vector<std::string> blocks, prose;
};
Split SplitDocument() {
  Split split;
  std::istringstream text(Document());
  bool inside = false;
  for (std::string line; std::getline(text, line);) {
    if (line.starts_with("```")) {
      inside = !inside;
    } else {
      (inside ? split.blocks : split.prose).push_back(line);
    }
  }
  EXPECT_FALSE(inside) << "an open block";
  return split;
}

std::set<std::string> NumbersOf(const std::string& text) {
  static const std::regex kNumber(R"([0-9]+(\.[0-9]+)?)");
  std::set<std::string> numbers;
  for (std::sregex_iterator i(text.begin(), text.end(), kNumber), end; i != end; ++i) {
    numbers.insert(i->str());
  }
  return numbers;
}

TEST(Document, BlocksAreWhatTheExamplesPrint) {
  const std::vector<std::string> printed = RunExamples();
  const std::vector<std::string> blocks = SplitDocument().blocks;
  const auto has = [](const std::vector<std::string>& lines, const std::string& line) {
    return std::find(lines.begin(), lines.end(), line) != lines.end();
  };
  for (const std::string& line : printed) {
    EXPECT_TRUE(has(blocks, line)) << "not quoted: " << line;
  }
  for (const std::string& line : blocks) {
    EXPECT_TRUE(line.starts_with("mla ") || has(printed, line)) << "nothing prints: " << line;
  }
  EXPECT_GE(printed.size(), 20);
}

// Numbers of one digit belong to equations; sources and commands are no quotations.
TEST(Document, ProseQuotesNoNumberThatNoExamplePrints) {
  std::set<std::string> printed;
  for (const std::string& line : RunExamples()) printed.merge(NumbersOf(line));
  std::string prose;
  for (const std::string& line : SplitDocument().prose) prose += line + " ";
  static const std::regex kNotQuoted(
      R"(arXiv [0-9]+\.[0-9]+|sections? [0-9.]+(,? (and )?[0-9]+\.[0-9.]+)*|`mla [^`]*`|\([^)]*\.svg\))");
  prose = std::regex_replace(prose, kNotQuoted, "");
  int quoted = 0;
  for (const std::string& number : NumbersOf(prose)) {
    if (number.size() < 2) continue;
    ++quoted;
    EXPECT_TRUE(printed.count(number) > 0) << number;
  }
  EXPECT_GT(quoted, 0);
}

std::vector<std::string> Words(const std::string& line) {
  std::istringstream text(line);
  std::vector<std::string> words;
  for (std::string word; text >> word;) words.push_back(word);
  return words;
}

// Every command in a block, and `mla ...` within the text, runs; measured shortly, where it
// measures.
TEST(Document, CommandsRun) {
  const TempDir dir;
  const Split split = SplitDocument();
  std::vector<std::string> commands;
  for (const std::string& line : split.blocks) {
    if (line.starts_with("mla ")) commands.push_back(line);
  }
  std::string prose;
  for (const std::string& line : split.prose) prose += line + " ";
  static const std::regex kCommand("`(mla [^`]* [^`]*)`");
  for (std::sregex_iterator i(prose.begin(), prose.end(), kCommand), end; i != end; ++i) {
    commands.push_back((*i)[1]);
  }
  for (const std::string& command : commands) {
    SCOPED_TRACE(command);
    std::vector<std::string> words = Words(command);
    words.erase(words.begin());
    bool has_model = false;
    for (std::string& word : words) {
      if (word == "models/stories-mla-9m") {
        word = kModel;
        has_model = true;
      }
      if (word.ends_with(".html") || word.ends_with(".svg")) {
        word = dir / std::filesystem::path(word).filename().string();
      }
    }
    if (words[0] == "compare") {
      for (const char* word : {"--depths", "0"}) words.push_back(word);
      if (has_model) {
        for (const char* word : {"-n", "1", "--repetitions", "1", "--context", "64"}) {
          words.push_back(word);
        }
      }
    }
    const ProcessResult run = RunMla(words);
    EXPECT_EQ(run.status, 0) << run.err;
  }
  EXPECT_GE(commands.size(), 4);
}

// In f32, where machines differ too little to choose another word.
TEST(Document, StoryOfTheReadmeIsWhatTheModelWrites) {
  const std::string readme = ReadAll(MLA_SOURCE_DIR "/README.md");
  const std::string_view command = "$ ./dev run \"One day, a dragon\" ";
  const size_t flags = readme.find(command) + command.size();
  ASSERT_NE(readme.find(command), std::string::npos);
  const size_t story = readme.find('\n', flags);
  const size_t end = readme.find(" [...]", story);
  ASSERT_NE(end, std::string::npos);

  std::vector<std::string> args = {"run", kModel, "-p", "One day, a dragon", "--compute", "f32"};
  for (const std::string& flag : Words(readme.substr(flags, story - flags))) args.push_back(flag);
  const ProcessResult run = RunMla(args);
  ASSERT_EQ(run.status, 0) << run.err;
  const std::vector<std::string> quoted = Words(readme.substr(story, end - story));
  std::vector<std::string> written = Words(run.out);
  EXPECT_GT(quoted.size(), 50);
  ASSERT_LE(quoted.size(), written.size()) << run.out;
  written.resize(quoted.size());
  EXPECT_EQ(quoted, written);
}

// Equal text, and numbers as near as machines compute them.
void ExpectSameDrawing(const std::string& got, const std::string& want) {
  static const std::regex kNumber(R"([0-9]+(\.[0-9]+)?(e-?[0-9]+)?)");
  EXPECT_EQ(std::regex_replace(got, kNumber, "#"), std::regex_replace(want, kNumber, "#"));
  std::sregex_iterator a(got.begin(), got.end(), kNumber);
  std::sregex_iterator b(want.begin(), want.end(), kNumber);
  for (const std::sregex_iterator end; a != end && b != end; ++a, ++b) {
    ASSERT_NEAR(std::stod(a->str()), std::stod(b->str()), 0.02) << "at " << a->position();
  }
}

TEST(Document, PicturesAreWhatTheProgramDraws) {
  const TempDir dir;
  const std::string growth = dir / "growth.svg";
  EXPECT_EQ(RunMla({"plan", "deepseek-v3", "--svg", growth}).status, 0);
  EXPECT_EQ(ReadAll(growth), ReadAll(kDocs + "/images/cache-growth.svg"));

  const std::string map = dir / "map.svg";
  const ProcessResult run = RunMla({"compare", kModel, "--maps", "3:5", "--svg", map, "--depths",
                                    "0", "-n", "1", "--repetitions", "1", "--context", "64"});
  EXPECT_EQ(run.status, 0) << run.err;
  ExpectSameDrawing(ReadAll(map), ReadAll(kDocs + "/images/attention-map.svg"));
  for (const auto& entry : std::filesystem::directory_iterator(kDocs + "/images")) {
    EXPECT_TRUE(Contains(Document(), "images/" + entry.path().filename().string()))
        << entry.path() << " is not shown";
  }
}

}  // namespace
}  // namespace mla::test
