// What `mla compare` measures and draws.
#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include "apps/html_check.h"
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

const std::string kLongText =
    "Once upon a time, a little girl named Lily found a red ball. She ran to the park and played.";

// A golden checkpoint beside the bundled model's tokenizer, with every id that the checkpoint does
// not have made one that it has.
void MakeModelWithTokenizer(const std::string& golden, const std::string& to) {
  std::filesystem::create_directory(to);
  for (const char* name : {"config.json", "model.safetensors"}) {
    std::filesystem::copy_file(golden + "/" + name, to + "/" + name);
  }
  Json tokenizer = Json::parse(ReadAll(kModel + "/tokenizer.json"));
  const int64_t vocab = Json::parse(ReadAll(golden + "/config.json"))["vocab_size"];
  Json& model = tokenizer["model"];
  for (auto item = model["vocab"].begin(); item != model["vocab"].end();) {
    item = item.value() >= vocab ? model["vocab"].erase(item) : std::next(item);
  }
  model["merges"] = Json::array();
  std::ofstream(to + "/tokenizer.json") << tokenizer.dump();
}

void ExpectRowsAddUpToOne(const Json& map) {
  const size_t n = map["tokens"].size();
  ASSERT_EQ(map["weights"].size(), n * n);
  for (size_t i = 0; i < n; ++i) {
    double sum = 0;
    for (size_t j = 0; j < n; ++j) {
      const double weight = map["weights"][i * n + j];
      if (j > i) {
        EXPECT_EQ(weight, 0);
      }
      sum += weight;
    }
    EXPECT_NEAR(sum, 1, 1e-4) << "row " << i;
  }
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

// Heads' keys and values are not kept in 8 bits: MHA runs beside int8 latents with bf16.
TEST(Compare, Int8LatentsBesideMhaInBf16) {
  const std::vector<std::string> args = Quick({"--kv-dtype", "int8"});
  const ProcessResult text = RunMla(args);
  EXPECT_EQ(text.status, 0) << text.err;
  EXPECT_TRUE(Contains(text.out, "have no int8 form: MHA's cache is bf16.")) << text.out;
  const Json forms = RunJson(Quick({"--kv-dtype", "int8", "--json"}))["forms"];
  ASSERT_EQ(forms.size(), 3);
  EXPECT_EQ(forms[0]["kv_dtype"], "int8");
  EXPECT_EQ(forms[1]["kv_dtype"], "int8");
  EXPECT_EQ(forms[2]["kv_dtype"], "bf16");
  EXPECT_LT(forms[2]["max_logit_difference"].get<double>(), 2);
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

// Dimensions from a config, a known name or a model; flags go before them.
TEST(Compare, LayersTakeTheDimensionsOfAModel) {
  const std::vector<std::string> tail = {"--layers", "--depths", "0", "--json"};
  const auto layers_of = [&](std::vector<std::string> args) {
    args.insert(args.end(), tail.begin(), tail.end());
    return RunJson(args);
  };
  const Json mla = layers_of({"compare", kModel + "/config.json"});
  const Json config = Json::parse(ReadAll(kModel + "/config.json"));
  const Json& dims = mla["layer_dimensions"];
  EXPECT_EQ(dims["width"], config["hidden_size"]);
  EXPECT_EQ(dims["heads"], config["num_attention_heads"]);
  EXPECT_EQ(dims["head_dim"], config["qk_nope_head_dim"]);
  EXPECT_EQ(dims["kv_lora_rank"], config["kv_lora_rank"]);
  EXPECT_EQ(dims["qk_rope_head_dim"], config["qk_rope_head_dim"]);
  EXPECT_EQ(dims["v_head_dim"], config["v_head_dim"]);
  EXPECT_FALSE(mla.contains("forms"));
  // The MLA layer is the model's own: its attention over six layers has six times the parameters.
  const Json plan = RunJson({"plan", kModel, "--json"});
  int64_t attention = 0;
  for (const auto& [kind, count] : plan["parameters"].items()) {
    if (kind.starts_with("attention")) attention += count["total"].get<int64_t>();
  }
  const int64_t num_layers = config["num_hidden_layers"];
  EXPECT_EQ(num_layers * mla["layers"][3]["parameters"].get<int64_t>(), attention);
  EXPECT_EQ(num_layers * mla["layers"][3]["cache_bytes_per_token"].get<int64_t>(),
            plan["cache"]["model"]["f16"]["bytes_per_token"]);

  const Json gqa = layers_of({"compare", MLA_SOURCE_DIR "/tests/golden/llama_gqa/config.json"});
  const Json llama = Json::parse(ReadAll(MLA_SOURCE_DIR "/tests/golden/llama_gqa/config.json"));
  EXPECT_EQ(gqa["layer_dimensions"]["heads"], llama["num_attention_heads"]);
  EXPECT_EQ(gqa["layer_dimensions"]["kv_heads"], llama["num_key_value_heads"]);
  EXPECT_EQ(gqa["layer_dimensions"]["kv_lora_rank"],
            4 * gqa["layer_dimensions"]["head_dim"].get<int64_t>());

  const Json known = layers_of({"compare", "minicpm3-4b", "--width", "64", "--heads", "4"});
  EXPECT_EQ(known["layer_dimensions"]["width"], 64);
  EXPECT_EQ(known["layer_dimensions"]["heads"], 4);
  EXPECT_EQ(known["layer_dimensions"]["kv_lora_rank"], 256);
  EXPECT_EQ(known["layer_dimensions"]["q_lora_rank"], 768);

  const Json both = RunJson(Quick({"--layers", "--json"}));
  EXPECT_EQ(both["forms"].size(), 3);
  EXPECT_EQ(both["layer_dimensions"], dims);
}

TEST(Compare, TwoModelsOnOneText) {
  const TempDir dir;
  const std::string text = "Once upon a time there was a dog. The dog liked to run in the park.\n";
  const std::string file = dir.Write("text", text);
  const Json json = RunJson({"compare", kModel, kModel, "--file", file, "--json", "--compute",
                             "f32", "--depths", "0,20"});
  const Json score = RunJson({"perplexity", kModel, "--file", file, "--compute", "f32", "--json"});
  ASSERT_EQ(json["texts"].size(), 2);
  for (const Json& run : json["texts"]) {
    EXPECT_NEAR(run["perplexity"].get<double>(), score["perplexity"].get<double>(), 1e-3);
    EXPECT_EQ(run["tokens"], score["predicted_tokens"]);
    EXPECT_NEAR(run["bits_per_byte"].get<double>(),
                run["nll"].get<double>() / std::log(2.0) / static_cast<double>(text.size()), 1e-9);
    ASSERT_EQ(run["decode"].size(), 2);
    EXPECT_GT(run["decode"][1]["tokens_per_second"], 0);
  }
}

// Texts between separators are scored each from nothing, as `mla perplexity` does.
TEST(Compare, SeveralTextsInOneFile) {
  const TempDir dir;
  const std::string file = dir.Write("texts", "One day a cat sat. <eot> Lily had a ball.\n<eot>\n");
  const Json json = RunJson({"compare", kModel, "--file", file, "--separator", "<eot>", "--json",
                             "--compute", "f32", "--depths", "0"});
  const Json score = RunJson(
      {"perplexity", kModel, "--file", file, "--separator", "<eot>", "--compute", "f32", "--json"});
  ASSERT_EQ(json["texts"].size(), 1);
  EXPECT_EQ(json["texts"][0]["tokens"], score["predicted_tokens"]);
  EXPECT_NEAR(json["texts"][0]["perplexity"].get<double>(), score["perplexity"].get<double>(),
              1e-3);
}

// An MHA model against an MLA one, with windows of the shorter context.
TEST(Compare, AnMhaModelBesideAnMlaOne) {
  const std::string other = MLA_SOURCE_DIR "/../shared/models/stories15m";
  if (!std::filesystem::exists(other)) GTEST_SKIP() << other << " is not there";
  const TempDir dir;
  const std::string text = ReadAll(MLA_SOURCE_DIR "/tests/data/stories-mla-9m.validation.txt");
  const std::string file = dir.Write("text", text.substr(0, 4000));
  const std::string html = dir / "report.html";
  const Json json =
      RunJson({"compare", other, kModel, "--file", file, "--separator", "<|endoftext|>", "--json",
               "--html", html, "--depths", "0,100", "-n", "2"});
  ASSERT_EQ(json["texts"].size(), 2);
  for (const Json& run : json["texts"]) {
    EXPECT_EQ(run["context"], 256);
    EXPECT_GT(run["bits_per_byte"], 0.3);
    EXPECT_LT(run["bits_per_byte"], 1.0);
  }
  // 6 layers of 288 numbers, keys and values; 6 of 64 + 16: in bf16 or f32.
  const int64_t mha = json["texts"][0]["cache_bytes_per_token"];
  const int64_t mla = json["texts"][1]["cache_bytes_per_token"];
  EXPECT_EQ(mha * RunJson({"plan", kModel, "--json"})["cache"]["model"]["f16"]["bytes_per_token"]
                      .get<int64_t>(),
            mla * 2 * 2 * 6 * 288);
  const std::string page = ReadAll(html);
  ExpectSelfContainedPage(page);
  for (const char* part : {"Bits per byte of text", "Cache of a text", "Layer 0, head 0"}) {
    EXPECT_TRUE(Contains(page, part)) << part;
  }
}

// Models that choose the tokens they attend to, in texts longer than their choice.
TEST(Compare, SparseAttentionRunsInEveryForm) {
  const TempDir dir;
  for (const std::string name : {"deepseek_v32", "glm_moe_dsa"}) {
    SCOPED_TRACE(name);
    // The golden checkpoints have no tokenizer: the bundled model's, in a vocabulary cut to theirs.
    const std::string model = dir / name;
    MakeModelWithTokenizer(MLA_SOURCE_DIR "/tests/golden/" + name, model);
    const std::string html = dir / (name + ".html");
    const Json json =
        RunJson({"compare", model, "--depths", "0,40", "-n", "4", "--repetitions", "1", "--context",
                 "128", "--json", "--compute", "f32", "--html", html, "--text", kLongText});
    ASSERT_EQ(json["forms"].size(), 3);
    EXPECT_GT(json["prompt_tokens"], 20);  // than their 12 and 10
    EXPECT_EQ(json["same_tokens"], true);
    for (const Json& form : json["forms"]) {
      EXPECT_LT(form["max_logit_difference"].get<double>(), 1e-2) << form["form"];
    }
    EXPECT_TRUE(Contains(ReadAll(html), "chosen tokens at most"));
    const Json config = Json::parse(ReadAll(model + "/config.json"));
    for (const Json& map : json["maps"]) {
      ExpectRowsAddUpToOne(map);
      // A row has weights at the chosen tokens alone.
      const size_t n = map["tokens"].size();
      for (size_t i = 0; i < n; ++i) {
        const auto row = map["weights"].begin() + static_cast<ptrdiff_t>(i * n);
        const auto seen = std::count_if(row, row + static_cast<ptrdiff_t>(n),
                                        [](const Json& weight) { return weight > 0; });
        EXPECT_EQ(seen, std::min<int64_t>(static_cast<int64_t>(i) + 1, config["index_topk"]));
      }
    }
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
                           "Decode speed with depth", "Where the forms cross", "</html>"}) {
    EXPECT_TRUE(Contains(html, part)) << part;
  }
  EXPECT_FALSE(Contains(html, "<cat>"));
  ExpectSelfContainedPage(html);
}

// What a user may type.
TEST(Compare, MapsOfOddTexts) {
  const auto maps_of = [](const std::string& text) {
    return RunJson(Quick({"--json", "--maps", "0:0,2:3", "--text", text}))["maps"];
  };
  const Json emoji = maps_of("Hi \U0001F600!");
  ASSERT_EQ(emoji.size(), 2);
  const std::string tokens = emoji[0]["tokens"].dump();
  EXPECT_TRUE(Contains(tokens, "\U0001F600 1/")) << tokens;
  EXPECT_FALSE(Contains(tokens, "\uFFFD")) << tokens;
  ExpectRowsAddUpToOne(emoji[1]);

  const Json spaces = maps_of("a    b\tc\n\nd");
  for (const Json& token : spaces[0]["tokens"]) EXPECT_FALSE(token.get<std::string>().empty());

  std::string story;
  for (int i = 0; i < 400; ++i) story += "The dog ran to the big tree. ";
  const ProcessResult run = RunMla(Quick({"--json", "--maps", "0:0", "--text", story}));
  ASSERT_EQ(run.status, 0) << run.err;
  const Json json = Json::parse(run.out);
  EXPECT_EQ(json["maps"][0]["tokens"].size(), 48);
  ExpectRowsAddUpToOne(json["maps"][0]);
  EXPECT_EQ(json["prompt_tokens"], 64 - 24);  // the context, with room for the continuation
  const TempDir dir;
  const std::string html = dir / "long.html";
  const ProcessResult text = RunMla(Quick({"--html", html, "--text", story}));
  EXPECT_TRUE(Contains(text.out, "The prompt is the first 40 of ")) << text.out;
  EXPECT_TRUE(Contains(ReadAll(html), "The first 48 of the text"));
  ExpectSelfContainedPage(ReadAll(html));
}

TEST(Compare, AReportThatCannotBeWrittenLosesNothing) {
  const TempDir dir;
  ASSERT_EQ(::setenv("TMPDIR", dir.path().c_str(), 1), 0);
  const ProcessResult run = RunMla(Quick({"--html", "/dev/full"}));
  ::unsetenv("TMPDIR");
  EXPECT_EQ(run.status, 1);
  EXPECT_TRUE(Contains(run.out, "Decode, tokens per second")) << run.out;
  EXPECT_TRUE(Contains(run.err, "/dev/full")) << run.err;
  EXPECT_TRUE(Contains(run.err, "the report is in " + dir.path())) << run.err;
}

TEST(Compare, RefusesWhatMakesNoSense) {
  const auto refused = [&](const std::vector<std::string>& args, const std::string& part) {
    const ProcessResult result = RunMla(args);
    EXPECT_NE(result.status, 0);
    EXPECT_TRUE(IsOneLine(result.err)) << result.err;
    EXPECT_TRUE(Contains(result.err, part)) << result.err;
    EXPECT_EQ(result.out, "");
  };
  refused({"compare"}, "nothing to compare");
  refused({"compare", kModel, kModel}, "--file");
  refused(Quick({"--html", "/nowhere/x.html"}), "/nowhere");
  refused({"compare", kModel, "--depths", "100000"}, "100000");
  const TempDir dir;
  refused(Quick({"--html", dir / "x.html", "--maps", "3"}), "LAYER:HEAD");
  refused(Quick({"--html", dir / "x.html", "--maps", "0:1:2"}), "--maps");
  refused(Quick({"--html", dir / "x.html", "--maps", "0 1:2"}), "LAYER:HEAD");
  refused(Quick({"--html", dir / "x.html", "--maps", "99:0"}), "layer 99");
  refused(Quick({"--html", dir / "x.html", "--maps", "0:99"}), "head 99");
  refused(Quick({"--html", dir / "x.html", "--maps", "-1:0"}), "-1");
  refused(Quick({"--maps", "0:0"}), "nowhere to go");
  refused(Quick({"--text", ""}), "--text is empty");
  refused(Quick({"--text", "\xff"}), "UTF-8");
  refused(Quick({"--attention", "mha"}), "--attention");
  refused(Quick({"--separator", "x"}), "--separator");
  refused({"compare", "--layers", "--heads", "4", "--kv-heads", "3"}, "--kv-heads");
  const std::vector<std::pair<std::string, std::string>> useless = {
      {"--context", "3"},       {"--kv-dtype", "f32"},    {"--page-size", "8"},
      {"--compute", "f32"},     {"--prefill-chunk", "9"}, {"--quantize", "q4"},
      {"--decode-tokens", "2"}, {"--repetitions", "2"},   {"--text", "Once"}};
  for (const auto& [flag, value] : useless) {
    refused({"compare", "--layers", flag, value}, flag + " changes nothing");
    refused({"compare", "deepseek-v3", "--layers", flag, value}, flag + " changes nothing");
  }
  refused(Quick({"--rope-dim", "16"}), "--rope-dim is of --layers");
  refused({"compare", "--layers", "--head-dim", "3"}, "--head-dim");
  refused({"compare", "--layers", "--width", "16384", "--heads", "256", "--head-dim", "1024",
           "--depths", "1048575"},
          "available");
  refused({"compare", "deepsek-v3", "--layers"}, "deepseek-v3");
  refused({"compare", "deepseek-v3"}, "has dimensions and no weights");
  refused({"compare", "./nothing", "--layers"}, "no such file");
}

}  // namespace
}  // namespace mla::test
