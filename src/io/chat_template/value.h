// The values of a template: what Jinja gets from Python, immutable, every string knowing which of
// its bytes came from the conversation.
#ifndef MLA_IO_CHAT_TEMPLATE_VALUE_H_
#define MLA_IO_CHAT_TEMPLATE_VALUE_H_

#include <cstdint>
#include <memory>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include "io/chat_template/budget.h"
#include "mla/result.h"

namespace mla::jinja {

// UTF-8, and per byte where it comes from. Whatever is made of a byte keeps its origin.
class Text {
 public:
  static constexpr char kTemplate = 0;
  static constexpr char kInput = 1;

  Text() = default;
  explicit Text(std::string_view bytes, char origin = kTemplate)
      : bytes_(bytes), origins_(bytes.size(), origin) {}

  const std::string& bytes() const { return bytes_; }
  const std::string& origins() const { return origins_; }  // as long as bytes()
  size_t size() const { return bytes_.size(); }
  bool empty() const { return bytes_.empty(); }

  void Append(std::string_view bytes, char origin = kTemplate) {
    bytes_ += bytes;
    origins_.append(bytes.size(), origin);
  }
  void Append(const Text& other) {
    bytes_ += other.bytes_;
    origins_ += other.origins_;
  }
  void Append(const Text& other, size_t begin, size_t end) {
    bytes_.append(other.bytes_, begin, end - begin);
    origins_.append(other.origins_, begin, end - begin);
  }
  Text Slice(size_t begin, size_t end) const {
    Text slice;
    slice.Append(*this, begin, end);
    return slice;
  }

 private:
  std::string bytes_, origins_;
};

class Value;
struct List;
struct Map;
struct Namespace;
struct Closure;
struct Loop;

struct Undefined {
  std::string_view name;  // for messages; of the template's source, or empty
};
struct None {};

// A function that the template may call by name, or a method of a value.
struct Builtin {
  std::string_view name;
  std::shared_ptr<const Value> self;  // null: a global function
};

// Namespaces, macros and loops belong to the evaluator: values refer to them and may form cycles.
using ValueBase = std::variant<Undefined, None, bool, int64_t, double, std::shared_ptr<const Text>,
                               std::shared_ptr<const List>, std::shared_ptr<const Map>, Namespace*,
                               const Closure*, const Loop*, Builtin>;

class Value : public ValueBase {
 public:
  using ValueBase::ValueBase;
  Value(Text text) : ValueBase(std::make_shared<const Text>(std::move(text))) {}
  Value(List list);
  Value(Map map);
  // Of the template's own making.
  static Value String(std::string_view text) { return Value(Text(text)); }

  template <typename T>
  bool Is() const {
    return std::holds_alternative<T>(*this);
  }
  bool IsUndefined() const { return Is<Undefined>(); }
  bool IsNone() const { return Is<None>(); }
  // Null if it is of another kind.
  const Text* text() const { return Shared<Text>(); }
  const List* list() const { return Shared<List>(); }
  const Map* map() const { return Shared<Map>(); }
  bool IsNumber() const { return Is<bool>() || Is<int64_t>() || Is<double>(); }
  bool IsInteger() const { return Is<bool>() || Is<int64_t>(); }  // as Python counts
  int64_t ToInteger() const;                                      // requires IsInteger()
  double ToDouble() const;                                        // requires IsNumber()

 private:
  template <typename T>
  const T* Shared() const {
    const auto* shared = std::get_if<std::shared_ptr<const T>>(this);
    return shared == nullptr ? nullptr : shared->get();
  }
};

// How a sequence came to be: a view is what keys(), values() and items() give, a generator what
// lazy filters give. They can be iterated and tested like Python's, not indexed.
struct List {
  enum class Form { kList, kTuple, kView, kGenerator };
  Form form = Form::kList;
  std::vector<Value> items;
  int depth = 1;  // set when it becomes a Value, as those below
  size_t weight = 1;
};

// A dict, in order of insertion.
struct Map {
  std::vector<std::pair<Value, Value>> entries;
  int depth = 1;
  size_t weight = 1;

  const Value* Find(const Value& key) const;
  const Value* Find(std::string_view key) const;
  void Set(Value key, Value value);
};

struct Namespace {
  std::vector<std::pair<std::string, Value>> fields;

  const Value* Find(std::string_view name) const;
  void Set(std::string_view name, Value value);
};

// Bounds of every recursion over a value: lists and dicts within one another, and the work of going
// through all of it, counted in values and in 64 bytes of strings (what is shared counts each
// time).
inline constexpr int kMaxValueDepth = 64;
inline constexpr size_t kMaxValueWeight = size_t{1} << 24;
size_t WeightOf(const Value& value);
Status CheckSize(const Value& value);  // kInvalidArgument beyond either

std::string_view KindName(const Value& value);  // as Python names it: "str", "dict", "NoneType"
bool IsTrue(const Value& value);
bool Equal(const Value& a, const Value& b);
// Negative, zero or positive; an error for values that have no order.
Result<int> Compare(const Value& a, const Value& b);

// What `{{ value }}` writes: str(value). kUnsupported for functions, namespaces and generators.
Result<Text> ToText(const Value& value);
std::string FormatDouble(double value);  // as Python's repr

// What `for` goes through: items, keys, characters. An error for other kinds.
Result<std::vector<Value>> Iterate(const Value& value, Budget* budget);

size_t CountCharacters(std::string_view text);
std::vector<Text> SplitCharacters(const Text& text);

struct JsonStyle {
  int indent = -1;  // -1: on one line
  bool ensure_ascii = false;
  bool sort_keys = false;
  std::string item_separator = ", ", key_separator = ": ";
};
// As Python's json.dumps.
Result<Text> ToJson(const Value& value, const JsonStyle& style);

// Strings, keys included, become input. kInvalidArgument for text that is not UTF-8, nesting beyond
// kMaxValueDepth and integers beyond 64 bits.
Result<Value> FromJson(const nlohmann::ordered_json& json, int depth = 0);

}  // namespace mla::jinja

#endif  // MLA_IO_CHAT_TEMPLATE_VALUE_H_
