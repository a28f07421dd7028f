// What `mla compare` measures, and the programs that the documents quote.
#include <cmath>
#include <cstdio>
#include <filesystem>
#include <string>
#include <vector>

#include "apps/process.h"

namespace mla::test {
namespace {

using Json = nlohmann::json;

std::vector<std::string> Quick(const std::vector<std::string>& more) {
  std::vector<std::string> args = {"compare", kModel,          "--depths", "0,32",      "-n",
                                   "4",       "--repetitions", "1",        "--context", "64"};
  args.insert(args.end(), more.begin(), more.end());
  return args;
}

TEST(Compare, FormsOfOneModelWriteTheSameTextFromDifferentCaches) {
  const Json json = RunJson(Quick({"--json", "--compute", "f32"}));
  EXPECT_EQ(json["same_tokens"], true);
  ASSERT_EQ(json["forms"].size(), 3);
  const Json plan = RunJson({"plan", kModel, "--json"});
  for (const Json& form : json["forms"]) {
    SCOPED_TRACE(form["form"]);
    EXPECT_LT(form["max_logit_difference"].get<double>(), 1e-3);
    EXPECT_EQ(form["greedy"].size(), 24);
    ASSERT_EQ(form["decode"].size(), 2);
    EXPECT_EQ(form["prefill"].size(), 1);  // a prompt of no tokens is not measured
    for (const Json& point : form["decode"]) EXPECT_GT(point["tokens_per_second"], 0);
    // f32: twice the planned f16 bytes.
    const std::string layout = form["form"] == "mha" ? "mha" : "model";
    EXPECT_EQ(form["cache_bytes_per_token"].get<int64_t>(),
              2 * plan["cache"][layout]["f16"]["bytes_per_token"].get<int64_t>());
  }
  EXPECT_EQ(json["forms"][2]["form"], "mha");
}

TEST(Compare, LayersOfOneWidthDifferInParametersAndCache) {
  const Json json = RunJson({"compare", "--layers", "--width", "128", "--heads", "4", "--head-dim",
                             "32", "--kv-heads", "2", "--rank", "64", "--rope-dim", "16",
                             "--depths", "0,16", "--json"});
  const Json& layers = json["layers"];
  ASSERT_EQ(layers.size(), 4);
  const int64_t q_and_o = 2 * 128 * 128;
  const std::vector<int64_t> parameters = {q_and_o + 2 * 128 * 128, q_and_o + 2 * 128 * 64,
                                           q_and_o + 2 * 128 * 32,
                                           128 * 4 * 48 + 128 * 80 + 64 * 4 * 64 + 128 * 128};
  const std::vector<int64_t> bytes = {2 * 2 * 128, 2 * 2 * 64, 2 * 2 * 32, 2 * 80};
  for (size_t i = 0; i < 4; ++i) {
    EXPECT_EQ(layers[i]["parameters"], parameters[i]);
    EXPECT_EQ(layers[i]["cache_bytes_per_token"], bytes[i]);
    EXPECT_EQ(layers[i]["decode"].size(), 2);
  }
}

TEST(Compare, TwoModelsOnOneText) {
  const TempDir dir;
  const std::string text = "Once upon a time there was a dog. The dog liked to run in the park.\n";
  const std::string file = dir.Write("text", text);
  const Json json =
      RunJson({"compare", kModel, kModel, "--file", file, "--json", "--compute", "f32"});
  const Json score = RunJson({"perplexity", kModel, "--file", file, "--compute", "f32", "--json"});
  ASSERT_EQ(json["texts"].size(), 2);
  for (const Json& run : json["texts"]) {
    EXPECT_NEAR(run["perplexity"].get<double>(), score["perplexity"].get<double>(), 1e-3);
    EXPECT_NEAR(run["bits_per_byte"].get<double>(),
                run["nll"].get<double>() / std::log(2.0) / static_cast<double>(text.size()), 1e-9);
  }
}

TEST(Compare, WritesOneSelfContainedPageWithMaps) {
  const TempDir dir;
  const std::string path = dir / "report.html";
  const ProcessResult run =
      RunMla(Quick({"--html", path, "--maps", "0:0,5:7", "--text", "The <cat> sat."}));
  EXPECT_EQ(run.status, 0) << run.err;
  const std::string html = ReadAll(path);
  for (const char* part : {"Layer 0, head 0", "Layer 5, head 7", "&lt;", "as plain MHA",
                           "Decode speed with depth", "where the forms cross", "</html>"}) {
    EXPECT_TRUE(Contains(html, part)) << part;
  }
  for (const char* part : {"<script", " src=", "<cat>", "<link"}) {
    EXPECT_FALSE(Contains(html, part)) << part;
  }
}

TEST(Compare, RefusesWhatMakesNoSense) {
  const auto refused = [&](const std::vector<std::string>& args, const std::string& part) {
    const ProcessResult result = RunMla(args);
    EXPECT_NE(result.status, 0);
    EXPECT_TRUE(Contains(result.err, part)) << result.err;
    EXPECT_EQ(result.out, "");
  };
  refused({"compare"}, "nothing to compare");
  refused({"compare", kModel, kModel}, "--file");
  refused(Quick({"--html", "/nowhere/x.html"}), "/nowhere");
  refused({"compare", kModel, "--depths", "100000"}, "100000");
  const TempDir dir;
  refused(Quick({"--html", dir / "x.html", "--maps", "3"}), "LAYER:HEAD");
  refused(Quick({"--html", dir / "x.html", "--maps", "99:0"}), "layer 99");
  refused(Quick({"--html", dir / "x.html", "--maps", "0:99"}), "head 99");
  refused({"compare", "--layers", "--heads", "4", "--kv-heads", "3"}, "--kv-heads");
}

// Every line that an example prints stands in the document, and every one runs.
TEST(Examples, PrintTheNumbersThatTheDocumentQuotes) {
  const std::string document = ReadAll(MLA_SOURCE_DIR "/docs/from-mha-to-mla.md");
  const std::string bin = std::filesystem::path(MLA_BINARY).parent_path().string();
  int programs = 0;
  for (const auto& entry : std::filesystem::directory_iterator(MLA_SOURCE_DIR "/examples")) {
    if (entry.path().extension() != ".cc") continue;
    const std::string name = entry.path().stem().string();
    SCOPED_TRACE(name);
    FILE* pipe = ::popen((bin + "/example_" + name).c_str(), "r");
    ASSERT_NE(pipe, nullptr);
    char line[256];
    int lines = 0;
    while (std::fgets(line, sizeof(line), pipe) != nullptr) {
      EXPECT_TRUE(Contains(document, line)) << line;
      ++lines;
    }
    EXPECT_EQ(::pclose(pipe), 0);
    EXPECT_GT(lines, 0);
    ++programs;
  }
  EXPECT_GE(programs, 3);
}

}  // namespace
}  // namespace mla::test
