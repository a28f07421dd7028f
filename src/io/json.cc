#include "io/json.h"

#include <algorithm>
#include <iterator>
#include <limits>
#include <new>
#include <nlohmann/json.hpp>
#include <optional>
#include <vector>

#include "io/read_file.h"

namespace mla {
namespace {

using nlohmann::json;

// An input iterator that tells the SAX handler how far the parser has read.
class TrackingIterator {
 public:
  using iterator_category = std::input_iterator_tag;
  using value_type = char;
  using difference_type = std::ptrdiff_t;
  using pointer = const char*;
  using reference = const char&;

  TrackingIterator(const char* position, const char** furthest)
      : position_(position), furthest_(furthest) {}
  reference operator*() const { return *position_; }
  TrackingIterator& operator++() {
    *furthest_ = ++position_;
    return *this;
  }
  TrackingIterator operator++(int) {
    TrackingIterator old = *this;
    ++*this;
    return old;
  }
  bool operator==(const TrackingIterator& other) const { return position_ == other.position_; }
  bool operator!=(const TrackingIterator& other) const { return position_ != other.position_; }

 private:
  const char* position_;
  const char** furthest_;
};

// The library's message without its "[json.exception...] parse error at line..:" prefix, which
// counts differently from ours, on one line and cut: it quotes the input.
std::string CleanReason(std::string_view reason) {
  if (const size_t end = reason.find("] "); reason.starts_with('[') && end != reason.npos) {
    reason.remove_prefix(end + 2);
  }
  if (reason.starts_with("parse error at ")) {
    if (const size_t end = reason.find(": "); end != reason.npos) reason.remove_prefix(end + 2);
  }
  constexpr size_t kMaxReason = 160;
  std::string clean(reason.substr(0, kMaxReason));
  for (char& c : clean) {
    if (c < 0x20 || c > 0x7e) c = '?';
  }
  if (reason.size() > kMaxReason) clean += "...";
  return clean;
}

// Builds the document from parse events. The library's own builder lets the last of duplicate keys
// win and has no limits.
class Builder : public json::json_sax_t {
 public:
  Builder(const JsonLimits& limits, const char* const* furthest)
      : limits_(limits), furthest_(furthest) {}

  bool null() override { return Add(nullptr) != nullptr; }
  bool boolean(bool value) override { return Add(value) != nullptr; }
  bool number_integer(number_integer_t value) override { return Add(value) != nullptr; }
  bool number_unsigned(number_unsigned_t value) override { return Add(value) != nullptr; }
  bool number_float(number_float_t value, const string_t&) override {
    return Add(value) != nullptr;
  }
  bool string(string_t& value) override { return Add(std::move(value)) != nullptr; }
  bool binary(binary_t&) override { return Fail("binary value"); }

  bool start_object(size_t) override { return Open(json::object()); }
  bool end_object() override { return Close(); }
  bool start_array(size_t) override { return Open(json::array()); }
  bool end_array() override { return Close(); }

  bool key(string_t& key) override {
    const auto [slot, inserted] =
        open_.back()->get_ref<json::object_t&>().try_emplace(std::move(key));
    if (!inserted) return Fail(Concat("duplicate key ", Quote(slot->first)));
    member_ = &slot->second;
    return true;
  }

  bool parse_error(size_t, const std::string&, const nlohmann::detail::exception& e) override {
    return Fail(CleanReason(e.what()));
  }

  json TakeRoot() { return std::move(root_); }
  const std::string& failure() const { return failure_; }
  const char* failed_at() const { return failed_at_; }

 private:
  // Stores a value where the document is at; null if the limit on values is passed.
  json* Add(json value) {
    if (++num_values_ > limits_.max_values) {
      Fail(Concat("more than ", limits_.max_values, " values"));
      return nullptr;
    }
    json* slot = &root_;
    if (!open_.empty() && open_.back()->is_array()) {
      slot = &open_.back()->get_ref<json::array_t&>().emplace_back();
    } else if (!open_.empty()) {
      slot = member_;
    }
    *slot = std::move(value);
    return slot;
  }

  bool Open(json container) {
    if (open_.size() >= static_cast<size_t>(limits_.max_depth)) {
      return Fail(Concat("lists and objects nested deeper than ", limits_.max_depth));
    }
    // The pointer stays valid while the container is open: only the innermost one grows.
    json* slot = Add(std::move(container));
    if (slot == nullptr) return false;
    open_.push_back(slot);
    return true;
  }

  bool Close() {
    open_.pop_back();
    return true;
  }

  bool Fail(std::string reason) {
    failure_ = std::move(reason);
    failed_at_ = *furthest_;
    return false;
  }

  const JsonLimits& limits_;
  const char* const* furthest_;
  json root_;
  std::vector<json*> open_;  // from the root to the innermost
  json* member_ = nullptr;   // where the value of the last key goes
  size_t num_values_ = 0;
  std::string failure_;
  const char* failed_at_ = nullptr;
};

Error ErrorAt(std::string_view text, std::string_view what, const char* position,
              std::string_view reason) {
  const std::string_view before = text.substr(0, static_cast<size_t>(position - text.data()));
  const auto line = 1 + std::count(before.begin(), before.end(), '\n');
  const size_t line_start = before.rfind('\n') + 1;  // npos + 1 is 0: the first line
  return CorruptFile(what, ": line ", line, ", column ", before.size() - line_start, " (byte ",
                     before.size(), "): ", reason);
}

}  // namespace

Result<json> ParseJson(std::string_view text, std::string_view what, const JsonLimits& limits) {
  if (text.size() > limits.max_bytes) {
    return CorruptFile(what, ": ", text.size(), " bytes of JSON, the limit is ", limits.max_bytes);
  }
  const char* furthest = text.data();
  Builder builder(limits, &furthest);
  const TrackingIterator begin(text.data(), &furthest);
  const TrackingIterator end(text.data() + text.size(), &furthest);
  try {
    if (json::sax_parse(begin, end, &builder)) return builder.TakeRoot();
  } catch (const std::bad_alloc&) {
    return Error{ErrorCode::kOutOfMemory, Concat(what, ": no memory to parse it")};
  } catch (const std::exception& e) {
    return ErrorAt(text, what, furthest, CleanReason(e.what()));
  }
  return ErrorAt(text, what, builder.failed_at(), builder.failure());
}

Result<json> ReadJsonFile(const std::string& path, const JsonLimits& limits) {
  MLA_ASSIGN_OR_RETURN(const std::string text, ReadFile(path, limits.max_bytes));
  return ParseJson(text, path, limits);
}

std::string DescribeJson(const json& value) {
  if (value.is_string()) return Quote(value.get_ref<const std::string&>());
  if (value.is_object()) return value.empty() ? "an empty object" : "an object";
  if (value.is_array()) return Concat("a list of ", value.size());
  return value.dump();
}

std::string Quote(std::string_view text) {
  constexpr size_t kMaxBytes = 80;
  constexpr char kHex[] = "0123456789abcdef";
  size_t length = std::min(text.size(), kMaxBytes);
  // Cut before a character, not within it.
  while (length < text.size() && length > 0 && (text[length] & 0xc0) == 0x80) --length;
  std::string quoted = "\"";
  for (const char c : text.substr(0, length)) {
    if (c == '"' || c == '\\') {
      quoted += {'\\', c};
    } else if (static_cast<unsigned char>(c) < 0x20 || c == 0x7f) {
      quoted += {'\\', 'x', kHex[(c >> 4) & 0xf], kHex[c & 0xf]};
    } else {
      quoted += c;
    }
  }
  return quoted + (length < text.size() ? "...\"" : "\"");
}

}  // namespace mla
