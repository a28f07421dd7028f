// mla compare: forms of attention, kinds of layers and models side by side, measured.
#include <sys/stat.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "apps/chart.h"
#include "apps/cli.h"
#include "apps/commands.h"
#include "apps/compare.h"
#include "apps/compare_report.h"
#include "apps/output.h"
#include "apps/plan.h"
#include "apps/progress.h"
#include "apps/report_html.h"
#include "apps/text_pieces.h"
#include "io/json.h"

namespace mla {
namespace {

constexpr const char* kDescription =
    R"(Runs the same work in several ways and measures each. One MLA model: with the latent
cache (absorbed, expanded) and as plain MHA with all keys and values cached: outputs, bytes and
speed at growing depth. --layers: MHA, GQA, MQA and MLA layers of the same width and heads, random
weights; MODEL, which may then be a config.json or a name of `mla plan --list`, gives the
dimensions. With --file: how well and how fast MODEL, and MODEL2 beside it, predict a text. --html
shows it all with charts, and attention maps of --maps over --text.)";

constexpr const char* kExamples =
    R"(  mla compare models/stories-mla-9m
  mla compare models/stories-mla-9m --depths 0,128,256,480 --html report.html
  mla compare models/stories-mla-9m OTHER --file story.txt
  mla compare --layers --heads 32 --head-dim 128 --width 4096
  mla compare deepseek-v2-lite --layers)";

struct CompareFlags {
  SessionFlags session;
  std::string other, depths, file, separator;
  ReportPaths reports;
  std::string text = "Once upon a time, a little girl named Lily found a red ball.";
  std::string maps;  // empty: two that every model has
  std::optional<int32_t> width, heads, head_dim, kv_heads, rank, q_rank, rope_dim, value_dim;
  int32_t decode_tokens = 16, repetitions = 3;
  bool with_layers = false, json = false;

  bool wants_maps() const {
    return !reports.html.empty() || !reports.svg.empty() || (json && !maps.empty());
  }
};

// "0:3,5:1" as layers and heads.
Result<std::vector<LayerHead>> ParseMaps(const std::string& text) {
  std::vector<LayerHead> heads;
  for (size_t begin = 0; begin <= text.size();) {
    const size_t end = std::min(text.find(',', begin), text.size());
    const std::string part = text.substr(begin, end - begin);
    const size_t colon = part.find(':');
    if (colon == std::string::npos) {
      return InvalidArgument("--maps: ", Quote(part), " is no LAYER:HEAD, want for example 0:3");
    }
    MLA_ASSIGN_OR_RETURN(const auto layer,
                         ParseIntList(part.substr(0, colon), "--maps", 0, INT32_MAX));
    MLA_ASSIGN_OR_RETURN(const auto head,
                         ParseIntList(part.substr(colon + 1), "--maps", 0, INT32_MAX));
    if (layer.size() != 1 || head.size() != 1) {
      return InvalidArgument("--maps: ", Quote(part), " is no LAYER:HEAD, want for example 0:3");
    }
    heads.push_back({layer[0], head[0]});
    begin = end + 1;
  }
  return heads;
}

// Heads 0 of the first two layers, if nothing is asked for.
Result<std::vector<LayerHead>> MapsOf(const CompareFlags& flags, const Model& model) {
  if (!flags.maps.empty()) return ParseMaps(flags.maps);
  std::vector<LayerHead> heads = {{0, 0}};
  if (model.spec().layers.size() > 1) heads.push_back({1, 0});
  return heads;
}

Result<std::vector<int32_t>> Depths(const CompareFlags& flags, int32_t context) {
  std::vector<int32_t> depths;
  if (flags.depths.empty()) {
    for (const double share : {0.0, 0.125, 0.25, 0.5, 0.75, 0.95}) {
      depths.push_back(static_cast<int32_t>(share * std::min(context, 4096)));
    }
    depths.erase(std::unique(depths.begin(), depths.end()), depths.end());
    return depths;
  }
  MLA_ASSIGN_OR_RETURN(depths, ParseIntList(flags.depths, "--depths", 0, INT32_MAX));
  std::sort(depths.begin(), depths.end());
  if (depths.back() >= context) {
    return InvalidArgument("--depths: ", depths.back(), " is too much, want less than ", context,
                           ", the context");
  }
  return depths;
}

// With a context of at most `most`.
Result<CompareOptions> ToOptions(const CompareFlags& flags, int32_t most) {
  CompareOptions options;
  options.session = flags.session.ToOptions();
  options.decode_tokens = flags.decode_tokens;
  options.repetitions = flags.repetitions;
  if (options.session.context == 0) options.session.context = std::min(most, 4096);
  MLA_ASSIGN_OR_RETURN(options.depths, Depths(flags, std::min(options.session.context, most)));
  return options;
}

Status MeasureForms(const CompareFlags& flags, const LoadedModel& loaded, CompareResults& results) {
  MLA_ASSIGN_OR_RETURN(const CompareOptions options,
                       ToOptions(flags, loaded.model->spec().max_positions));
  MLA_ASSIGN_OR_RETURN(const std::vector<int32_t> prompt, EncodePrompt(loaded, flags.text));
  results.text_tokens = std::ssize(prompt);
  ProgressBar bar("measuring", FormSteps(*loaded.model, options));
  int64_t done = 0;
  MLA_ASSIGN_OR_RETURN(results.forms,
                       CompareForms(*loaded.model, prompt, options, [&] { bar.Update(++done); }));
  return {};
}

Status DrawMaps(const CompareFlags& flags, const std::string& name, const LoadedModel& loaded,
                CompareResults& results) {
  constexpr size_t kMostTokens = 48;  // more could not be read
  MLA_ASSIGN_OR_RETURN(const auto heads, MapsOf(flags, *loaded.model));
  MLA_ASSIGN_OR_RETURN(std::vector<int32_t> ids, EncodePrompt(loaded, flags.text));
  MapSet set{name, {}, std::ssize(ids), {}};
  ids.resize(
      std::min({ids.size(), kMostTokens, static_cast<size_t>(loaded.model->spec().max_positions)}));
  Result<std::vector<HeadMap>> maps = AttentionMaps(*loaded.model, ids, heads);
  if (!maps.ok()) return Error{maps.error().code, Concat("--maps: ", name, ": ", maps.message())};
  set.maps = *std::move(maps);
  MLA_ASSIGN_OR_RETURN(set.tokens, TokenTexts(*loaded.tokenizer, ids));
  results.maps.push_back(std::move(set));
  return {};
}

// The same windows for each, as long as the shorter of the contexts.
Status MeasureTexts(const CompareFlags& flags,
                    const std::vector<std::pair<std::string, const LoadedModel*>>& models,
                    CompareResults& results) {
  MLA_ASSIGN_OR_RETURN(const std::string text, ReadText(flags.file));
  int32_t most = INT32_MAX;
  for (const auto& [name, loaded] : models) {
    most = std::min(most, loaded->model->spec().max_positions);
  }
  MLA_ASSIGN_OR_RETURN(const CompareOptions options, ToOptions(flags, most));
  const std::vector<std::string_view> texts = SplitPieces(text, flags.separator);
  for (const auto& [name, loaded] : models) {
    std::optional<ProgressBar> bar;
    const auto progress = [&, label = name](int64_t done, int64_t total) {
      if (!bar) bar.emplace(label, total);
      bar->Update(done);
    };
    MLA_ASSIGN_OR_RETURN(TextRun run, ScoreTexts(name, *loaded, texts, options, progress));
    results.texts.push_back(std::move(run));
  }
  return {};
}

// What is known of the dimensions, and over it what the flags say.
LayerOptions LayerDimensions(const CompareFlags& flags, const ModelSpec* spec) {
  LayerOptions options = spec != nullptr ? LayersLike(*spec) : LayerOptions();
  if (flags.head_dim && spec == nullptr) options.v_head_dim = *flags.head_dim;
  const std::pair<const std::optional<int32_t>*, int32_t*> given[] = {
      {&flags.width, &options.hidden},         {&flags.heads, &options.heads},
      {&flags.head_dim, &options.head_dim},    {&flags.kv_heads, &options.kv_heads},
      {&flags.rank, &options.kv_lora_rank},    {&flags.q_rank, &options.q_lora_rank},
      {&flags.value_dim, &options.v_head_dim}, {&flags.rope_dim, &options.qk_rope_head_dim}};
  for (const auto& [flag, option] : given) {
    if (*flag) *option = **flag;
  }
  // A number that was not asked for gives way to one that was.
  while (!flags.kv_heads && options.heads % options.kv_heads != 0) --options.kv_heads;
  return options;
}

Status RunLayers(const CompareFlags& flags, const ModelSpec* spec, CompareResults& results) {
  LayerOptions& options = results.layer_options;
  options = LayerDimensions(flags, spec);
  options.threads = flags.session.threads;
  options.depths = {0, 512, 1024, 2048, 4096};
  if (!flags.depths.empty()) {
    MLA_ASSIGN_OR_RETURN(options.depths, ParseIntList(flags.depths, "--depths", 0, 1 << 20));
    std::sort(options.depths.begin(), options.depths.end());
  }
  ProgressBar bar("layers", 4 * std::ssize(options.depths));
  int64_t done = 0;
  MLA_ASSIGN_OR_RETURN(results.layers, CompareLayers(options, [&] { bar.Update(++done); }));
  return {};
}

// A config or a name: dimensions without weights.
bool IsDimensionsOnly(const std::string& model) {
  struct stat info;
  return ::stat(model.c_str(), &info) != 0 || (S_ISREG(info.st_mode) && model.ends_with(".json"));
}

Status RunModels(const CompareFlags& flags, CompareResults& results) {
  results.model = flags.session.model;
  MLA_ASSIGN_OR_RETURN(const LoadedModel loaded, LoadModelAndTokenizer(flags.session));
  std::vector<std::pair<std::string, const LoadedModel*>> models = {{results.model, &loaded}};
  LoadedModel other;
  if (!flags.other.empty()) {
    SessionFlags other_flags = flags.session;  // quantised alike
    other_flags.model = flags.other;
    MLA_ASSIGN_OR_RETURN(other, LoadModelAndTokenizer(other_flags));
    models.push_back({flags.other, &other});
  }
  if (flags.wants_maps()) {
    for (const auto& [name, model] : models) {
      MLA_RETURN_IF_ERROR(DrawMaps(flags, name, *model, results));
    }
  }
  MLA_RETURN_IF_ERROR(flags.file.empty() ? MeasureForms(flags, loaded, results)
                                         : MeasureTexts(flags, models, results));
  return flags.with_layers ? RunLayers(flags, &loaded.model->spec(), results) : Status();
}

Status RunCompare(const CompareFlags& flags) {
  // Before minutes of measuring: a report that has nowhere to go.
  MLA_RETURN_IF_ERROR(CheckReportPaths(flags.reports, {flags.session.model, flags.other}));
  CompareResults results;
  if (flags.session.model.empty()) {
    MLA_RETURN_IF_ERROR(RunLayers(flags, nullptr, results));
  } else if (IsDimensionsOnly(flags.session.model)) {
    MLA_ASSIGN_OR_RETURN(const PlanModel model, ReadPlanModel(flags.session.model));
    if (!flags.with_layers || !flags.other.empty() || !flags.file.empty() ||
        !flags.reports.svg.empty() || !flags.maps.empty()) {
      return InvalidArgument(OneLine(flags.session.model),
                             " has dimensions and no weights: want --layers alone, or the "
                             "directory of a model");
    }
    results.model = model.name;
    MLA_RETURN_IF_ERROR(RunLayers(flags, &model.spec, results));
  } else {
    MLA_RETURN_IF_ERROR(RunModels(flags, results));
  }
  // Printed first: a report that cannot be written loses nothing.
  MLA_RETURN_IF_ERROR(flags.json ? PrintJson(CompareJson(results)) : Print(CompareText(results)));
  std::vector<ReportFile> files;
  if (!flags.reports.svg.empty()) {
    const MapSet& first = results.maps[0];
    files.push_back({flags.reports.svg, StandaloneSvg(MapSvg(first, first.maps[0]))});
  }
  if (!flags.reports.html.empty()) files.push_back({flags.reports.html, CompareHtml(results)});
  return WriteReports(files);
}

void AddLayerFlags(CLI::App& app, CompareFlags& flags) {
  const auto add = [&](const char* flag, std::optional<int32_t>& value, int64_t most,
                       const char* text) {
    app.add_option(flag, value, text)->check(IntRange(1, most))->type_name("N");
  };
  add("--width", flags.width, 1 << 14, "Of --layers: hidden size (default: MODEL's, or 1024)");
  add("--heads", flags.heads, 256, "Of --layers: heads (default: MODEL's, or 16)");
  add("--head-dim", flags.head_dim, 1024, "Of --layers: numbers per head (MODEL's, or 64)");
  add("--kv-heads", flags.kv_heads, 256, "Of --layers: KV heads of the GQA layer (MODEL's, or 4)");
  add("--rank", flags.rank, 4096, "Of --layers: kv_lora_rank of the MLA layer (MODEL's, or 256)");
  add("--q-rank", flags.q_rank, 4096, "Of --layers: its q_lora_rank (MODEL's, or none)");
  add("--rope-dim", flags.rope_dim, 1024, "Of --layers: its qk_rope_head_dim (MODEL's, or 32)");
  add("--value-dim", flags.value_dim, 1024, "Of --layers: its v_head_dim (MODEL's, or --head-dim)");
}

// Flags that make no sense together; empty: they do.
std::string_view UsageProblem(const CompareFlags& flags) {
  const bool model = !flags.session.model.empty();
  if (!model && !flags.with_layers) return "nothing to compare: want MODEL, --layers or both";
  if (!flags.reports.svg.empty() && !model) return "--svg draws an attention map: want MODEL";
  if (!flags.other.empty() && flags.file.empty()) {
    return "two models are compared on a text: want --file";
  }
  if (!flags.separator.empty() && flags.file.empty()) return "--separator is of --file: want both";
  if (!flags.file.empty() && !model) return "--file is a text for a model: want MODEL";
  if (!flags.maps.empty() && !model) return "--maps shows a model's attention: want MODEL";
  if (!flags.maps.empty() && !flags.wants_maps()) {
    return "--maps has nowhere to go: want --html, --svg or --json";
  }
  if (model && flags.text.empty()) return "--text is empty, want some words";
  if (flags.file.empty() && flags.session.attention != "auto") {
    return "--attention chooses one form, and all of them are compared: want it with --file";
  }
  return {};
}

// A flag that was given and would change nothing, and why; empty: there is none.
std::string UselessFlag(const CLI::App& app, const CompareFlags& flags) {
  const std::string& model = flags.session.model;
  if (!flags.with_layers) {
    for (const char* flag : {"--width", "--heads", "--head-dim", "--kv-heads", "--rank", "--q-rank",
                             "--rope-dim", "--value-dim"}) {
      if (app.count(flag) > 0) return Concat(flag, " is of --layers: want both");
    }
  } else if (model.empty() || IsDimensionsOnly(model)) {
    for (const char* flag :
         {"--context", "--kv-dtype", "--page-size", "--prefill-chunk", "--compute", "--quantize",
          "--decode-tokens", "--repetitions", "--text"}) {
      if (app.count(flag) > 0) {
        return Concat(flag, " changes nothing where no model runs: want a model's directory");
      }
    }
  }
  return {};
}

}  // namespace

int CompareCommand(int argc, char** argv) {
  CompareFlags flags;
  Command command("compare", kDescription, kExamples);
  CLI::App& app = command.app();
  flags.session.AddModel(app, /*required=*/false);
  app.add_option("MODEL2", flags.other, "A model to set beside it on --file")->check(NotEmpty());
  app.add_option("--file", flags.file, "Score this text; - for standard input")->type_name("FILE");
  app.add_option("--separator", flags.separator, "The file is several texts with this between them")
      ->type_name("TEXT");
  app.add_flag("--layers", flags.with_layers, "One MHA, GQA, MQA and MLA layer, random weights");
  app.add_option("--depths", flags.depths, "Tokens in the cache, as 0,1024")->type_name("LIST");
  app.add_option("-n,--decode-tokens", flags.decode_tokens, "Tokens to decode (default: 16)")
      ->check(IntRange(1))
      ->type_name("N");
  app.add_option("--repetitions", flags.repetitions, "Timed runs; the fastest counts (default: 3)")
      ->check(IntRange(1, 1000))
      ->type_name("R");
  app.add_option("--text", flags.text, "For the attention maps, and the prompt to continue");
  app.add_option("--maps", flags.maps, "LAYER:HEAD of the maps (default: 0:0,1:0)")
      ->type_name("LIST");
  AddLayerFlags(app, flags);
  flags.session.AddSession(app);
  app.add_flag("--json", flags.json, "Print one JSON object");
  app.add_option("--svg", flags.reports.svg, "Write the first of the maps to this file too")
      ->type_name("FILE");
  app.add_option("--html", flags.reports.html, "Write a report with charts to this file too")
      ->type_name("FILE");
  if (const auto exit = command.Parse(argc, argv)) return *exit;
  if (const std::string_view problem = UsageProblem(flags); !problem.empty()) {
    return command.UsageError(problem);
  }
  if (const std::string problem = UselessFlag(app, flags); !problem.empty()) {
    return command.UsageError(problem);
  }
  return command.Finish(RunCompare(flags));
}

}  // namespace mla
