// Jinja's tests: what stands after "is".
#include <algorithm>

#include "io/chat_template/functions.h"
#include "io/json.h"

namespace mla::jinja {
namespace {

struct TestCall {
  const Environment& env;
  std::string_view name;
  const Value& value;
  const CallArguments& arguments;
};

bool IsIterable(const Value& value) {
  return value.text() != nullptr || value.list() != nullptr || value.map() != nullptr ||
         value.IsUndefined();
}

// By the kind of the value alone; nothing for another test.
std::optional<bool> KindTest(std::string_view name, const Value& value) {
  if (name == "defined") return !value.IsUndefined();
  if (name == "undefined") return value.IsUndefined();
  if (name == "none") return value.IsNone();
  if (name == "boolean") return value.Is<bool>();
  if (name == "true") return value.Is<bool>() && IsTrue(value);
  if (name == "false") return value.Is<bool>() && !IsTrue(value);
  if (name == "integer") return value.Is<int64_t>();
  if (name == "float") return value.Is<double>();
  if (name == "number") return value.IsNumber();
  if (name == "string") return value.text() != nullptr;
  if (name == "mapping") return value.map() != nullptr;
  if (name == "iterable") return IsIterable(value);
  if (name == "callable") return value.Is<const Closure*>() || value.Is<Builtin>();
  if (name == "sequence") {
    const List* list = value.list();
    return value.text() != nullptr || value.map() != nullptr || value.IsUndefined() ||
           (list != nullptr && list->form != List::Form::kView &&
            list->form != List::Form::kGenerator);
  }
  return std::nullopt;
}

Result<bool> Divides(const TestCall& call) {
  MLA_ASSIGN_OR_RETURN(const Bound bound, Bind(call.name, call.arguments, {"num"}));
  const bool parity = call.name == "odd" || call.name == "even";
  const Value divisor = parity ? Value(int64_t{2}) : bound[0].value_or(Value(Undefined{}));
  MLA_ASSIGN_OR_RETURN(const Value rest, Arithmetic("%", call.value, divisor, call.env.budget));
  return Equal(rest, Value(int64_t{call.name == "odd" ? 1 : 0}));
}

Result<bool> Cased(const TestCall& call) {
  MLA_RETURN_IF_ERROR(call.env.budget->Allocate(128 * WeightOf(call.value)));
  MLA_ASSIGN_OR_RETURN(const Text text, ToText(call.value));
  MLA_ASSIGN_OR_RETURN(
      const Value cased,
      CallMethod(call.env, Value(text), call.name == "upper" ? "isupper" : "islower", {}));
  return IsTrue(cased);
}

bool Same(const Value& a, const Value& b) { return a.index() == b.index() && Equal(a, b); }

constexpr std::pair<std::string_view, std::string_view> kRelations[] = {
    {"equalto", "=="}, {"eq", "=="}, {"==", "=="}, {"ne", "!="}, {"!=", "!="}, {"lt", "<"},
    {"lessthan", "<"}, {"<", "<"},   {"le", "<="}, {"<=", "<="}, {"gt", ">"},  {"greaterthan", ">"},
    {">", ">"},        {"ge", ">="}, {">=", ">="}, {"in", "in"}};

std::string_view RelationOf(std::string_view name) {
  for (const auto& [test, relation] : kRelations) {
    if (test == name) return relation;
  }
  return {};
}

constexpr std::string_view kOthers[] = {"odd",   "even",   "divisibleby", "upper",
                                        "lower", "sameas", "filter",      "test"};

}  // namespace

bool HasTest(std::string_view name) {
  return KindTest(name, Value(Undefined{})).has_value() || !RelationOf(name).empty() ||
         std::find(std::begin(kOthers), std::end(kOthers), name) != std::end(kOthers);
}

Result<bool> ApplyTest(const Environment& env, std::string_view name, const Value& value,
                       const CallArguments& arguments) {
  if (!HasTest(name)) return Unsupported("the test ", Quote(name), " is not supported");
  MLA_RETURN_IF_ERROR(env.budget->Step());
  if (const std::optional<bool> answer = KindTest(name, value)) {
    MLA_ASSIGN_OR_RETURN(const Bound none, Bind(name, arguments, {}));
    return *answer;
  }
  const TestCall call{env, name, value, arguments};
  if (name == "odd" || name == "even" || name == "divisibleby") return Divides(call);
  if (name == "upper" || name == "lower") return Cased(call);
  if (name == "filter" || name == "test") {
    if (value.text() == nullptr) return false;
    return name == "filter" ? HasFilter(value.text()->bytes()) : HasTest(value.text()->bytes());
  }
  MLA_ASSIGN_OR_RETURN(const Bound bound, Bind(name, arguments, {"other"}));
  if (!bound[0]) return InvalidArgument("the test ", name, " needs an argument");
  if (name == "sameas") {
    MLA_RETURN_IF_ERROR(env.budget->Step(WeightOf(value)));
    return Same(value, *bound[0]);
  }
  return Relation(RelationOf(name), value, *bound[0], env.budget);
}

}  // namespace mla::jinja
