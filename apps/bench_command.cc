// mla bench: prefill and decode speed of a model on this machine.
#include <algorithm>
#include <chrono>
#include <cmath>
#include <nlohmann/json.hpp>
#include <random>
#include <string>

#include "apps/bench_explain.h"
#include "apps/cli.h"
#include "apps/commands.h"
#include "apps/output.h"
#include "apps/progress.h"
#include "apps/random_model.h"
#include "apps/session_flags.h"
#include "apps/system_info.h"
#include "apps/version.h"
#include "kernels/cpu/isa.h"

namespace mla {
namespace {

constexpr const char* kDescription =
    R"(Measures tokens per second: prefill of prompts of chosen lengths, and decode (one token
after another) with chosen numbers of tokens in the cache before. Each is run once to warm up and
then --repetitions times; the median counts. Tokens are random; sampling is not part of it.

With --config and --random-weights no checkpoint is needed. The tokens in the cache before decode
are random numbers then, not what the model would make of a text: that costs the same and saves the
prefill. Weights and cache are in memory of their own, where a checkpoint's would be a mapped file.)";

constexpr const char* kExamples = R"(  mla bench models/stories-mla-9m
  mla bench MODEL --prompt-lengths 128,1024 --depths 0,4096 -n 32
  mla bench MODEL --threads 1 --compute f32 --attention absorbed --json
  mla bench --config bench/configs/lite4.json --random-weights --depths 0,8192 --quantize q8
  mla bench --config deepseek-v3 --set num_hidden_layers=1 --random-weights --context 4096)";

struct BenchFlags {
  SessionFlags session;
  RandomModelFlags random;
  std::string prompt_lengths = "128,512";
  std::string depths = "0,512";
  bool lengths_given = false, depths_given = false;
  int32_t decode_tokens = 64;
  int32_t repetitions = 5;
  bool json = false;
  bool csv = false;
  bool explain = false;

  std::string ModelName() const {
    return random.config.empty() ? session.model : random.Describe();
  }
};

struct Measurement {
  std::string test;                          // "prefill", "decode"
  int32_t depth = 0;                         // tokens in the cache before
  int32_t tokens = 0;                        // that were timed
  std::vector<double> rates;                 // tokens per second, ascending
  std::vector<FormDecision> decisions = {};  // with --explain

  double median() const {
    const size_t half = rates.size() / 2;
    return rates.size() % 2 == 1 ? rates[half] : (rates[half - 1] + rates[half]) / 2;
  }
};

class Bench {
 public:
  // `random_cache`: the tokens before decode are random rows of the cache.
  Bench(Session& session, int32_t repetitions, bool random_cache)
      : session_(session), repetitions_(repetitions), random_cache_(random_cache) {
    std::mt19937 random(1);
    const auto vocab = static_cast<uint32_t>(session.model().spec().vocab_size);
    for (int32_t i = 0; i < session.context(); ++i) {
      ids_.push_back(static_cast<int32_t>(random() % vocab));
    }
  }

  Result<Measurement> Prefill(int32_t tokens) {
    return Measure({.test = "prefill", .depth = 0, .tokens = tokens, .rates = {}},
                   [&] { return session_.Append(std::span(ids_).first(tokens)); });
  }

  Result<Measurement> Decode(int32_t depth, int32_t tokens) {
    MLA_RETURN_IF_ERROR(FillTo(depth));
    return Measure({.test = "decode", .depth = depth, .tokens = tokens, .rates = {}},
                   [&]() -> Status {
                     for (int32_t i = 0; i < tokens; ++i) {
                       MLA_RETURN_IF_ERROR(session_.Append(std::span(ids_).subspan(depth + i, 1)));
                     }
                     return {};
                   });
  }

 private:
  Status FillTo(int32_t depth) {
    if (random_cache_) {
      if (session_.length() > depth) session_.Truncate(depth);
      return session_.AppendRandomRows(depth - session_.length(), /*seed=*/1);
    }
    session_.Truncate(0);
    return depth > 0 ? session_.Append(std::span(ids_).first(depth)) : Status();
  }

  template <typename Run>
  Result<Measurement> Measure(Measurement measurement, const Run& run) {
    using Clock = std::chrono::steady_clock;
    for (int32_t i = -1; i < repetitions_; ++i) {  // -1: to warm up
      session_.Truncate(measurement.depth);
      const auto start = Clock::now();
      MLA_RETURN_IF_ERROR(run());
      const double seconds = std::chrono::duration<double>(Clock::now() - start).count();
      if (i >= 0) measurement.rates.push_back(measurement.tokens / seconds);
    }
    std::sort(measurement.rates.begin(), measurement.rates.end());
    return measurement;
  }

  Session& session_;
  int32_t repetitions_;
  bool random_cache_;
  std::vector<int32_t> ids_;  // [context]
};

// The lengths of a flag; "none": no length. Those of a default that pass `most` are left out; given
// ones are an error.
Result<std::vector<int32_t>> Lengths(const std::string& text, const char* flag, bool given,
                                     int32_t min, int32_t most, int32_t context) {
  if (text == "none") return std::vector<int32_t>();
  MLA_ASSIGN_OR_RETURN(std::vector<int32_t> lengths, ParseIntList(text, flag, min, INT32_MAX));
  if (!given) std::erase_if(lengths, [&](int32_t length) { return length > most; });
  for (const int32_t length : lengths) {
    if (length > most) {
      return InvalidArgument(flag, ": ", length, " is too much, want at most ", most,
                             " with a context of ", context);
    }
  }
  return lengths;
}

Result<std::vector<Measurement>> MeasureAll(const BenchFlags& flags, Session& session) {
  const int32_t context = session.context();
  if (flags.decode_tokens > context) {
    return InvalidArgument("-n is ", flags.decode_tokens, ", want at most ", context,
                           ", the context");
  }
  MLA_ASSIGN_OR_RETURN(
      const std::vector<int32_t> lengths,
      Lengths(flags.prompt_lengths, "--prompt-lengths", flags.lengths_given, 1, context, context));
  MLA_ASSIGN_OR_RETURN(const std::vector<int32_t> depths,
                       Lengths(flags.depths, "--depths", flags.depths_given, 0,
                               context - flags.decode_tokens, context));
  Bench bench(session, flags.repetitions, flags.random.random_weights);
  std::vector<Measurement> measurements;
  ProgressBar bar("measuring", std::ssize(lengths) + std::ssize(depths));
  for (const int32_t length : lengths) {
    MLA_ASSIGN_OR_RETURN(Measurement measurement, bench.Prefill(length));
    measurements.push_back(std::move(measurement));
    bar.Update(std::ssize(measurements));
  }
  for (const int32_t depth : depths) {
    MLA_ASSIGN_OR_RETURN(Measurement measurement, bench.Decode(depth, flags.decode_tokens));
    measurements.push_back(std::move(measurement));
    bar.Update(std::ssize(measurements));
  }
  return measurements;
}

Status Explain(const BenchFlags& flags, const Session& session,
               std::vector<Measurement>& measurements) {
  const AttentionForm form = flags.session.ToOptions().form;
  for (Measurement& m : measurements) {
    const int32_t step = m.test == "decode" ? 1 : session.prefill_chunk();
    MLA_ASSIGN_OR_RETURN(m.decisions, ExplainForms(session, form, m.depth, m.tokens, step));
  }
  return {};
}

// What --explain prints below the table.
std::string DecisionsText(const std::vector<Measurement>& measurements) {
  std::string text =
      "\nForms of attention. Estimates are of this many threads of the machine that the prices in\n"
      "src/dispatch/mla_cost.cc were measured on: their ratio decides, not their size.\n";
  for (const Measurement& m : measurements) {
    text +=
        Concat(m.test, ", depth ", WithCommas(m.depth), ", ", WithCommas(m.tokens), " tokens\n");
    for (const FormDecision& decision : m.decisions) text += "  " + DecisionLine(decision) + "\n";
  }
  return text;
}

Status PrintTable(const BenchFlags& flags, const std::vector<Measurement>& measurements,
                  const Session& session) {
  Table table({"test", "depth", "tokens", "tokens/s", "min", "max", "ms/token"});
  const auto whole = [](double rate) { return WithCommas(std::llround(rate)); };
  for (const Measurement& m : measurements) {
    table.Add({m.test, WithCommas(m.depth), WithCommas(m.tokens), whole(m.median()),
               whole(m.rates.front()), whole(m.rates.back()), Fixed(1000 / m.median(), 3)});
  }
  return Print(Concat(flags.ModelName(), "; ", CpuModel(), "; ", DescribeSession(session),
                      ", attention ", flags.session.attention, "; commit ", Commit(),
                      "; median of ", flags.repetitions, "\n\n", table.ToString(),
                      flags.explain ? DecisionsText(measurements) : std::string()));
}

nlohmann::ordered_json SetupJson(const BenchFlags& flags, const Session& session) {
  nlohmann::ordered_json json;
  json["model"] = flags.ModelName();
  json["commit"] = Commit();
  json["cpu"] = CpuModel();
  json.update(SessionJson(session));
  json["attention"] = flags.session.attention;
  json["repetitions"] = flags.repetitions;
  return json;
}

nlohmann::ordered_json ResultJson(const Measurement& m) {
  return {{"test", m.test},         {"depth", m.depth},
          {"tokens", m.tokens},     {"tokens_per_second", m.median()},
          {"min", m.rates.front()}, {"max", m.rates.back()}};
}

std::string CsvField(const nlohmann::ordered_json& value) {
  if (!value.is_string()) return value.dump();
  std::string quoted = "\"";
  for (const char c : value.get<std::string>()) {
    if (c == '"') quoted += c;  // a quote within is written twice
    quoted += c;
  }
  quoted += '"';
  return quoted;
}

// One line per measurement, the setup repeated in each.
Status PrintCsv(const BenchFlags& flags, const std::vector<Measurement>& measurements,
                const Session& session) {
  std::string header, lines;
  for (const Measurement& m : measurements) {
    nlohmann::ordered_json row = ResultJson(m);
    row.update(SetupJson(flags, session));
    header.clear();
    std::string line;
    for (const auto& [key, value] : row.items()) {
      header += Concat(header.empty() ? "" : ",", key);
      line += Concat(line.empty() ? "" : ",", CsvField(value));
    }
    lines += line + "\n";
  }
  return Print(header + "\n" + lines);
}

Result<std::unique_ptr<Model>> LoadBenchModel(const BenchFlags& flags) {
  if (!flags.random.random_weights) return LoadModel(flags.session);
  MLA_RETURN_IF_ERROR(cpu::CurrentIsaError());
  ThreadPool threads(flags.session.threads > 0 ? flags.session.threads : UsableCpus());
  MLA_ASSIGN_OR_RETURN(std::unique_ptr<Model> model, MakeRandomModel(flags.random, &threads));
  QuantiseAsAsked(flags.session, *model);
  return model;
}

Status RunBench(const BenchFlags& flags) {
  MLA_ASSIGN_OR_RETURN(const std::unique_ptr<Model> model, LoadBenchModel(flags));
  MLA_ASSIGN_OR_RETURN(const std::unique_ptr<Session> session,
                       Session::Create(*model, flags.session.ToOptions()));
  MLA_ASSIGN_OR_RETURN(std::vector<Measurement> measurements, MeasureAll(flags, *session));
  if (measurements.empty()) {
    return InvalidArgument("nothing to measure: the context is ", session->context(),
                           "; want other --prompt-lengths or --depths");
  }
  if (flags.explain) MLA_RETURN_IF_ERROR(Explain(flags, *session, measurements));
  if (flags.csv) return PrintCsv(flags, measurements, *session);
  if (!flags.json) return PrintTable(flags, measurements, *session);
  nlohmann::ordered_json json = SetupJson(flags, *session);
  for (const Measurement& m : measurements) {
    nlohmann::ordered_json result = ResultJson(m);
    for (const FormDecision& d : m.decisions) result["explain"].push_back(DecisionJson(d));
    json["results"].push_back(std::move(result));
  }
  return PrintJson(json);
}

}  // namespace

int BenchCommand(int argc, char** argv) {
  BenchFlags flags;
  Command command("bench", kDescription, kExamples);
  CLI::App& app = command.app();
  flags.session.AddModel(app, /*required=*/false);
  flags.random.Add(app);
  auto* lengths = app.add_option("--prompt-lengths", flags.prompt_lengths,
                                 "Tokens of the prompts, or none (default: 128,512)");
  lengths->type_name("LIST");
  auto* depths = app.add_option("--depths", flags.depths,
                                "Tokens in the cache before decode, or none (default: 0,512)");
  depths->type_name("LIST");
  app.add_option("-n,--decode-tokens", flags.decode_tokens, "Tokens to decode (default: 64)")
      ->check(IntRange(1))
      ->type_name("N");
  app.add_option("--repetitions", flags.repetitions, "Timed runs of each (default: 5)")
      ->check(IntRange(1, 10000))
      ->type_name("R");
  flags.session.AddSession(app);
  auto* json = app.add_flag("--json", flags.json, "Print one JSON object");
  auto* csv = app.add_flag("--csv", flags.csv, "Print lines of comma-separated values");
  csv->excludes(json);
  app.add_flag("--explain", flags.explain,
               "Say which form of attention ran in each layer and what both were estimated at")
      ->excludes(csv);
  if (const auto exit = command.Parse(argc, argv)) return *exit;
  if (const std::string problem = flags.random.Contradiction(flags.session.model);
      !problem.empty()) {
    return command.UsageError(problem);
  }
  flags.lengths_given = lengths->count() > 0;
  flags.depths_given = depths->count() > 0;
  return command.Finish(RunBench(flags));
}

}  // namespace mla
