#include "io/tokenizer/added_tokens.h"

#include <algorithm>

#include "io/json.h"
#include "io/tokenizer/unicode.h"

namespace mla {
namespace {

constexpr size_t kMaxContentBytes = 1024;

size_t SpaceBefore(std::string_view text) {  // where the white space at the end begins
  size_t begin = text.size();
  while (begin > 0) {
    const size_t previous = PreviousCodePoint(text, begin);
    if (!IsWhiteSpace(DecodeCodePoint(text.substr(previous)).value)) break;
    begin = previous;
  }
  return begin;
}

size_t SpaceAfter(std::string_view text) {  // where the white space at the beginning ends
  size_t end = 0;
  while (end < text.size()) {
    const CodePoint c = DecodeCodePoint(text.substr(end));
    if (!IsWhiteSpace(c.value)) break;
    end += c.length;
  }
  return end;
}

bool IsAloneIn(std::string_view text, size_t begin, size_t end) {
  const bool free_before =
      begin == 0 ||
      !IsWordCharacter(DecodeCodePoint(text.substr(PreviousCodePoint(text, begin))).value);
  const bool free_after =
      end == text.size() || !IsWordCharacter(DecodeCodePoint(text.substr(end)).value);
  return free_before && free_after;
}

}  // namespace

Status AddedTokenMatcher::Add(const AddedToken& token, std::string_view content) {
  if (content.size() > kMaxContentBytes) {
    return Unsupported("added token ", token.id, " has ", content.size(), " bytes, the limit is ",
                       kMaxContentBytes);
  }
  if (content.empty()) return {};
  int32_t node = 0;
  for (const char c : content) {
    const uint64_t key = uint64_t{static_cast<uint32_t>(node)} << 8 | static_cast<uint8_t>(c);
    const auto [child, is_new] = children_.try_emplace(key, static_cast<int32_t>(nodes_.size()));
    if (is_new) nodes_.push_back(-1);
    node = child->second;
  }
  // Of two tokens with one normal form the first counts.
  if (nodes_[node] < 0) nodes_[node] = static_cast<int32_t>(tokens_.size());
  begins_[static_cast<uint8_t>(content[0])] = true;
  tokens_.push_back(token);
  return {};
}

AddedTokenMatcher::Match AddedTokenMatcher::LongestAt(std::string_view text) const {
  Match longest{0, nullptr};
  int32_t node = 0;
  for (size_t i = 0; i < text.size(); ++i) {
    const uint64_t key = uint64_t{static_cast<uint32_t>(node)} << 8 | static_cast<uint8_t>(text[i]);
    const auto child = children_.find(key);
    if (child == children_.end()) break;
    node = child->second;
    if (nodes_[node] >= 0) longest = {i + 1, &tokens_[nodes_[node]]};
  }
  return longest;
}

void AddedTokenMatcher::Split(std::string_view text, bool parse_special,
                              std::vector<AddedSegment>* segments) const {
  size_t done = 0;  // segments cover the text up to here
  for (size_t at = 0; at < text.size() && !tokens_.empty();) {
    if (!begins_[static_cast<uint8_t>(text[at])]) {
      ++at;
      continue;
    }
    const Match match = LongestAt(text.substr(at));
    if (match.length == 0) {
      ++at;
      continue;
    }
    size_t begin = at, end = at + match.length;
    at = end;
    const AddedToken& token = *match.token;
    if (token.special && !parse_special) continue;
    if (token.single_word && !IsAloneIn(text, begin, end)) continue;
    if (token.lstrip) begin = done + SpaceBefore(text.substr(done, begin - done));
    if (token.rstrip) end += SpaceAfter(text.substr(end));
    if (done < begin) segments->push_back({text.substr(done, begin - done), -1});
    segments->push_back({text.substr(begin, end - begin), token.id});
    at = done = end;
  }
  if (done < text.size()) segments->push_back({text.substr(done), -1});
}

}  // namespace mla
