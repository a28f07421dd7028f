#include <algorithm>
#include <cmath>

#include "io/chat_template/functions.h"
#include "io/json.h"

namespace mla::jinja {
namespace {

Error WrongKinds(std::string_view op, const Value& left, const Value& right) {
  for (const Value* value : {&left, &right}) {
    if (const auto* undefined = std::get_if<Undefined>(value)) {
      return InvalidArgument(undefined->name.empty() ? "a value" : Quote(undefined->name),
                             " is undefined where '", op, "' is applied to it");
    }
  }
  return InvalidArgument("cannot apply '", op, "' to a ", KindName(left), " and a ",
                         KindName(right));
}

Result<Value> IntegerArithmetic(std::string_view op, int64_t a, int64_t b) {
  int64_t result = 0;
  bool overflow = false;
  if (op == "+") {
    overflow = __builtin_add_overflow(a, b, &result);
  } else if (op == "-") {
    overflow = __builtin_sub_overflow(a, b, &result);
  } else if (op == "*") {
    overflow = __builtin_mul_overflow(a, b, &result);
  } else if (op == "**") {
    if (b < 0) return Value(std::pow(static_cast<double>(a), static_cast<double>(b)));
    result = 1;
    if (a == 1 || a == -1) b &= 1;  // the others overflow within 63 steps
    if (a == 0 && b > 0) b = 1;
    for (; b > 0 && !overflow; --b) overflow = __builtin_mul_overflow(result, a, &result);
  } else if (b == 0) {
    return InvalidArgument("division of ", a, " by zero");
  } else if (op == "/") {
    return Value(static_cast<double>(a) / static_cast<double>(b));
  } else if (b == -1) {  // the quotient of the least integer overflows
    if (op == "//") overflow = __builtin_sub_overflow(int64_t{0}, a, &result);
  } else {
    // To the floor, as Python rounds.
    const int64_t remainder = a % b;
    const bool below = remainder != 0 && (remainder < 0) != (b < 0);
    result = op == "//" ? a / b - (below ? 1 : 0) : remainder + (below ? b : 0);
  }
  if (overflow) return InvalidArgument(a, " ", op, " ", b, " is beyond 64-bit integers");
  return Value(result);
}

Result<Value> FloatArithmetic(std::string_view op, double a, double b) {
  if (op == "+") return Value(a + b);
  if (op == "-") return Value(a - b);
  if (op == "*") return Value(a * b);
  if (op == "**") return Value(std::pow(a, b));
  if (b == 0) return InvalidArgument("division of ", a, " by zero");
  if (op == "/") return Value(a / b);
  const double floored = std::floor(a / b);
  if (op == "//") return Value(floored);
  double remainder = std::fmod(a, b);
  if (remainder != 0 && (remainder < 0) != (b < 0)) remainder += b;
  return Value(remainder);
}

Result<Value> Concatenate(const Text& left, const Text& right, Budget* budget) {
  MLA_RETURN_IF_ERROR(budget->Allocate(2 * (left.size() + right.size())));
  Text text = left;
  text.Append(right);
  return Value(std::move(text));
}

Result<Value> Repeat(const Value& value, int64_t count, Budget* budget) {
  count = std::max<int64_t>(count, 0);
  const size_t size = value.text() != nullptr ? 2 * value.text()->size()
                                              : value.list()->items.size() * sizeof(Value);
  size_t total = 0;
  if (__builtin_mul_overflow(size, static_cast<size_t>(count), &total)) total = SIZE_MAX;
  MLA_RETURN_IF_ERROR(budget->Allocate(total));
  if (size == 0) return value;
  if (const Text* text = value.text()) {
    Text repeated;
    for (int64_t i = 0; i < count; ++i) repeated.Append(*text);
    return Value(std::move(repeated));
  }
  const List& list = *value.list();
  List repeated{list.form, {}};
  for (int64_t i = 0; i < count; ++i) {
    repeated.items.insert(repeated.items.end(), list.items.begin(), list.items.end());
  }
  return Value(std::move(repeated));
}

bool IsSequence(const Value& value) {
  const List* list = value.list();
  return list != nullptr && (list->form == List::Form::kList || list->form == List::Form::kTuple);
}

Result<bool> Contains(const Value& container, const Value& item, Budget* budget) {
  if (const Text* text = container.text()) {
    if (item.text() == nullptr) return WrongKinds("in", item, container);
    MLA_RETURN_IF_ERROR(budget->Step(text->size() / 64 + 1));
    return FindBytes(text->bytes(), item.text()->bytes(), 0) != std::string::npos;
  }
  MLA_RETURN_IF_ERROR(budget->Step(WeightOf(container)));
  if (const Map* map = container.map()) return map->Find(item) != nullptr;
  if (const List* list = container.list()) {
    return std::any_of(list->items.begin(), list->items.end(),
                       [&](const Value& other) { return Equal(item, other); });
  }
  if (container.IsUndefined()) return false;
  return WrongKinds("in", item, container);
}

// One bound of a slice, as Python clips it.
int64_t Clip(std::optional<int64_t> bound, int64_t fallback, int64_t size, bool forward) {
  if (!bound) return fallback;
  const int64_t low = forward ? 0 : -1, high = forward ? size : size - 1;
  int64_t at = *bound;
  if (at < 0) at = at < -size ? low : at + size;
  return std::clamp(at, low, high);
}

}  // namespace

Result<Value> Arithmetic(std::string_view op, const Value& left, const Value& right,
                         Budget* budget) {
  if (op == "~") {
    MLA_RETURN_IF_ERROR(budget->Allocate(64 * (WeightOf(left) + WeightOf(right))));
    MLA_ASSIGN_OR_RETURN(const Text first, ToText(left));
    MLA_ASSIGN_OR_RETURN(const Text second, ToText(right));
    return Concatenate(first, second, budget);
  }
  if (left.IsInteger() && right.IsInteger()) {
    return IntegerArithmetic(op, left.ToInteger(), right.ToInteger());
  }
  if (left.IsNumber() && right.IsNumber()) {
    return FloatArithmetic(op, left.ToDouble(), right.ToDouble());
  }
  if (op == "+" && left.text() != nullptr && right.text() != nullptr) {
    return Concatenate(*left.text(), *right.text(), budget);
  }
  if (op == "+" && IsSequence(left) && IsSequence(right) &&
      left.list()->form == right.list()->form) {
    List joined = *left.list();
    const std::vector<Value>& more = right.list()->items;
    MLA_RETURN_IF_ERROR(budget->Allocate((joined.items.size() + more.size()) * sizeof(Value)));
    joined.items.insert(joined.items.end(), more.begin(), more.end());
    return Value(std::move(joined));
  }
  if (op == "*") {
    const auto repeats = [](const Value& value, const Value& count) {
      return (value.text() != nullptr || IsSequence(value)) && count.IsInteger();
    };
    if (repeats(left, right)) return Repeat(left, right.ToInteger(), budget);
    if (repeats(right, left)) return Repeat(right, left.ToInteger(), budget);
  }
  if (op == "%" && left.text() != nullptr) {
    return Unsupported("formatting a string with % is not supported");
  }
  return WrongKinds(op, left, right);
}

Result<bool> Relation(std::string_view op, const Value& left, const Value& right, Budget* budget) {
  if (op == "in") return Contains(right, left, budget);
  if (op == "not in") {
    MLA_ASSIGN_OR_RETURN(const bool found, Contains(right, left, budget));
    return !found;
  }
  MLA_RETURN_IF_ERROR(budget->Step(std::min(WeightOf(left), WeightOf(right))));
  if (op == "==") return Equal(left, right);
  if (op == "!=") return !Equal(left, right);
  const Result<int> order = Compare(left, right);
  if (!order.ok()) return WrongKinds(op, left, right);
  if (left.IsNumber() && (std::isnan(left.ToDouble()) || std::isnan(right.ToDouble()))) {
    return false;
  }
  if (op == "<") return *order < 0;
  if (op == "<=") return *order <= 0;
  return op == ">" ? *order > 0 : *order >= 0;
}

Result<Value> Negate(const Value& value) {
  if (value.IsInteger()) return IntegerArithmetic("-", 0, value.ToInteger());
  if (value.IsNumber()) return Value(-value.ToDouble());
  return InvalidArgument("cannot negate a ", KindName(value));
}

Result<Value> GetItem(const Value& container, const Value& key, Budget* budget) {
  if (const Map* map = container.map()) {
    MLA_RETURN_IF_ERROR(budget->Step(map->entries.size() / 8 + 1));
    if (const Value* found = map->Find(key)) return *found;
  } else if (container.list() != nullptr && key.IsInteger() && IsSequence(container)) {
    const std::vector<Value>& items = container.list()->items;
    int64_t at = key.ToInteger();
    if (at < 0) at += std::ssize(items);
    if (at >= 0 && at < std::ssize(items)) return items[static_cast<size_t>(at)];
    return Value(Undefined{});
  } else if (const Text* text = container.text(); text != nullptr && key.IsInteger()) {
    const int64_t at = key.ToInteger();
    const std::optional<int64_t> end = at == -1 ? std::nullopt : std::optional<int64_t>(at + 1);
    MLA_ASSIGN_OR_RETURN(Value item, GetSlice(container, {at, end, std::nullopt}, budget));
    return item.text()->empty() ? Value(Undefined{}) : item;
  }
  if (const Text* name = key.text()) {
    // A dict's own entries stand before its methods here, and after them in GetAttribute.
    if (IsMethod(container, name->bytes())) return GetAttribute(container, name->bytes(), budget);
  }
  if (container.IsUndefined()) return WrongKinds("[]", container, key);
  return Value(Undefined{});
}

Result<Value> GetSlice(const Value& container, const std::optional<int64_t> (&bounds)[3],
                       Budget* budget) {
  if (container.text() == nullptr && !IsSequence(container)) {
    return InvalidArgument("a ", KindName(container), " has no slices");
  }
  const Text* text = container.text();
  const int64_t step = bounds[2].value_or(1);
  if (step == 0) return InvalidArgument("the step of a slice is 0");
  MLA_RETURN_IF_ERROR(budget->Allocate(text != nullptr
                                           ? text->size() * (step == 1 ? 2 : 66)
                                           : container.list()->items.size() * sizeof(Value)));
  const auto size = static_cast<int64_t>(text != nullptr ? CountCharacters(text->bytes())
                                                         : container.list()->items.size());
  const bool forward = step > 0;
  const int64_t begin = Clip(bounds[0], forward ? 0 : size - 1, size, forward);
  const int64_t end = Clip(bounds[1], forward ? size : -1, size, forward);
  if (text != nullptr && step == 1) {
    const auto offset = [&](int64_t character) {
      size_t at = 0;
      const std::string& bytes = text->bytes();
      for (; at < bytes.size(); ++at) {
        if ((static_cast<uint8_t>(bytes[at]) & 0xc0) != 0x80 && character-- == 0) break;
      }
      return at;
    };
    return Value(begin < end ? text->Slice(offset(begin), offset(end)) : Text());
  }
  std::vector<int64_t> picked;
  for (int64_t at = begin; forward ? at < end : at > end;) {
    picked.push_back(at);
    if (__builtin_add_overflow(at, step, &at)) break;
  }
  if (text != nullptr) {
    const std::vector<Text> characters = SplitCharacters(*text);
    Text slice;
    for (const int64_t at : picked) slice.Append(characters[static_cast<size_t>(at)]);
    return Value(std::move(slice));
  }
  List slice{container.list()->form, {}};
  for (const int64_t at : picked) {
    slice.items.push_back(container.list()->items[static_cast<size_t>(at)]);
  }
  return Value(std::move(slice));
}

}  // namespace mla::jinja
