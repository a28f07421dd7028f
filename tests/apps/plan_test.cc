// What `mla plan` says.
#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <string>
#include <vector>

#include "apps/html_check.h"
#include "apps/process.h"

namespace mla::test {
namespace {

using Json = nlohmann::json;

TEST(Plan, AgreesWithInspectOnEveryGoldenModel) {
  int models = 0;
  for (const auto& entry : std::filesystem::directory_iterator(MLA_SOURCE_DIR "/tests/golden")) {
    const std::string dir = entry.path().string();
    SCOPED_TRACE(dir);
    const ProcessResult inspected = RunMla({"inspect", dir, "--json", "--kv-dtype", "bf16"});
    ASSERT_EQ(inspected.status, 0) << inspected.err;
    const Json inspect = Json::parse(inspected.out);
    const Json plan = RunJson({"plan", dir, "--json"});
    ASSERT_GT(plan["parameters"]["all"]["total"], 0);
    EXPECT_EQ(plan["parameters"], inspect["parameters"]);
    const Json& cache = inspect["cache"];
    EXPECT_EQ(plan["cache"]["model"]["f16"]["bytes_per_token"], cache["bytes_per_token"]);
    EXPECT_EQ(plan["cache"]["mha"]["f16"]["bytes_per_token"], cache["mha_bytes_per_token"]);
    EXPECT_EQ(plan["cache"]["gqa8"]["f16"]["bytes_per_token"], cache["gqa8_bytes_per_token"]);
    EXPECT_EQ(plan["cache"]["mqa"]["f16"]["bytes_per_token"], cache["mqa_bytes_per_token"]);
    ++models;
  }
  EXPECT_GE(models, 19);
}

TEST(Plan, ShowsTheFiguresOfDeepseekV3) {
  const ProcessResult plan = RunMla({"plan", "deepseek-v3", "--context", "131072", "--batch", "64",
                                     "--machine", "H200", "--memory", "1128GB"});
  EXPECT_EQ(plan.status, 0) << plan.err;
  for (const char* part : {"671.0 B", "37.6 B", "35.7 B", "70,272", "1 extra prediction layer",
                           "40,016", "64 x 131,072", "absorbed", "as plain MHA", "H200"}) {
    EXPECT_TRUE(Contains(plan.out, part)) << part << " in\n" << plan.out;
  }
  const Json json = RunJson({"plan", "deepseek-v3", "--json", "--memory", "80GiB"});
  EXPECT_EQ(json["weights"], "fp8");
  for (const Json& fit : json["fits"]) EXPECT_FALSE(fit["weights_fit"]);
}

TEST(Plan, ShowsTheFiguresOfOtherReleasedModels) {
  EXPECT_TRUE(Contains(RunMla({"plan", "deepseek-v2-lite"}).out, "15.7 B"));
  const Json llama = RunJson({"plan", "llama-2-70b", "--json"});
  EXPECT_EQ(llama["cache"]["model"]["f16"]["bytes_per_token"], 320 * 1024);
  EXPECT_EQ(llama["cache"]["gqa8"], llama["cache"]["model"]);
  EXPECT_TRUE(llama["parameters"]["head"]["total"] == 32000 * 8192);
  const Json v3 =
      RunJson({"plan", "deepseek-v3", "--json", "--context", "131072", "--batch", "64"});
  EXPECT_EQ(v3["cache"]["model"]["f16"]["bytes_per_token"], 61 * 576 * 2);
  EXPECT_EQ(v3["cache"]["model"]["f16"]["total_bytes"], int64_t{70272} * 131072 * 64);
  EXPECT_EQ(v3["cache"]["model"]["fp8"]["bytes_per_token"], 61 * 656);
  EXPECT_EQ(v3["parameters"]["all"]["total"].get<int64_t>() / 1000000000, 671);
  EXPECT_EQ(v3["extra_prediction_layers"]["layers"], 1);
}

TEST(Plan, HoldsAPlanAgainstThisMachineAsMeasured) {
  const Json json = RunJson({"plan", kModel, "--machine", "this", "--json", "--context", "512"});
  ASSERT_EQ(json["floors"].size(), 6);  // prefill and decode, in three forms
  for (size_t i = 0; i < json["floors"].size(); ++i) {
    const Json& floor = json["floors"][i];
    const Json& step = json["steps"][i];
    const double bandwidth = floor["bytes_per_second"];
    const double flops = floor["flops"];
    EXPECT_GT(bandwidth, 1e8);
    EXPECT_LT(bandwidth, 1e13);
    EXPECT_GT(flops, 1e8);
    EXPECT_LT(flops, 1e15);
    const double bytes = step["weight_bytes"].get<double>() + step["cache_bytes"].get<double>();
    const double seconds = std::max(bytes / bandwidth, step["flops"].get<double>() / flops);
    EXPECT_NEAR(floor["tokens_per_second"].get<double>() * seconds / step["tokens"].get<double>(),
                1, 1e-9);
  }
  // All of this machine's memory is there to be filled.
  ASSERT_EQ(json["fits"].size(), 12);
  EXPECT_GT(json["fits"][0]["memory_bytes"], int64_t{1} << 28);
  EXPECT_EQ(json["fits"][0]["weights_fit"], true);
  const ProcessResult text = RunMla({"plan", kModel, "--machine", "this", "--context", "512"});
  EXPECT_TRUE(Contains(text.out, "measured now")) << text.out;
}

TEST(Plan, NamesMachinesFreely) {
  for (const char* name : {"H200", "h100", "A100", "L40S", "RTX 4090", "rtx4090"}) {
    const ProcessResult plan = RunMla({"plan", "llama-2-7b", "--machine", name});
    EXPECT_EQ(plan.status, 0) << plan.err;
  }
}

TEST(Plan, FitsAreTheLargestThatFit) {
  const Json json = RunJson(
      {"plan", "llama-2-70b", "--json", "--memory", "160GB", "--context", "4096", "--batch", "2"});
  const int64_t weights = json["weight_bytes"]["bf16"];
  const Json& fit = json["fits"][0];
  const int64_t context = fit["max_context"];
  const int64_t batch = fit["max_batch"];
  EXPECT_LE(weights + 2 * context * 327680, 160000000000);
  EXPECT_GT(weights + 2 * (context + 1) * 327680, 160000000000);
  EXPECT_LE(weights + batch * 4096 * 327680, 160000000000);
  EXPECT_GT(weights + (batch + 1) * 4096 * 327680, 160000000000);
}

TEST(Plan, FloorsFollowFromTheMachine) {
  const Json json = RunJson(
      {"plan", "llama-2-7b", "--json", "--bandwidth", "100", "--flops", "1", "--context", "1000"});
  const Json& step = json["steps"][1];
  ASSERT_EQ(step["step"], "decode");
  const double bytes = step["weight_bytes"].get<double>() + step["cache_bytes"].get<double>();
  const Json& floor = json["floors"][1];
  EXPECT_NEAR(floor["tokens_per_second"].get<double>(), 100e9 / bytes, 1e-6);
  EXPECT_EQ(floor["bound_by"], "memory");
  EXPECT_EQ(json["floors"][0]["bound_by"], "arithmetic");
}

TEST(Plan, ReadsNestedAndQuantisedConfigs) {
  const TempDir dir;
  const std::string text = ReadAll(kModel + "/config.json");
  Json inner = Json::parse(text);
  inner["quantization_config"] = {{"quant_method", "fp8"}};
  const Json nested = {{"model_type", "some_wrapper"}, {"text_config", inner}};
  const Json plan = RunJson({"plan", dir.Write("config.json", nested.dump()), "--json"});
  EXPECT_EQ(plan["weights"], "fp8");
  EXPECT_EQ(plan["parameters"], RunJson({"plan", kModel, "--json"})["parameters"]);
}

TEST(Plan, SaysWhenTheReleaseIsStoredInAnotherWay) {
  const TempDir dir;
  Json config = Json::parse(ReadAll(kModel + "/config.json"));
  config["quantization_config"] = {{"quant_method", "modelopt"}};
  const std::string path = dir.Write("config.json", config.dump());
  const ProcessResult plan = RunMla({"plan", path});
  EXPECT_TRUE(Contains(plan.out, "bf16 (planned with)")) << plan.out;
  EXPECT_TRUE(Contains(plan.out, "quantised otherwise (modelopt)")) << plan.out;
}

// Nothing is lost: the table is printed, and the report is kept where there is room.
TEST(Plan, AReportThatCannotBeWrittenLosesNothing) {
  const TempDir dir;
  const std::string path = dir / "plan.svg";
  ASSERT_EQ(::setenv("TMPDIR", dir.path().c_str(), 1), 0);
  const ProcessResult plan =
      RunMla({"plan", "deepseek-v2-lite", "--html", "/dev/full", "--svg", path});
  ::unsetenv("TMPDIR");
  EXPECT_EQ(plan.status, 1);
  EXPECT_TRUE(Contains(plan.out, "15.7 B"));
  EXPECT_TRUE(IsOneLine(plan.err)) << plan.err;
  EXPECT_TRUE(Contains(plan.err, "/dev/full")) << plan.err;
  EXPECT_TRUE(ReadAll(path).starts_with("<svg"));
  const std::string mark = "the report is in ";
  const size_t begin = plan.err.find(mark);
  ASSERT_NE(begin, std::string::npos) << plan.err;
  const std::string copy = plan.err.substr(begin + mark.size());
  EXPECT_TRUE(ReadAll(copy.substr(0, copy.size() - 1)).ends_with("</html>\n")) << copy;
}

TEST(Plan, ListsWhatItKnows) {
  const Json list = RunJson({"plan", "--list", "--json"});
  const ProcessResult text = RunMla({"plan", "--list"});
  ASSERT_GT(list.size(), 5);
  for (const Json& known : list) {
    EXPECT_TRUE(Contains(text.out, known["name"].get<std::string>())) << known;
    EXPECT_TRUE(Contains(text.out, known["source"].get<std::string>())) << known;
  }
}

TEST(Plan, CountsABf16CacheAsF16) {
  const Json f16 = RunJson({"plan", "deepseek-v3", "--kv-dtype", "f16", "--json"});
  EXPECT_EQ(RunJson({"plan", "deepseek-v3", "--kv-dtype", "bf16", "--json"}), f16);
  EXPECT_NE(RunJson({"plan", "deepseek-v3", "--kv-dtype", "fp8", "--json"}), f16);
}

TEST(Plan, RefusesWhatItCannotCount) {
  const TempDir dir;
  const auto refused = [&](const std::vector<std::string>& args, const std::string& part) {
    const ProcessResult result = RunMla(args);
    EXPECT_NE(result.status, 0);
    EXPECT_TRUE(IsOneLine(result.err)) << result.err;
    EXPECT_TRUE(Contains(result.err, part)) << result.err;
    EXPECT_EQ(result.out, "");
  };
  refused({"plan", "lama-2-70b"}, "llama-2-70b");
  refused({"plan", "./nothing"}, "no such file");
  refused({"plan", "llama-2-70b", "--memory", "80"}, "80GiB");
  refused({"plan", "llama-2-70b", "--machine", "H900"}, "H200, H100");
  refused({"plan", "llama-2-70b", "--context", "1099511627776", "--batch", "1099511627776"},
          "2^63");
  refused({"plan", "llama-2-70b", "--html", "/nowhere/x.html"}, "/nowhere");
  refused({"plan", dir.Write("a.json", R"({"model_type": "novel_net"})")}, "novel_net");
  Json config = Json::parse(ReadAll(kModel + "/config.json"));
  config.erase("kv_lora_rank");
  refused({"plan", dir.Write("b.json", config.dump())}, "kv_lora_rank is missing");
  config["kv_lora_rank"] = 1e18;
  refused({"plan", dir.Write("d.json", config.dump())}, "kv_lora_rank is 1");
  config = Json::parse(ReadAll(kModel + "/config.json"));
  config["model_type"] = "deepseek_v4";  // known by name, with what it takes
  refused({"plan", dir.Write("e.json", config.dump())}, "it needs compressed attention");
  config = Json::parse(ReadAll(kModel + "/config.json"));
  for (const char* key : {"vocab_size", "hidden_size", "intermediate_size", "kv_lora_rank",
                          "moe_intermediate_size", "v_head_dim", "qk_nope_head_dim"}) {
    config[key] = 1 << 20;
  }
  config["num_hidden_layers"] = 4096;
  config["num_attention_heads"] = 4096;
  config["n_routed_experts"] = 65536;
  refused({"plan", dir.Write("f.json", config.dump())}, "2^63");
  refused({"plan", dir.Write("c.json", "[1]")}, "object");
}

TEST(Plan, WritesOneSelfContainedPage) {
  const TempDir dir;
  const std::string path = dir / "plan.html";
  EXPECT_EQ(RunMla({"plan", "deepseek-v2-lite", "--html", path}).status, 0);
  const std::string html = ReadAll(path);
  ExpectSelfContainedPage(html);
  EXPECT_TRUE(Contains(html, "<svg class=\"chart\""));
  EXPECT_TRUE(Contains(html, "15.7 B"));
  EXPECT_TRUE(Contains(html, "MLA, 16 heads"));
}

}  // namespace
}  // namespace mla::test
