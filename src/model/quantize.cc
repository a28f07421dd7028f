#include "model/quantize.h"

#include <algorithm>
#include <memory>
#include <variant>
#include <vector>

#include "base/threads.h"
#include "mla/result.h"
#include "tensor/quant_blocks.h"

namespace mla {
namespace {

// A weight to be quantised, where the model keeps its view, and what it shall become.
struct Item {
  ConstTensor* weight;
  DType wanted;
};

bool IsPlainFloat(DType dtype) {
  return dtype == DType::kF32 || dtype == DType::kF16 || dtype == DType::kBF16;
}

class Collector {
 public:
  explicit Collector(DType wanted) : wanted_(wanted) {}

  void Add(ConstTensor& weight, DType wanted) {
    if (weight.present() && IsPlainFloat(weight.dtype())) items_.push_back({&weight, wanted});
  }
  void Add(LinearWeight& linear) { Add(linear.w, wanted_); }
  void Add(DenseMlpWeights& mlp) {
    for (LinearWeight* linear : {&mlp.gate, &mlp.up, &mlp.down}) Add(*linear);
  }
  void Add(MoeWeights& moe) {
    for (auto* experts : {&moe.gate, &moe.up, &moe.down}) {
      for (ConstTensor& expert : *experts) Add(expert, wanted_);
    }
    if (moe.shared) Add(*moe.shared);
  }
  void Add(MlaWeights& mla) {
    for (LinearWeight* linear : {&mla.q, &mla.q_a, &mla.q_b, &mla.kv_a, &mla.o}) Add(*linear);
  }
  void Add(GqaWeights& gqa) {
    for (LinearWeight* linear : {&gqa.q, &gqa.k, &gqa.v, &gqa.o}) Add(*linear);
  }

  std::vector<Item>& items() { return items_; }

 private:
  DType wanted_;
  std::vector<Item> items_;
};

std::vector<Item> Collect(QuantiseTo to, ModelWeights& weights) {
  Collector collector(to == QuantiseTo::kQ8 ? DType::kQ8_0 : DType::kQ4_K);
  for (LayerWeights& layer : weights.layers) {
    std::visit([&](auto& attention) { collector.Add(attention); }, layer.attention);
    std::visit([&](auto& mlp) { collector.Add(mlp); }, layer.mlp);
    if (layer.branch) collector.Add(*layer.branch);
  }
  collector.Add(weights.lm_head, to == QuantiseTo::kQ8 ? DType::kQ8_0 : DType::kQ6_K);
  return std::move(collector.items());
}

// Rows are independent of each other: the result does not depend on the threads.
ConvertedWeight QuantiseMatrix(const ConstTensor& w, DType to, ThreadPool* threads,
                               const std::function<void(int64_t rows)>& progress) {
  const int64_t rows = w.dim(0), cols = w.dim(1);
  const int64_t row_bytes = RowBytes(to, cols);
  ConvertedWeight converted;
  const std::shared_ptr<uint8_t[]> memory(new uint8_t[rows * row_bytes]);
  // Some thousands of rows at a time, so that progress shows within a large weight.
  constexpr int64_t kChunkNumbers = 4 << 20;
  const int64_t chunk = std::max<int64_t>(kChunkNumbers / std::max<int64_t>(cols, 1), 1);
  for (int64_t begin = 0; begin < rows; begin += chunk) {
    const int64_t count = std::min(chunk, rows - begin);
    ParallelFor(threads, count, [&](int64_t i, int) {
      std::vector<float> row(cols);
      DequantiseMatrixRow(w, begin + i, 0, cols, row.data());
      QuantiseRow(to, row.data(), cols, memory.get() + (begin + i) * row_bytes);
    });
    progress(begin + count);
  }
  converted.memory = memory;
  converted.stored = w.data();
  converted.bytes = rows * row_bytes;
  return converted;
}

// Counts of weights by what they became instead of what was wanted.
class Fallbacks {
 public:
  void Count(DType wanted, DType got) {
    if (wanted != got) ++counts_[{wanted, got}];
  }
  std::string Line() const {
    std::string text;
    for (const auto& [types, count] : counts_) {
      const auto& [wanted, got] = types;
      text += Concat(text.empty() ? "" : "; ", count, count == 1 ? " weight is " : " weights are ",
                     DTypeName(got), ", not ", DTypeName(wanted), ": rows are no multiple of ",
                     BlockElements(IsBlockType(got) ? wanted : DType::kQ8_0));
    }
    return text;
  }

 private:
  std::map<std::pair<DType, DType>, int64_t> counts_;
};

}  // namespace

DType FittingType(DType wanted, int64_t in, DType stored) {
  if (in % BlockElements(wanted) == 0) return wanted;
  if (in % BlockElements(DType::kQ8_0) != 0) return stored;
  return wanted == DType::kQ4_K ? DType::kQ4_0 : DType::kQ8_0;
}

QuantiseReport QuantiseWeights(const QuantiseOptions& options, ModelWeights& weights) {
  const std::vector<Item> items = Collect(options.to, weights);
  int64_t total = 0, done = 0;
  for (const Item& item : items) total += item.weight->num_elements();
  QuantiseReport report;
  Fallbacks fallbacks;
  for (const Item& item : items) {
    const ConstTensor w = *item.weight;
    const DType to = FittingType(item.wanted, w.dim(1), w.dtype());
    fallbacks.Count(item.wanted, to);
    if (to != w.dtype()) {
      const ConvertedWeight converted = QuantiseMatrix(w, to, options.threads, [&](int64_t rows) {
        if (options.progress) options.progress(done + rows * w.dim(1), total);
      });
      *item.weight = ConstTensor(converted.memory.get(), to, {w.dim(0), w.dim(1)}, w.device());
      ++report.tensors[to];
      report.bytes_before += RowBytes(w.dtype(), w.num_elements());
      report.bytes_after += converted.bytes;
      weights.converted.push_back(converted);
    }
    done += w.num_elements();
  }
  report.fallbacks = fallbacks.Line();
  return report;
}

}  // namespace mla
