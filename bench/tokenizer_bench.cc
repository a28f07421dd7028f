// Tokenizer speed on one core: bytes of text per second, both ways, and the time to load.
//
//   tokenizer_bench [--benchmark flags] [MODEL_DIR [TEXT_FILE]...]
#include <benchmark/benchmark.h>

#include <cstdio>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "io/read_file.h"
#include "io/tokenizer/tokenizer.h"

namespace {

constexpr char kStory[] =
    "Once upon a time, there was a little girl named Lily. She loved to play outside in the park "
    "with her 2 dogs. \"Look!\" she said. \"It's a big, red ball!\"\n\n";

void BenchLoad(benchmark::State& state, const std::string& dir) {
  for (auto _ : state) {
    auto tokenizer = mla::Tokenizer::Load(dir);
    benchmark::DoNotOptimize(tokenizer);
  }
}

void BenchEncode(benchmark::State& state, const mla::Tokenizer* tokenizer,
                 const std::string* text) {
  for (auto _ : state) {
    auto ids = tokenizer->Encode(*text);
    if (!ids.ok()) return state.SkipWithError(std::string(ids.message()).c_str());
    benchmark::DoNotOptimize(ids);
  }
  state.SetBytesProcessed(static_cast<int64_t>(state.iterations() * text->size()));
}

void BenchDecode(benchmark::State& state, const mla::Tokenizer* tokenizer,
                 const std::string* text) {
  const auto ids = tokenizer->Encode(*text);
  if (!ids.ok()) return state.SkipWithError(std::string(ids.message()).c_str());
  for (auto _ : state) {
    auto decoded = tokenizer->Decode(*ids);
    benchmark::DoNotOptimize(decoded);
  }
  state.SetBytesProcessed(static_cast<int64_t>(state.iterations() * text->size()));
}

}  // namespace

int main(int argc, char** argv) {
  benchmark::Initialize(&argc, argv);
  const std::string dir = argc > 1 ? argv[1] : "models/stories-mla-9m";
  const auto tokenizer = mla::Tokenizer::Load(dir);
  if (!tokenizer.ok()) {
    std::fprintf(stderr, "%s\n", tokenizer.error().message.c_str());
    return 1;
  }
  std::vector<std::pair<std::string, std::string>> texts;
  for (int i = 2; i < argc; ++i) {
    const auto text = mla::ReadFile(argv[i]);
    if (!text.ok()) {
      std::fprintf(stderr, "%s\n", text.error().message.c_str());
      return 1;
    }
    texts.emplace_back(argv[i], *text);
  }
  if (texts.empty()) {
    std::string story;
    while (story.size() < (1 << 18)) story += kStory;
    texts.emplace_back("story", story);
  }
  benchmark::RegisterBenchmark("load", BenchLoad, dir)->Unit(benchmark::kMillisecond);
  for (const auto& [name, text] : texts) {
    benchmark::RegisterBenchmark(("encode/" + name).c_str(), BenchEncode, tokenizer->get(), &text)
        ->Unit(benchmark::kMillisecond);
    benchmark::RegisterBenchmark(("decode/" + name).c_str(), BenchDecode, tokenizer->get(), &text)
        ->Unit(benchmark::kMillisecond);
  }
  benchmark::RunSpecifiedBenchmarks();
  return 0;
}
