// What `mla plan` says.
#include <filesystem>
#include <string>
#include <vector>

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
    EXPECT_EQ(plan["parameters"], inspect["parameters"]);
    const Json& cache = inspect["cache"];
    EXPECT_EQ(plan["cache"]["model"]["f16"]["bytes_per_token"], cache["bytes_per_token"]);
    EXPECT_EQ(plan["cache"]["mha"]["f16"]["bytes_per_token"], cache["mha_bytes_per_token"]);
    EXPECT_EQ(plan["cache"]["gqa8"]["f16"]["bytes_per_token"], cache["gqa8_bytes_per_token"]);
    EXPECT_EQ(plan["cache"]["mqa"]["f16"]["bytes_per_token"], cache["mqa_bytes_per_token"]);
    ++models;
  }
  EXPECT_GE(models, 8);
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
  refused({"plan", dir.Write("b.json", config.dump())}, "kv_lora_rank");
  refused({"plan", dir.Write("c.json", "[1]")}, "object");
}

TEST(Plan, WritesOneSelfContainedPage) {
  const TempDir dir;
  const std::string path = dir / "plan.html";
  EXPECT_EQ(RunMla({"plan", "deepseek-v2-lite", "--html", path}).status, 0);
  const std::string html = ReadAll(path);
  EXPECT_TRUE(html.starts_with("<!DOCTYPE html>"));
  EXPECT_TRUE(Contains(html, "</html>"));
  EXPECT_TRUE(Contains(html, "<svg class=\"chart\""));
  EXPECT_TRUE(Contains(html, "prefers-color-scheme:dark"));
  for (const char* part : {"<script", " src=", "<link", "url("}) {
    EXPECT_FALSE(Contains(html, part)) << part;
  }
}

}  // namespace
}  // namespace mla::test
