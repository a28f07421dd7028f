#include <algorithm>
#include <numeric>

#include "io/chat_template/filters.h"
#include "io/json.h"

namespace mla::jinja {
namespace {

Result<std::vector<Value>> Items(const FilterCall& call) {
  return Iterate(call.value, call.env.budget);
}

// Lazy filters do not look into what is false.
Result<std::vector<Value>> ItemsIfTrue(const FilterCall& call) {
  if (!IsTrue(call.value)) return std::vector<Value>();
  return Items(call);
}

// "a.b.0" of an item; undefined where it has none.
Result<Value> AttributePath(const FilterCall& call, Value value, const Value& path) {
  if (path.IsInteger()) return GetItem(value, path, call.env.budget);
  if (path.text() == nullptr) {
    return InvalidArgument(call.name, ": the attribute is a ", KindName(path), ", want a str");
  }
  std::string_view rest = path.text()->bytes();
  for (;;) {
    const size_t dot = rest.find('.');
    const std::string_view part = rest.substr(0, dot);
    int64_t index = 0;
    const bool numeric =
        !part.empty() && part.size() < 10 &&
        std::all_of(part.begin(), part.end(), [](char c) { return c >= '0' && c <= '9'; });
    if (numeric) index = std::stoll(std::string(part));
    MLA_ASSIGN_OR_RETURN(
        value, GetItem(value, numeric ? Value(index) : Value::String(part), call.env.budget));
    if (dot == rest.npos) return value;
    rest.remove_prefix(dot + 1);
  }
}

// Strings compare without case unless told otherwise.
Value SortKey(Value value, bool case_sensitive) {
  if (case_sensitive || value.text() == nullptr) return value;
  return Value(ToLower(*value.text()));
}

// The order of the keys, equal ones as they were.
Result<std::vector<size_t>> Order(const FilterCall& call, const std::vector<Value>& keys,
                                  bool reverse) {
  std::vector<size_t> order(keys.size());
  std::iota(order.begin(), order.end(), size_t{0});
  Status status;
  std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) {
    if (!status.ok()) return false;
    const Value &left = keys[reverse ? b : a], &right = keys[reverse ? a : b];
    const Result<bool> less = Relation("<", left, right, call.env.budget);
    if (!less.ok()) status = less.error();
    return less.ok() && *less;
  });
  MLA_RETURN_IF_ERROR(status);
  return order;
}

Result<Value> Length(const FilterCall& call) {
  MLA_ASSIGN_OR_RETURN(const Bound none, Bind(call.name, call.arguments, {}));
  const Value& value = call.value;
  if (const Text* text = value.text()) {
    MLA_RETURN_IF_ERROR(call.env.budget->Step(text->size() / 64));
    return Value(static_cast<int64_t>(CountCharacters(text->bytes())));
  }
  if (value.list() != nullptr && value.list()->form != List::Form::kGenerator) {
    return Value(std::ssize(value.list()->items));
  }
  if (value.map() != nullptr) return Value(std::ssize(value.map()->entries));
  if (value.IsUndefined()) return Value(int64_t{0});
  return InvalidArgument("a ", KindName(value), " has no length");
}

Result<Value> FirstOrLast(const FilterCall& call) {
  MLA_ASSIGN_OR_RETURN(const Bound none, Bind(call.name, call.arguments, {}));
  MLA_ASSIGN_OR_RETURN(const std::vector<Value> items, Items(call));
  if (items.empty()) return Value(Undefined{});
  return call.name == "first" ? items.front() : items.back();
}

Result<Value> ToList(const FilterCall& call) {
  MLA_ASSIGN_OR_RETURN(const Bound none, Bind(call.name, call.arguments, {}));
  MLA_ASSIGN_OR_RETURN(std::vector<Value> items, Items(call));
  return Value(List{List::Form::kList, std::move(items)});
}

Result<Value> ItemsFilter(const FilterCall& call) {
  MLA_ASSIGN_OR_RETURN(const Bound none, Bind(call.name, call.arguments, {}));
  if (call.value.IsUndefined()) return Value(List{List::Form::kGenerator, {}});
  if (call.value.map() == nullptr) {
    return InvalidArgument("items: the value is a ", KindName(call.value), ", want a dict");
  }
  MLA_ASSIGN_OR_RETURN(const Value view, CallMethod(call.env, call.value, "items", {}));
  return Value(List{List::Form::kGenerator, view.list()->items});
}

Result<Value> Reverse(const FilterCall& call) {
  MLA_ASSIGN_OR_RETURN(const Bound none, Bind(call.name, call.arguments, {}));
  if (call.value.text() != nullptr) {
    return GetSlice(call.value, {std::nullopt, std::nullopt, -1}, call.env.budget);
  }
  MLA_ASSIGN_OR_RETURN(std::vector<Value> items, Items(call));
  std::reverse(items.begin(), items.end());
  return Value(List{List::Form::kGenerator, std::move(items)});
}

Result<Value> Join(const FilterCall& call) {
  MLA_ASSIGN_OR_RETURN(const Bound bound, Bind(call.name, call.arguments, {"d", "attribute"}));
  const Value separator_value = bound[0].value_or(Value::String(""));
  MLA_ASSIGN_OR_RETURN(const Text separator, ToText(separator_value));
  MLA_ASSIGN_OR_RETURN(const std::vector<Value> items, Items(call));
  Text out;
  for (size_t i = 0; i < items.size(); ++i) {
    Value item = items[i];
    if (bound[1] && !bound[1]->IsNone()) {
      MLA_ASSIGN_OR_RETURN(item, AttributePath(call, std::move(item), *bound[1]));
    }
    MLA_RETURN_IF_ERROR(call.env.budget->Allocate(128 * WeightOf(item) + 2 * separator.size()));
    MLA_ASSIGN_OR_RETURN(const Text text, ToText(item));
    if (i > 0) out.Append(separator);
    out.Append(text);
  }
  return Value(std::move(out));
}

// map("upper"), map(attribute="name", default=x)
Result<Value> MapFilter(const FilterCall& call) {
  MLA_ASSIGN_OR_RETURN(std::vector<Value> items, ItemsIfTrue(call));
  CallArguments rest;
  std::string filter;
  std::optional<Value> attribute, fallback;
  if (!call.arguments.positional.empty()) {
    const Value& name = call.arguments.positional[0];
    if (name.text() == nullptr) return InvalidArgument("map: the filter's name is no str");
    filter = name.text()->bytes();
    rest.positional.assign(call.arguments.positional.begin() + 1, call.arguments.positional.end());
    rest.named = call.arguments.named;
  } else {
    MLA_ASSIGN_OR_RETURN(const Bound bound,
                         Bind(call.name, call.arguments, {"attribute", "default"}));
    attribute = bound[0];
    fallback = bound[1];
    if (!attribute) return InvalidArgument("map needs a filter or an attribute");
  }
  if (!attribute && !HasFilter(filter)) {
    return Unsupported("the filter ", Quote(filter), " is not supported");
  }
  for (Value& item : items) {
    if (attribute) {
      MLA_ASSIGN_OR_RETURN(item, AttributePath(call, item, *attribute));
      if (item.IsUndefined() && fallback) item = *fallback;
    } else {
      const Value before = item;
      MLA_ASSIGN_OR_RETURN(item, ApplyFilter(call.env, filter, before, rest));
      MLA_RETURN_IF_ERROR(CheckSize(item));
    }
  }
  return Value(List{List::Form::kGenerator, std::move(items)});
}

// select, reject, selectattr, rejectattr: by a test, or by being true.
Result<Value> Select(const FilterCall& call) {
  const bool of_attribute = call.name.ends_with("attr");
  const bool wanted = call.name.starts_with("select");
  CallArguments rest = call.arguments;
  const auto take = [&] {
    Value value = std::move(rest.positional.front());
    rest.positional.erase(rest.positional.begin());
    return value;
  };
  Value attribute(Undefined{}), test(Undefined{});
  if (of_attribute) {
    if (rest.positional.empty()) return InvalidArgument(call.name, " needs an attribute");
    attribute = take();
  }
  if (!rest.positional.empty()) {
    test = take();
    if (test.text() == nullptr) return InvalidArgument(call.name, ": the test's name is no str");
    if (!HasTest(test.text()->bytes())) {
      return Unsupported("the test ", Quote(test.text()->bytes()), " is not supported");
    }
  }
  MLA_ASSIGN_OR_RETURN(const std::vector<Value> items, ItemsIfTrue(call));
  List kept{List::Form::kGenerator, {}};
  for (const Value& item : items) {
    Value subject = item;
    if (of_attribute) {
      MLA_ASSIGN_OR_RETURN(subject, AttributePath(call, item, attribute));
    }
    bool passes = IsTrue(subject);
    if (test.text() != nullptr) {
      MLA_ASSIGN_OR_RETURN(passes, ApplyTest(call.env, test.text()->bytes(), subject, rest));
    }
    if (passes == wanted) kept.items.push_back(item);
  }
  return Value(std::move(kept));
}

Result<Value> Sort(const FilterCall& call) {
  MLA_ASSIGN_OR_RETURN(const Bound bound,
                       Bind(call.name, call.arguments, {"reverse", "case_sensitive", "attribute"}));
  MLA_ASSIGN_OR_RETURN(const std::vector<Value> items, Items(call));
  const bool case_sensitive = TruthOr(bound[1], false);
  std::vector<Value> keys;
  for (const Value& item : items) {
    MLA_RETURN_IF_ERROR(call.env.budget->Allocate(64 * WeightOf(item)));
    Value key = item;
    if (bound[2] && !bound[2]->IsNone()) {
      MLA_ASSIGN_OR_RETURN(key, AttributePath(call, item, *bound[2]));
    }
    keys.push_back(SortKey(std::move(key), case_sensitive));
  }
  MLA_ASSIGN_OR_RETURN(const std::vector<size_t> order,
                       Order(call, keys, TruthOr(bound[0], false)));
  List sorted;
  for (const size_t at : order) sorted.items.push_back(items[at]);
  return Value(std::move(sorted));
}

Result<Value> DictSort(const FilterCall& call) {
  MLA_ASSIGN_OR_RETURN(const Bound bound,
                       Bind(call.name, call.arguments, {"case_sensitive", "by", "reverse"}));
  MLA_ASSIGN_OR_RETURN(const Text by, TextOr(call.name, bound[1], "key"));
  if (by.bytes() != "key" && by.bytes() != "value") {
    return InvalidArgument("dictsort: by is ", Quote(by.bytes()), ", want key or value");
  }
  MLA_ASSIGN_OR_RETURN(const Value view, ItemsFilter({call.env, call.name, call.value, {}}));
  const std::vector<Value>& items = view.list()->items;
  std::vector<Value> keys;
  for (const Value& item : items) {
    MLA_RETURN_IF_ERROR(call.env.budget->Allocate(64 * WeightOf(item)));
    keys.push_back(
        SortKey(item.list()->items[by.bytes() == "key" ? 0 : 1], TruthOr(bound[0], false)));
  }
  MLA_ASSIGN_OR_RETURN(const std::vector<size_t> order,
                       Order(call, keys, TruthOr(bound[2], false)));
  List sorted;
  for (const size_t at : order) sorted.items.push_back(items[at]);
  return Value(std::move(sorted));
}

Result<Value> Unique(const FilterCall& call) {
  MLA_ASSIGN_OR_RETURN(const Bound bound,
                       Bind(call.name, call.arguments, {"case_sensitive", "attribute"}));
  MLA_ASSIGN_OR_RETURN(const std::vector<Value> items, Items(call));
  List kept{List::Form::kGenerator, {}};
  std::vector<Value> seen;
  for (const Value& item : items) {
    MLA_RETURN_IF_ERROR(call.env.budget->Allocate(64 * WeightOf(item)));
    Value key = item;
    if (bound[1] && !bound[1]->IsNone()) {
      MLA_ASSIGN_OR_RETURN(key, AttributePath(call, item, *bound[1]));
    }
    key = SortKey(std::move(key), TruthOr(bound[0], false));
    MLA_RETURN_IF_ERROR(call.env.budget->Step(seen.size() * WeightOf(key)));
    const bool known = std::any_of(seen.begin(), seen.end(),
                                   [&](const Value& other) { return Equal(key, other); });
    if (known) continue;
    seen.push_back(std::move(key));
    kept.items.push_back(item);
  }
  return Value(std::move(kept));
}

Result<Value> MinOrMax(const FilterCall& call) {
  MLA_ASSIGN_OR_RETURN(const Bound bound,
                       Bind(call.name, call.arguments, {"case_sensitive", "attribute"}));
  CallArguments arguments;
  arguments.named = call.arguments.named;
  arguments.positional = {Value(call.name == "max")};
  arguments.positional.insert(arguments.positional.end(), call.arguments.positional.begin(),
                              call.arguments.positional.end());
  MLA_ASSIGN_OR_RETURN(const Value sorted, Sort({call.env, "sort", call.value, arguments}));
  const std::vector<Value>& items = sorted.list()->items;
  return items.empty() ? Value(Undefined{}) : items.front();
}

Result<Value> Sum(const FilterCall& call) {
  MLA_ASSIGN_OR_RETURN(const Bound bound, Bind(call.name, call.arguments, {"attribute", "start"}));
  MLA_ASSIGN_OR_RETURN(const std::vector<Value> items, Items(call));
  Value total = bound[1].value_or(Value(int64_t{0}));
  for (const Value& item : items) {
    Value term = item;
    if (bound[0] && !bound[0]->IsNone()) {
      MLA_ASSIGN_OR_RETURN(term, AttributePath(call, item, *bound[0]));
    }
    MLA_ASSIGN_OR_RETURN(total, Arithmetic("+", total, term, call.env.budget));
  }
  return total;
}

constexpr FilterEntry kSequenceFilters[] = {
    {"count", Length},      {"dictsort", DictSort}, {"first", FirstOrLast}, {"items", ItemsFilter},
    {"join", Join},         {"last", FirstOrLast},  {"length", Length},     {"list", ToList},
    {"map", MapFilter},     {"max", MinOrMax},      {"min", MinOrMax},      {"reject", Select},
    {"rejectattr", Select}, {"reverse", Reverse},   {"select", Select},     {"selectattr", Select},
    {"sort", Sort},         {"sum", Sum},           {"unique", Unique}};

}  // namespace

std::span<const FilterEntry> SequenceFilters() { return kSequenceFilters; }

}  // namespace mla::jinja
