#include "io/tokenizer/bpe.h"

#include <algorithm>
#include <bit>
#include <climits>
#include <cstring>
#include <functional>

#include "io/tokenizer/unicode.h"

namespace mla {
namespace {

constexpr size_t kShortWord = 24;  // symbols up to which a scan beats the heap

uint64_t PairOf(int32_t left, int32_t right) {
  return uint64_t{static_cast<uint32_t>(left)} << 32 | static_cast<uint32_t>(right);
}

size_t HashPair(uint64_t pair) {
  pair *= 0x9e3779b97f4a7c15u;
  return static_cast<size_t>(pair ^ (pair >> 32));
}

std::string ByteToken(int byte) {
  constexpr char kDigits[] = "0123456789ABCDEF";
  return std::string("<0x") + kDigits[byte >> 4] + kDigits[byte & 15] + '>';
}

}  // namespace

bool BpeCache::Lookup(std::string_view word, uint64_t hash, std::vector<int32_t>* ids) const {
  if (word.size() > kMaxBytes || slots_.empty()) return false;
  const Slot& slot = slots_[hash % kSlots];
  if (slot.length != word.size() || std::memcmp(slot.word, word.data(), word.size()) != 0) {
    return false;
  }
  ids->insert(ids->end(), slot.ids, slot.ids + slot.count);
  return true;
}

void BpeCache::Insert(std::string_view word, uint64_t hash, const int32_t* ids, size_t count) {
  if (word.empty() || word.size() > kMaxBytes || count > kMaxIds) return;
  if (slots_.empty()) slots_.resize(kSlots);
  Slot& slot = slots_[hash % kSlots];
  slot.length = static_cast<uint8_t>(word.size());
  slot.count = static_cast<uint8_t>(count);
  std::memcpy(slot.word, word.data(), word.size());
  std::copy(ids, ids + count, slot.ids);
}

Result<BpeModel> BpeModel::FromJson(const Json& model, bool byte_level) {
  if (!model.is_object()) {
    return CorruptFile("model is ", DescribeJson(model), ", want an object");
  }
  // The oldest files have no type here.
  if (FindField(model, "type") != nullptr || FindField(model, "merges") == nullptr) {
    MLA_ASSIGN_OR_RETURN(const std::string type, StringField(model, "type", "model"));
    if (type != "BPE") return Unsupported("model type ", Quote(type), ", want \"BPE\"");
  }
  const Json* vocab = FindField(model, "vocab");
  const Json* merges = FindField(model, "merges");
  if (vocab == nullptr || !vocab->is_object()) {
    return CorruptFile("model: vocab is ",
                       vocab == nullptr ? std::string("missing") : DescribeJson(*vocab),
                       ", want an object of token: id");
  }
  if (merges == nullptr || !merges->is_array()) {
    return CorruptFile("model: merges is ",
                       merges == nullptr ? std::string("missing") : DescribeJson(*merges),
                       ", want a list");
  }
  BpeModel bpe;
  bpe.byte_level_ = byte_level;
  MLA_RETURN_IF_ERROR(bpe.ReadVocabulary(*vocab));
  MLA_RETURN_IF_ERROR(bpe.ReadOptions(model));
  MLA_RETURN_IF_ERROR(bpe.ReadMerges(*merges));
  return bpe;
}

Status BpeModel::ReadOptions(const Json& model) {
  const Json* dropout = FindField(model, "dropout");
  if (dropout != nullptr && !(dropout->is_number() && dropout->get<double>() == 0)) {
    return Unsupported("model: dropout is ", DescribeJson(*dropout), ", want null");
  }
  for (const char* affix : {"continuing_subword_prefix", "end_of_word_suffix"}) {
    const Json* value = FindField(model, affix);
    if (value != nullptr && !(value->is_string() && value->get_ref<const std::string&>().empty())) {
      return Unsupported("model: ", affix, " is ", DescribeJson(*value), ", want null");
    }
  }
  MLA_ASSIGN_OR_RETURN(byte_fallback_, BoolField(model, "byte_fallback", "model", false));
  MLA_ASSIGN_OR_RETURN(ignore_merges_, BoolField(model, "ignore_merges", "model", false));
  MLA_ASSIGN_OR_RETURN(fuse_unk_, BoolField(model, "fuse_unk", "model", false));
  if (FindField(model, "unk_token") != nullptr) {
    MLA_ASSIGN_OR_RETURN(const std::string unk, StringField(model, "unk_token", "model"));
    unk_id_ = vocabulary_.Find(unk);
    if (unk_id_ < 0) return CorruptFile("model: unk_token ", Quote(unk), " is not in vocab");
  }
  all_byte_symbols_ = true;
  for (int byte = 0; byte < 256; ++byte) {
    byte_tokens_[byte] = vocabulary_.Find(ByteToken(byte));
    std::string symbol;
    AppendUtf8(ByteLevelAlphabet()[byte], &symbol);
    byte_symbols_[byte] = vocabulary_.Find(symbol);
    all_byte_symbols_ &= byte_symbols_[byte] >= 0;
  }
  return {};
}

Status BpeModel::ReadVocabulary(const Json& vocab) {
  size_t bytes = 0;
  for (const auto& item : vocab.items()) bytes += item.key().size();
  vocabulary_.Reserve(vocab.size(), bytes);
  for (auto item = vocab.begin(); item != vocab.end(); ++item) {
    if (!item->is_number_integer()) {
      return CorruptFile("model: vocab: token ", Quote(item.key()), " has id ", DescribeJson(*item),
                         ", want an integer");
    }
    MLA_RETURN_IF_ERROR(vocabulary_.Add(item.key(), item->get<int64_t>()));
  }
  return {};
}

Status BpeModel::ReadMerges(const Json& merges) {
  if (merges.size() > INT32_MAX / 4) return CorruptFile("model: ", merges.size(), " merges");
  merges_.assign(std::bit_ceil(2 * merges.size() + 2), Merge());
  int32_t rank = 0;
  for (const Json& merge : merges) {
    const int32_t index = rank++;
    if (merge.is_string()) {
      const std::string_view text = merge.get_ref<const std::string&>();
      if (text.starts_with("#version")) continue;
      const size_t space = text.find(' ');
      if (space == std::string_view::npos || text.find(' ', space + 1) != std::string_view::npos) {
        return CorruptFile("model: merge ", index, " is ", DescribeJson(merge),
                           ", want two tokens with a space between");
      }
      MLA_RETURN_IF_ERROR(AddMerge(text.substr(0, space), text.substr(space + 1), index));
    } else if (merge.is_array() && merge.size() == 2 && merge[0].is_string() &&
               merge[1].is_string()) {
      MLA_RETURN_IF_ERROR(AddMerge(merge[0].get_ref<const std::string&>(),
                                   merge[1].get_ref<const std::string&>(), index));
    } else {
      return CorruptFile("model: merge ", index, " is ", DescribeJson(merge),
                         ", want a string or a list of two strings");
    }
  }
  return {};
}

Status BpeModel::AddMerge(std::string_view left, std::string_view right, int32_t rank) {
  const std::string joined = std::string(left).append(right);
  int32_t ids[3];
  const std::string_view parts[3] = {left, right, joined};
  for (int i = 0; i < 3; ++i) {
    ids[i] = vocabulary_.Find(parts[i]);
    if (ids[i] < 0) {
      return CorruptFile("model: merge ", rank, " of ", Quote(left), " and ", Quote(right), ": ",
                         Quote(parts[i]), " is not in vocab");
    }
  }
  const uint64_t pair = PairOf(ids[0], ids[1]);
  const size_t mask = merges_.size() - 1;
  size_t slot = HashPair(pair) & mask;
  while (merges_[slot].pair != kNoPair && merges_[slot].pair != pair) slot = (slot + 1) & mask;
  merges_[slot] = {pair, rank, ids[2]};  // of two equal merges the last counts
  return {};
}

const BpeModel::Merge* BpeModel::FindMerge(int32_t left, int32_t right) const {
  const uint64_t pair = PairOf(left, right);
  const size_t mask = merges_.size() - 1;
  size_t slot = HashPair(pair) & mask;
  while (merges_[slot].pair != pair) {
    if (merges_[slot].pair == kNoPair) return nullptr;
    slot = (slot + 1) & mask;
  }
  return &merges_[slot];
}

void BpeModel::Encode(std::string_view word, BpeScratch* scratch, std::vector<int32_t>* ids) const {
  const uint64_t hash = std::hash<std::string_view>()(word);
  if (scratch->cache.Lookup(word, hash, ids)) return;
  const size_t before = ids->size();
  EncodeUncached(word, scratch, ids);
  scratch->cache.Insert(word, hash, ids->data() + before, ids->size() - before);
}

void BpeModel::EncodeUncached(std::string_view word, BpeScratch* scratch,
                              std::vector<int32_t>* ids) const {
  const bool direct = byte_level_ && all_byte_symbols_;
  std::string_view mapped = word;
  if (byte_level_ && (!direct || ignore_merges_)) {
    scratch->mapped.clear();
    AppendByteLevel(word, &scratch->mapped);
    mapped = scratch->mapped;
  }
  if (ignore_merges_) {
    const int32_t whole = vocabulary_.Find(mapped);
    if (whole >= 0) {
      ids->push_back(whole);
      return;
    }
  }
  const size_t before = ids->size();
  if (direct) {
    for (const char c : word) ids->push_back(byte_symbols_[static_cast<uint8_t>(c)]);
  } else {
    AppendSymbols(mapped, ids);
  }
  int32_t* symbols = ids->data() + before;
  const size_t count = ids->size() - before;
  ids->resize(before + (count <= kShortWord ? MergeShort(symbols, count)
                                            : MergeLong(symbols, count, scratch)));
}

// The word's characters as tokens: itself, else its bytes' tokens, else the unknown token (one for
// a run of such characters under fuse_unk), else nothing.
void BpeModel::AppendSymbols(std::string_view word, std::vector<int32_t>* ids) const {
  bool unknown = false;  // an unknown token is due: it may still be fused with the next
  while (!word.empty()) {
    const std::string_view character = word.substr(0, DecodeCodePoint(word).length);
    word.remove_prefix(character.size());
    const int32_t id = vocabulary_.Find(character);
    if (id >= 0) {
      if (unknown) ids->push_back(unk_id_);
      unknown = false;
      ids->push_back(id);
      continue;
    }
    const auto has_token = [this](char c) { return byte_tokens_[static_cast<uint8_t>(c)] >= 0; };
    if (byte_fallback_ && std::all_of(character.begin(), character.end(), has_token)) {
      for (const char c : character) ids->push_back(byte_tokens_[static_cast<uint8_t>(c)]);
      continue;
    }
    if (unk_id_ < 0) continue;
    if (unknown && !fuse_unk_) ids->push_back(unk_id_);
    unknown = true;
  }
  if (unknown) ids->push_back(unk_id_);
}

// Merges in place by scanning for the lowest rank; returns how many tokens are left.
size_t BpeModel::MergeShort(int32_t* ids, size_t count) const {
  if (count < 2) return count;
  const Merge* merges[kShortWord];  // of (ids[i], ids[i + 1])
  for (size_t i = 0; i + 1 < count; ++i) merges[i] = FindMerge(ids[i], ids[i + 1]);
  while (count > 1) {
    size_t best = count;
    int32_t best_rank = INT32_MAX;
    for (size_t i = 0; i + 1 < count; ++i) {
      if (merges[i] != nullptr && merges[i]->rank < best_rank) {
        best = i;
        best_rank = merges[i]->rank;
      }
    }
    if (best == count) break;
    ids[best] = merges[best]->id;
    std::copy(ids + best + 2, ids + count, ids + best + 1);
    std::copy(merges + best + 1, merges + count - 1, merges + best);
    --count;
    if (best + 1 < count) merges[best] = FindMerge(ids[best], ids[best + 1]);
    if (best > 0) merges[best - 1] = FindMerge(ids[best - 1], ids[best]);
  }
  return count;
}

// The same with a heap of candidates over a linked list. Candidates are not removed when one of
// their symbols goes: they are recognised as stale when they come up.
size_t BpeModel::MergeLong(int32_t* ids, size_t count, BpeScratch* scratch) const {
  auto& symbols = scratch->symbols;
  auto& heap = scratch->heap;
  symbols.resize(count);
  heap.clear();
  const auto later = [](const BpeScratch::Candidate& a, const BpeScratch::Candidate& b) {
    return a.rank != b.rank ? a.rank > b.rank : a.position > b.position;
  };
  const auto push = [&](int32_t left) {
    const int32_t right = symbols[left].next;
    if (right < 0) return;
    const Merge* merge = FindMerge(symbols[left].id, symbols[right].id);
    if (merge == nullptr) return;
    heap.push_back({merge->rank, left, merge->id});
    std::push_heap(heap.begin(), heap.end(), later);
  };
  const auto last = static_cast<int32_t>(count) - 1;
  for (int32_t i = 0; i <= last; ++i) symbols[i] = {ids[i], i - 1, i < last ? i + 1 : -1};
  for (int32_t i = 0; i < last; ++i) push(i);
  while (!heap.empty()) {
    const BpeScratch::Candidate top = heap.front();
    std::pop_heap(heap.begin(), heap.end(), later);
    heap.pop_back();
    BpeScratch::Symbol& left = symbols[top.position];
    if (left.id < 0 || left.next < 0) continue;
    BpeScratch::Symbol& right = symbols[left.next];
    const Merge* merge = FindMerge(left.id, right.id);
    if (merge == nullptr || merge->rank != top.rank) continue;
    left.id = top.id;
    right.id = -1;
    left.next = right.next;
    if (left.next >= 0) symbols[left.next].previous = top.position;
    if (left.previous >= 0) push(left.previous);
    push(top.position);
  }
  size_t kept = 0;
  for (int32_t i = 0; i >= 0; i = symbols[i].next) ids[kept++] = symbols[i].id;
  // A scratch that grew on one huge word does not keep the memory.
  if (count > (1 << 16)) {
    symbols = {};
    heap = {};
  }
  return kept;
}

}  // namespace mla
