// What each subcommand prints and writes.
#include <poll.h>
#include <pty.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <string>
#include <vector>

#include "apps/process.h"
#include "io/safetensors.h"
#include "kernels/cpu/isa.h"

namespace mla::test {
namespace {

using Json = nlohmann::json;

std::vector<std::string> Greedy(const std::string& prompt, int tokens) {
  return {"run",           kModel, "-p",        prompt, "-n",    std::to_string(tokens),
          "--temperature", "0",    "--compute", "f32",  "--json"};
}

TEST(Help, EveryCommandShowsExamples) {
  const ProcessResult overview = RunMla({"--help"});
  EXPECT_EQ(overview.status, 0);
  EXPECT_TRUE(Contains(overview.out, "Examples:"));
  for (const std::string command : {"run", "chat", "logits", "perplexity", "tokenize", "inspect",
                                    "quantize", "bench", "plan", "compare"}) {
    EXPECT_TRUE(Contains(overview.out, Concat("\n  ", command, " "))) << command;
    const ProcessResult help = RunMla({command, "--help"});
    EXPECT_EQ(help.status, 0);
    EXPECT_EQ(help.err, "");
    const size_t examples = help.out.find("Examples:\n");
    ASSERT_NE(examples, std::string::npos) << help.out;
    EXPECT_TRUE(Contains(help.out.substr(examples), Concat("mla ", command, " "))) << help.out;
  }
  const ProcessResult version = RunMla({"--version"});
  EXPECT_EQ(version.status, 0);
  EXPECT_TRUE(version.out.starts_with("mla 0.")) << version.out;
  EXPECT_EQ(RunMla({}).status, 2);
}

TEST(Run, GreedyContinuationIsTheExpectedOne) {
  const Json expected = ExpectedJson();
  const std::string prompt = expected["prompt"];
  const size_t total = expected["greedy_ids"].size();
  const size_t given = expected["input_ids"].size();
  const Json json = RunJson(Greedy(prompt, static_cast<int>(total - given)));
  Json ids = json["prompt_ids"];
  EXPECT_EQ(ids, expected["input_ids"]);
  ids.insert(ids.end(), json["ids"].begin(), json["ids"].end());
  EXPECT_EQ(ids, expected["greedy_ids"]);
  EXPECT_EQ(prompt + json["text"].get<std::string>(), expected["greedy_text"]);
  EXPECT_EQ(json["stats"]["prompt_tokens"], given);
  EXPECT_EQ(json["stats"]["generated_tokens"], total - given);
  EXPECT_EQ(json["stats"]["compute"], "f32");
  // 6 layers of 64 + 16 numbers, against 8 heads of 32 + 16 + 32; the last token is not cached.
  EXPECT_EQ(json["stats"]["cache_bytes"], (total - 1) * 6 * 80 * 4);
  EXPECT_EQ(json["stats"]["mha_cache_bytes"], (total - 1) * 6 * 8 * 80 * 4);
}

TEST(Run, StreamsThePromptAndTheTextAndReports) {
  const Json expected = ExpectedJson();
  const std::string prompt = expected["prompt"];
  const std::vector<std::string> args = {
      "run",           kModel, "-p",        prompt, "-n",        "20",
      "--temperature", "0",    "--compute", "f32",  "--threads", "1"};
  const ProcessResult run = RunMla(args);
  EXPECT_EQ(run.status, 0);
  EXPECT_TRUE(run.out.starts_with(prompt + " loved to play outside")) << run.out;
  EXPECT_TRUE(expected["greedy_text"].get<std::string>().starts_with(
      run.out.substr(0, run.out.size() - 1)));
  for (const char* part : {"prefill 15 tokens", "decode 20 tokens", "tokens/s", "KV cache: 34",
                           "MHA with the same heads", "8.0 times", "compute f32", "1 thread"}) {
    EXPECT_TRUE(Contains(run.err, part)) << part << " in " << run.err;
  }
  std::vector<std::string> quiet = args;
  quiet.emplace_back("--no-echo");
  EXPECT_EQ(prompt + RunMla(quiet).out, run.out);
}

TEST(Run, EveryFormPageSizeAndThreadCountContinuesAlike) {
  const Json expected = RunJson(Greedy("One day, a dragon", 40))["ids"];
  for (const std::vector<std::string>& flags :
       std::vector<std::vector<std::string>>{{"--attention", "absorbed"},
                                             {"--attention", "expanded"},
                                             {"--page-size", "1"},
                                             {"--page-size", "256"},
                                             {"--threads", "1"},
                                             {"--threads", "3"},
                                             {"--prefill-chunk", "3"},
                                             {"--context", "64"}}) {
    std::vector<std::string> args = Greedy("One day, a dragon", 40);
    args.insert(args.end(), flags.begin(), flags.end());
    EXPECT_EQ(RunJson(args)["ids"], expected) << flags[0] << " " << flags[1];
  }
}

TEST(Run, PromptComesFromStandardInputOrNowhere) {
  ProcessOptions piped;
  piped.input = "One day, a dragon\n";
  std::vector<std::string> args = Greedy("", 8);
  args.erase(args.begin() + 2, args.begin() + 4);  // -p and its text
  EXPECT_EQ(RunJson(args, piped)["ids"], RunJson(Greedy("One day, a dragon", 8))["ids"]);
  EXPECT_EQ(RunJson(args)["prompt_ids"], Json::array({0}));  // BOS alone
  EXPECT_EQ(RunJson(Greedy("", 8))["prompt_ids"], Json::array({0}));
}

TEST(Run, SeedsRepeatAText) {
  const auto text = [](const std::vector<std::string>& flags) {
    std::vector<std::string> args = {"run", kModel, "-p", "Once", "-n", "40", "--json"};
    args.insert(args.end(), flags.begin(), flags.end());
    return RunJson(args);
  };
  const Json first = text({"--seed", "17"});
  EXPECT_EQ(first["text"], text({"--seed", "17"})["text"]);
  EXPECT_NE(first["text"], text({"--seed", "18"})["text"]);
  // The model's own defaults, and a random seed that repeats the text when given.
  EXPECT_EQ(first["sampling"]["temperature"], 0.7);
  EXPECT_EQ(first["sampling"]["top_p"], 0.95);
  const Json random = text({"--top-k", "50"});
  const std::string seed = random["sampling"]["seed"].dump();
  EXPECT_EQ(random["text"], text({"--top-k", "50", "--seed", seed})["text"]);
}

TEST(Run, SpecialTokensThatAreTypedStayText) {
  const std::string bos = "<\uff5cbegin\u2581of\u2581sentence\uff5c>";
  const Json json = RunJson(Greedy(bos, 1));
  const std::vector<int32_t> ids = json["prompt_ids"];
  ASSERT_GT(ids.size(), 2U);
  EXPECT_EQ(std::count(ids.begin(), ids.end(), 0), 1);  // the one that begins every text
  const Json special = RunJson({"tokenize", kModel, "--special", "--json", bos});
  EXPECT_EQ(special["ids"], Json::array({0}));
}

TEST(Run, StopsWhenTheContextIsFull) {
  std::vector<std::string> args = Greedy("Once upon a time", 100);
  args.insert(args.end(), {"--context", "16", "--ignore-eos"});
  const Json json = RunJson(args);
  EXPECT_EQ(json["stats"]["stop_reason"], "context");
  EXPECT_EQ(json["stats"]["cache_tokens"], 16);
}

TEST(Run, InterruptEndsTheTextWithStatistics) {
  ProcessOptions options;
  options.on_first_output = ProcessOptions::OnOutput::kInterrupt;
  const ProcessResult run = RunMla({"run", kModel, "-p", "Once", "--ignore-eos", "--temperature",
                                    "0", "--compute", "f32", "--threads", "1"},
                                   options);
  EXPECT_EQ(run.status, 0) << run.err;
  EXPECT_TRUE(Contains(run.err, "stopped: cancelled")) << run.err;
  EXPECT_TRUE(Contains(run.err, "tokens/s")) << run.err;
}

TEST(Run, AReaderThatLeavesIsNoError) {
  ProcessOptions options;
  options.on_first_output = ProcessOptions::OnOutput::kClose;
  const ProcessResult run =
      RunMla({"run", kModel, "-p", "Once", "--ignore-eos", "--threads", "1"}, options);
  EXPECT_EQ(run.status, 0);
  EXPECT_EQ(run.err, "");
}

TEST(Chat, KeepsItsCacheBetweenTurns) {
  ProcessOptions options;
  options.input = "Once upon a time\n/stats\nThe next day\n/reset\nHello\n/nonsense\n/quit\nno\n";
  const ProcessResult chat =
      RunMla({"chat", kModel, "-n", "8", "--temperature", "0", "--compute", "f32"}, options);
  EXPECT_EQ(chat.status, 0) << chat.err;
  const Json first = RunJson({"tokenize", kModel, "--bos", "--json", "Once upon a time"});
  const size_t kept = first["ids"].size() + 7;  // the eighth token runs with the next turn
  EXPECT_TRUE(chat.err.starts_with("[0 tokens kept")) << chat.err;
  EXPECT_TRUE(Contains(chat.err, Concat("KV cache: ", kept, " tokens"))) << chat.err;
  EXPECT_TRUE(Contains(chat.err, Concat("[", kept, " tokens kept"))) << chat.err;
  EXPECT_TRUE(Contains(chat.err, "forgotten")) << chat.err;
  EXPECT_TRUE(Contains(chat.err, "/nonsense")) << chat.err;
  // After /reset a turn is a first turn again.
  const Json hello = RunJson(Greedy("Hello", 8));
  EXPECT_TRUE(chat.out.ends_with(hello["text"].get<std::string>() + "\n")) << chat.out;
}

TEST(Chat, AFullContextLosesNothing) {
  ProcessOptions options;
  options.input = "Once upon a time\nThere was a little girl\n/stats\n/reset\nHello\n";
  const ProcessResult chat =
      RunMla({"chat", kModel, "--context", "12", "--ignore-eos", "--temperature", "0"}, options);
  EXPECT_EQ(chat.status, 0) << chat.err;
  EXPECT_TRUE(Contains(chat.err, "the context of 12 tokens is full")) << chat.err;
  EXPECT_TRUE(Contains(chat.err, "has room for 0; /reset")) << chat.err;
  EXPECT_TRUE(Contains(chat.err, "\nKV cache: 12 tokens")) << chat.err;
  EXPECT_EQ(std::count(chat.out.begin(), chat.out.end(), '\n'), 2) << chat.out;  // two answers
}

TEST(Chat, EditsLinesOnATerminal) {
  int terminal = -1;
  const pid_t pid = ::forkpty(&terminal, nullptr, nullptr, nullptr);
  ASSERT_GE(pid, 0);
  if (pid == 0) {
    ::setenv("TERM", "xterm", 1);
    ::execl(MLA_BINARY, "mla", "chat", kModel.c_str(), "-n", "3", nullptr);
    ::_exit(121);
  }
  std::string output;
  size_t seen = 0;  // of the output
  bool ended = false;
  const auto read_until = [&](const std::string& part, int patience_ms) {
    size_t found;
    while ((found = output.find(part, seen)) == std::string::npos) {
      pollfd ready{terminal, POLLIN, 0};
      if (ended || ::poll(&ready, 1, patience_ms) != 1) return false;
      char buffer[512];
      const ssize_t count = ::read(terminal, buffer, sizeof(buffer));
      ended = count <= 0;
      if (!ended) output.append(buffer, static_cast<size_t>(count));
    }
    seen = found + part.size();
    return true;
  };
  // A control key typed in the moment after the prompt appears can go to the terminal's own line
  // discipline, or take the answer's output with it: a person would type it again.
  const auto press_until = [&](char key, const auto& done) {
    for (int i = 0; i < 60; ++i) {
      if (::write(terminal, &key, 1) != 1) break;
      if (done()) return true;
    }
    return ended;
  };
  EXPECT_TRUE(read_until("> ", 60000)) << output;
  const std::string unwanted = "/quiet";
  ASSERT_EQ(::write(terminal, unwanted.data(), unwanted.size()), std::ssize(unwanted));
  EXPECT_TRUE(read_until("quiet", 60000)) << output;
  // Ctrl-C clears the line, and does not end the program.
  EXPECT_TRUE(press_until('\x03', [&] { return read_until("^C\r\n> ", 500); })) << output;
  const std::string line = "Once uponX\x7f\n";  // the wrong letter is rubbed out
  ASSERT_EQ(::write(terminal, line.data(), line.size()), std::ssize(line));
  EXPECT_TRUE(read_until("prefill 3 tokens", 60000)) << output;  // BOS, Once, upon
  EXPECT_TRUE(read_until("> ", 60000)) << output;
  EXPECT_TRUE(press_until('\x04', [&] { return read_until("no such text", 500) || ended; }))
      << output;
  if (!ended) ::kill(pid, SIGKILL);
  int status = -1;
  ASSERT_EQ(::waitpid(pid, &status, 0), pid);
  EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0) << output;
  ::close(terminal);
}

TEST(Logits, AreTheExpectedOnes) {
  const Json expected = ExpectedJson();
  const std::vector<int32_t> ids = expected["input_ids"];
  const std::vector<float> last = expected["last_logits_fp32"];
  const TempDir dir;
  const std::string ids_file = dir.Write("ids", JoinIds(ids) + "\n");
  for (const std::string& tokens : {JoinIds(ids), "@" + ids_file}) {
    const std::string path = dir / "logits.safetensors";
    const ProcessResult run =
        RunMla({"logits", kModel, "--tokens", tokens, "-o", path, "--compute", "f32"});
    ASSERT_EQ(run.status, 0) << run.err;
    EXPECT_EQ(run.out, "");
    const auto file = SafetensorsFile::Open(path);
    ASSERT_TRUE(file.ok()) << file.message();
    const StoredTensor* logits = file->Find("logits");
    ASSERT_NE(logits, nullptr);
    EXPECT_EQ(logits->dtype, StoredDType::kF32);
    ASSERT_EQ(logits->shape, (std::vector<int64_t>{std::ssize(ids), 4096}));
    ASSERT_EQ(last.size(), 4096U);
    const auto* row = reinterpret_cast<const float*>(logits->data.data()) + (ids.size() - 1) * 4096;
    for (size_t i = 0; i < last.size(); ++i) ASSERT_NEAR(row[i], last[i], 1e-3) << "logit " << i;
  }
}

TEST(Perplexity, IsTheExpectedOneInBothModes) {
  const Json expected = ExpectedJson();
  const double want = expected["validation_ppl_fp32"];
  const std::pair<const char*, double> modes[] = {{"f32", 0.001}, {"bf16", 0.01}};
  for (const auto& [mode, tolerance] : modes) {
    const Json json = RunJson(
        {"perplexity", kModel, "--file", MLA_SOURCE_DIR "/tests/data/stories-mla-9m.validation.txt",
         "--separator", "<|endoftext|>", "--eos", "--compute", mode, "--json"});
    EXPECT_EQ(json["predicted_tokens"], expected["validation_tokens"]);
    EXPECT_NEAR(json["perplexity"].get<double>(), want, want * tolerance) << mode;
    EXPECT_NEAR(std::exp(json["nll_per_token"].get<double>()), json["perplexity"], 1e-6);
  }
}

TEST(Perplexity, WindowsPredictEveryTokenOnce) {
  const TempDir dir;
  const std::string text = "One day, a boy named Tim went to the park with his mom and his dog.";
  const std::string file = dir.Write("text", text);
  const size_t tokens = RunJson({"tokenize", kModel, "--json", text})["ids"].size();
  const auto score = [&](const std::vector<std::string>& flags) {
    std::vector<std::string> args = {"perplexity", kModel, "--file", file,
                                     "--compute",  "f32",  "--json"};
    args.insert(args.end(), flags.begin(), flags.end());
    return RunJson(args);
  };
  const Json windows = score({"--context", "6"});  // 5 tokens after each BOS
  EXPECT_EQ(windows["windows"], (tokens + 4) / 5);
  EXPECT_EQ(windows["predicted_tokens"], tokens);
  const Json whole = score({});
  EXPECT_EQ(whole["windows"], 1);
  EXPECT_EQ(whole["predicted_tokens"], tokens);
  EXPECT_LT(whole["perplexity"], windows["perplexity"]);  // more context predicts better
  EXPECT_EQ(score({"--eos"})["predicted_tokens"], tokens + 1);
  // One piece is one window, until it is cut.
  EXPECT_EQ(score({"--separator", "|"})["perplexity"], whole["perplexity"]);
  EXPECT_EQ(score({"--separator", "|", "--context", "6"})["predicted_tokens"], 5);
  EXPECT_EQ(score({"--separator", " went "})["pieces"], 2);
}

TEST(Tokenize, ThereAndBack) {
  const Json expected = ExpectedJson();
  const std::string prompt = expected["prompt"];
  const Json json = RunJson({"tokenize", kModel, "--bos", "--json", prompt});
  EXPECT_EQ(json["ids"], expected["input_ids"]);
  EXPECT_EQ(json["pieces"].size(), json["ids"].size());
  const std::string ids = JoinIds(json["ids"]);
  EXPECT_EQ(RunMla({"tokenize", kModel, "--bos", "--ids", prompt}).out, ids + "\n");
  EXPECT_EQ(RunMla({"tokenize", kModel, "--decode", ids}).out, prompt + "\n");
  ProcessOptions piped;
  piped.input = prompt;
  const ProcessResult lines = RunMla({"tokenize", kModel, "-"}, piped);
  EXPECT_EQ(std::count(lines.out.begin(), lines.out.end(), '\n'), json["ids"].size() - 1);
  EXPECT_TRUE(lines.out.starts_with("    393  ")) << lines.out;
}

TEST(Inspect, CountsTheModel) {
  const Json json = RunJson({"inspect", kModel, "--json", "--kv-dtype", "bf16"});
  EXPECT_EQ(json["model_type"], "deepseek_v3");
  EXPECT_EQ(json["layers"].size(), 2U);  // one dense, then five alike
  EXPECT_EQ(json["layers"][1]["layers"], "1-5");
  EXPECT_EQ(json["cache"]["bytes_per_token"], 6 * 80 * 2);
  EXPECT_EQ(json["cache"]["mha_bytes_per_token"], 6 * 8 * 80 * 2);
  EXPECT_EQ(json["cache"]["mqa_bytes_per_token"], 6 * 80 * 2);
  // 64 codes, a scale and 16 bf16; other caches as they would lie beside it.
  const Json int8 = RunJson({"inspect", kModel, "--json", "--kv-dtype", "int8"});
  EXPECT_EQ(int8["cache"]["dtype"], "int8");
  EXPECT_EQ(int8["cache"]["bytes_per_token"], 6 * (64 + 4 + 32));
  EXPECT_EQ(int8["cache"]["other_dtype"], "bf16");
  EXPECT_EQ(int8["cache"]["mha_bytes_per_token"], json["cache"]["mha_bytes_per_token"]);
  EXPECT_EQ(json["eos_ids"], Json::array({1}));
  EXPECT_TRUE(json["unused_tensors"].empty());
  // Every number on disk is counted, and once.
  int64_t stored = 0;
  for (const Json& kind : json["stored"]) stored += kind["numbers"].get<int64_t>();
  EXPECT_EQ(json["parameters"]["all"]["total"], stored);
  // 5 layers of 8 experts, 2 in use, 3 projections of 192 x 256.
  const Json& routed = json["parameters"]["routed experts"];
  EXPECT_EQ(routed["total"], 5 * 8 * 3 * 192 * 256);
  EXPECT_EQ(routed["active"], 5 * 2 * 3 * 192 * 256);
  const ProcessResult text = RunMla({"inspect", kModel});
  for (const char* part : {"kv_lora_rank 64", "layers 1-5", "MHA, same heads", "routed experts"}) {
    EXPECT_TRUE(Contains(text.out, part)) << part << " in " << text.out;
  }
}

TEST(Inspect, NamesTensorsThatAreNotUsed) {
  const TempDir dir;
  for (const char* name : {"config.json", "tokenizer.json"}) {
    dir.Write(name, ReadAll(kModel + "/" + name));
  }
  const auto file = SafetensorsFile::Open(kModel + "/model.safetensors");
  ASSERT_TRUE(file.ok());
  std::vector<TensorSource> sources;
  for (const StoredTensor& tensor : file->tensors()) sources.push_back({tensor});
  const std::vector<float> extra(6, 1.F);
  sources.push_back(
      {{"model.mtp.extra", StoredDType::kF32, {2, 3}, std::as_bytes(std::span(extra))}});
  ASSERT_TRUE(WriteSafetensors(dir / "model.safetensors", sources).ok());
  EXPECT_EQ(RunJson({"inspect", dir.path(), "--json"})["unused_tensors"],
            Json::array({"model.mtp.extra"}));
  EXPECT_TRUE(Contains(RunMla({"inspect", dir.path()}).out, "not used: 1 tensor: model.mtp.extra"));
}

TEST(Inspect, KnowsTheMachine) {
  const Json system = RunJson({"inspect", "--system", "--json"})["system"];
  EXPECT_EQ(system["isa"], std::string(cpu::CurrentIsa()));
  EXPECT_EQ(system["isas"].size(), cpu::SupportedIsas().size());
  EXPECT_GT(system["memory_bytes"], 0);
  // A device, or why there is none; with one, a kernel that runs on it.
  EXPECT_EQ(system["cuda"]["devices"].empty(), system["cuda"].contains("problem"));
  EXPECT_EQ(system["cuda"].contains("mla_decode"), !system["cuda"].contains("problem"));
  for (const char* name : {"mla_absorbed", "mla_expanded", "gqa", "mla_index_topk", "mla_sparse",
                           "linear", "grouped_linear", "head_linear"}) {
    const Json& kernels = system["operators"][name]["kernels"];
    ASSERT_FALSE(kernels.empty()) << name;
    EXPECT_EQ(kernels.back(), "reference");
    EXPECT_EQ(std::count(kernels.begin(), kernels.end(), system["operators"][name]["runs_f32"]), 1);
  }
}

TEST(Bench, ReportsAsTableJsonAndCsv) {
  const std::vector<std::string> base = {
      "bench", kModel, "--prompt-lengths", "16,32", "--depths", "0,40",
      "-n",    "4",    "--repetitions",    "2"};
  const auto with = [&](const char* flag) {
    std::vector<std::string> args = base;
    args.emplace_back(flag);
    return args;
  };
  const Json json = RunJson(with("--json"));
  ASSERT_EQ(json["results"].size(), 4U);
  EXPECT_EQ(json["results"][1]["test"], "prefill");
  EXPECT_EQ(json["results"][1]["tokens"], 32);
  EXPECT_EQ(json["results"][3]["depth"], 40);
  for (const Json& result : json["results"]) {
    EXPECT_GT(result["min"], 0);
    EXPECT_LE(result["min"], result["tokens_per_second"]);
    EXPECT_LE(result["tokens_per_second"], result["max"]);
  }
  for (const char* key : {"commit", "cpu", "isa", "threads", "compute"}) {
    EXPECT_TRUE(json.contains(key)) << key;
  }
  const ProcessResult csv = RunMla(with("--csv"));
  EXPECT_EQ(std::count(csv.out.begin(), csv.out.end(), '\n'), 5);
  EXPECT_TRUE(csv.out.starts_with("test,depth,tokens,tokens_per_second,")) << csv.out;
  const ProcessResult table = RunMla(base);
  EXPECT_EQ(table.status, 0);
  EXPECT_TRUE(Contains(table.out, "tokens/s")) << table.out;
}

}  // namespace
}  // namespace mla::test
