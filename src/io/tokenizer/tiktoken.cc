#include "io/tokenizer/tiktoken.h"

#include <algorithm>
#include <charconv>
#include <cstdint>
#include <optional>
#include <string>
#include <tuple>
#include <unordered_map>
#include <utility>
#include <vector>

#include "io/tokenizer/gguf_tokenizer.h"
#include "io/tokenizer/tokenizer_config.h"
#include "io/tokenizer/unicode.h"
#include "io/tokenizer/vocabulary.h"

namespace mla {
namespace {

constexpr size_t kMaxTokenBytes = 256;       // a token has as many splits, each looked up
constexpr int32_t kReservedTokens = 256;     // after the ranks
constexpr const char* kWordsOf = "kimi-k2";  // the way of cutting, among those known by name
constexpr std::string_view kClass = "TikTokenTokenizer";

int Base64Digit(char c) {
  if (c >= 'A' && c <= 'Z') return c - 'A';
  if (c >= 'a' && c <= 'z') return c - 'a' + 26;
  if (c >= '0' && c <= '9') return c - '0' + 52;
  return c == '+' ? 62 : c == '/' ? 63 : -1;
}

// Nothing for what is not base64, padded as it should be.
std::optional<std::string> DecodeBase64(std::string_view text) {
  if (text.empty() || text.size() % 4 != 0) return std::nullopt;
  const size_t padding = text.ends_with("==") ? 2 : text.ends_with('=') ? 1 : 0;
  std::string bytes;
  uint32_t bits = 0;
  for (size_t i = 0; i < text.size(); ++i) {
    const bool pad = i + padding >= text.size();
    const int digit = pad ? 0 : Base64Digit(text[i]);
    if (digit < 0) return std::nullopt;
    bits = bits << 6 | static_cast<uint32_t>(digit);
    if (i % 4 != 3) continue;
    for (const int shift : {16, 8, 0}) bytes += static_cast<char>(bits >> shift & 255);
    bits = 0;
  }
  bytes.resize(bytes.size() - padding);
  return bytes;
}

// The tokens' bytes, by rank.
Result<std::vector<std::string>> ReadRanks(std::string_view model) {
  std::vector<std::string> tokens;
  std::vector<bool> seen;
  constexpr size_t kLeastLineBytes = 6;
  const size_t end_rank = std::min<size_t>(Vocabulary::kMaxIds, model.size() / kLeastLineBytes + 1);
  for (size_t line = 1; !model.empty(); ++line) {
    const size_t end = std::min(model.find('\n'), model.size());
    std::string_view text = model.substr(0, end);
    model.remove_prefix(std::min(end + 1, model.size()));
    if (text.ends_with('\r')) text.remove_suffix(1);
    if (text.empty()) continue;
    const size_t space = std::min(text.find(' '), text.size());
    const std::optional<std::string> bytes = DecodeBase64(text.substr(0, space));
    const std::string_view number = text.substr(std::min(space + 1, text.size()));
    uint32_t rank = 0;
    const auto [stop, error] = std::from_chars(number.data(), number.data() + number.size(), rank);
    if (!bytes || error != std::errc() || stop != number.data() + number.size() ||
        rank >= end_rank) {
      return CorruptFile("line ", line, " is ", Quote(text), ", want base64, a space and a rank");
    }
    if (bytes->empty() || bytes->size() > kMaxTokenBytes) {
      return CorruptFile("line ", line, " is a token of ", bytes->size(), " bytes, want 1 to ",
                         kMaxTokenBytes);
    }
    if (rank >= tokens.size()) {
      tokens.resize(rank + 1);
      seen.resize(rank + 1);
    }
    if (seen[rank]) return CorruptFile("line ", line, ": rank ", rank, " is there before");
    seen[rank] = true;
    tokens[rank] = *bytes;
  }
  const auto gap = std::find(seen.begin(), seen.end(), false);
  if (gap != seen.end()) return CorruptFile("rank ", gap - seen.begin(), " has no token");
  return tokens;
}

struct Split {
  int32_t rank, left, right;
  bool operator<(const Split& other) const {
    return std::tie(rank, left, right) < std::tie(other.rank, other.left, other.right);
  }
};

// Two neighbours are joined if they make a token, the lowest rank first: so every way to cut a
// token into two others is a merge, in the order of ranks.
std::vector<Split> AllSplits(const std::vector<std::string>& tokens,
                             const std::unordered_map<std::string_view, int32_t>& ranks) {
  std::vector<Split> splits;
  for (size_t rank = 0; rank < tokens.size(); ++rank) {
    const std::string_view token = tokens[rank];
    for (size_t cut = 1; cut < token.size(); ++cut) {
      const auto left = ranks.find(token.substr(0, cut));
      if (left == ranks.end()) continue;
      const auto right = ranks.find(token.substr(cut));
      if (right == ranks.end()) continue;
      splits.push_back({static_cast<int32_t>(rank), left->second, right->second});
    }
  }
  std::sort(splits.begin(), splits.end());
  return splits;
}

// Those that the config names, and reserved ones for the ids that it does not.
Result<Json> AddedTokens(const Json& config, int32_t num_ranks) {
  MLA_ASSIGN_OR_RETURN(const std::vector<AddedToken> named, AddedTokensOf(config));
  Json list = Json::array();
  std::vector<bool> taken(kReservedTokens);
  for (const AddedToken& token : named) {
    list.push_back({{"id", token.id},
                    {"content", token.content},
                    {"special", token.special},
                    {"normalized", false}});
    const int32_t at = token.id - num_ranks;
    if (at >= 0 && at < kReservedTokens) taken[at] = true;
  }
  for (int32_t i = 0; i < kReservedTokens; ++i) {
    if (taken[i]) continue;
    list.push_back({{"id", num_ranks + i},
                    {"content", Concat("<|reserved_token_", num_ranks + i, "|>")},
                    {"special", true},
                    {"normalized", false}});
  }
  return list;
}

}  // namespace

Result<Json> TiktokenToJson(std::string_view model, const Json& config) {
  const Json* name = config.is_object() ? FindField(config, "tokenizer_class") : nullptr;
  if (name == nullptr || !name->is_string() || name->get<std::string>() != kClass) {
    return Unsupported("tokenizer_config.json: tokenizer_class is ",
                       name == nullptr ? std::string("missing") : DescribeJson(*name), ", want ",
                       Quote(kClass), ": a tiktoken.model does not say how words are cut");
  }
  MLA_ASSIGN_OR_RETURN(const std::vector<std::string> tokens, ReadRanks(model));
  std::unordered_map<std::string_view, int32_t> ranks;
  Json vocab = Json::object();
  std::vector<std::string> spelled;  // in ByteLevel's alphabet
  for (size_t rank = 0; rank < tokens.size(); ++rank) {
    if (!ranks.emplace(tokens[rank], static_cast<int32_t>(rank)).second) {
      return CorruptFile("ranks ", ranks[tokens[rank]], " and ", rank, " are the same token");
    }
    AppendByteLevel(tokens[rank], &spelled.emplace_back());
    vocab[spelled.back()] = rank;
  }
  for (int byte = 0; byte < 256; ++byte) {
    const char single = static_cast<char>(byte);
    if (ranks.count(std::string_view(&single, 1)) == 0) {
      return CorruptFile("the byte ", byte, " has no token");
    }
  }
  Json merges = Json::array();
  for (const Split& split : AllSplits(tokens, ranks)) {
    merges.push_back(Concat(spelled[split.left], " ", spelled[split.right]));
  }
  MLA_ASSIGN_OR_RETURN(Json added, AddedTokens(config, static_cast<int32_t>(tokens.size())));
  return Json{{"version", "1.0"},
              {"added_tokens", std::move(added)},
              {"pre_tokenizer", PreTokenizerOfGguf(kWordsOf)},
              {"decoder", {{"type", "ByteLevel"}}},
              {"model",
               {{"type", "BPE"},
                {"ignore_merges", true},  // a word that is a token is that token
                {"vocab", std::move(vocab)},
                {"merges", std::move(merges)}}}};
}

}  // namespace mla
