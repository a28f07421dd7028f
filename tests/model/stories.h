// The bundled model and how well it predicts its validation text.
#ifndef MLA_TESTS_MODEL_STORIES_H_
#define MLA_TESTS_MODEL_STORIES_H_

#include <gtest/gtest.h>

#include <fstream>
#include <sstream>
#include <string>
#include <vector>

#include "engine/perplexity.h"
#include "engine/session.h"
#include "io/tokenizer/tokenizer.h"
#include "model/model.h"

namespace mla::test {

inline constexpr char kBundled[] = MLA_SOURCE_DIR "/models/stories-mla-9m";

inline std::string ReadText(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  std::ostringstream text;
  text << in.rdbuf();
  return text.str();
}

// Over the first stories of the validation text.
inline double Perplexity(const Model& model, ComputeMode mode) {
  const auto tokenizer = Tokenizer::Load(kBundled);
  EXPECT_TRUE(tokenizer.ok());
  SessionOptions options;
  options.compute = mode;
  options.threads = 2;
  const auto session = Session::Create(model, options);
  EXPECT_TRUE(session.ok());
  const std::string text = ReadText(MLA_SOURCE_DIR "/tests/data/stories-mla-9m.validation.txt");
  NllSum sum;
  size_t begin = 0;
  for (int story = 0; story < 24; ++story) {
    const size_t end = text.find("<|endoftext|>", begin);
    if (end == std::string::npos) break;
    const auto ids = (*tokenizer)->Encode(text.substr(begin, end - begin));
    EXPECT_TRUE(ids.ok());
    std::vector<int32_t> piece(ids->begin(), ids->end());
    if (piece.size() > 500) piece.resize(500);
    EXPECT_TRUE(AddNll(**session, piece, sum).ok());
    begin = end + std::string("<|endoftext|>").size();
  }
  EXPECT_GT(sum.tokens, 3000);
  return sum.perplexity();
}

}  // namespace mla::test

#endif  // MLA_TESTS_MODEL_STORIES_H_
