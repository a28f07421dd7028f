#include <algorithm>

#include "io/chat_template/evaluator.h"
#include "io/json.h"

namespace mla::jinja {
namespace {

constexpr std::string_view kGlobals[] = {"range",        "dict",   "namespace", "raise_exception",
                                         "strftime_now", "cycler", "joiner",    "lipsum"};

template <typename T>
Result<Value> AtLine(int line, const Result<T>& result) {
  if (result.ok()) return Value(*result);
  return Error{result.error().code, Concat("line ", line, ": ", result.error().message)};
}

Error UndefinedError(const Value& value, std::string_view what) {
  const std::string_view name = std::get<Undefined>(value).name;
  return InvalidArgument(name.empty() ? std::string("a value") : Quote(name), " is undefined, ",
                         what);
}

}  // namespace

Result<Value> Evaluator::Evaluate(const Expr& expr, Scope* scope) {
  ++depth_;
  Result<Value> value =
      depth_ <= kMaxDepth
          ? EvaluateKind(expr, scope)
          : InvalidArgument("line ", expr.line, ": blocks, expressions and macros are nested ",
                            "deeper than ", kMaxDepth);
  --depth_;
  if (!value.ok()) return value;
  Status status = env_.budget->Step();
  if (status.ok()) status = CheckSize(*value);
  if (!status.ok()) return AtLine(expr.line, Result<Value>(status.error()));
  return value;
}

Result<Value> Evaluator::EvaluateKind(const Expr& expr, Scope* scope) {
  switch (expr.kind) {
    case ExprKind::kConst: return expr.value;
    case ExprKind::kName: return EvaluateName(expr, scope);
    case ExprKind::kList:
    case ExprKind::kTuple: return EvaluateItems(expr, scope);
    case ExprKind::kDict: return EvaluateDict(expr, scope);
    case ExprKind::kAttribute: return EvaluateAttribute(expr, scope);
    case ExprKind::kItem: {
      MLA_ASSIGN_OR_RETURN(const Value container, Evaluate(*expr.left, scope));
      MLA_ASSIGN_OR_RETURN(const Value key, Evaluate(*expr.right, scope));
      if (container.Is<Namespace*>() && key.text() != nullptr) {
        const Value* found = std::get<Namespace*>(container)->Find(key.text()->bytes());
        return found != nullptr ? *found : Value(Undefined{});
      }
      return AtLine(expr.line, GetItem(container, key, env_.budget));
    }
    case ExprKind::kSlice: return EvaluateSlice(expr, scope);
    case ExprKind::kCall: return EvaluateCall(expr, scope);
    case ExprKind::kFilter: return EvaluateFilter(expr, scope);
    case ExprKind::kTest: return EvaluateTest(expr, scope);
    case ExprKind::kUnary: return EvaluateUnary(expr, scope);
    case ExprKind::kBinary: return EvaluateBinary(expr, scope);
    case ExprKind::kCompare: return EvaluateCompare(expr, scope);
    case ExprKind::kCondition: return EvaluateCondition(expr, scope);
  }
  return Value(Undefined{});
}

Result<Value> Evaluator::EvaluateName(const Expr& expr, Scope* scope) {
  if (const Value* value = scope->Find(expr.name)) return *value;
  for (const std::string_view name : kGlobals) {
    if (name == expr.name) return Value(Builtin{name, nullptr});
  }
  return Value(Undefined{expr.name});
}

Result<Value> Evaluator::EvaluateItems(const Expr& expr, Scope* scope) {
  List list;
  list.form = expr.kind == ExprKind::kTuple ? List::Form::kTuple : List::Form::kList;
  for (const Expr* item : expr.items) {
    MLA_RETURN_IF_ERROR(env_.budget->Allocate(sizeof(Value)));
    MLA_ASSIGN_OR_RETURN(Value value, Evaluate(*item, scope));
    list.items.push_back(std::move(value));
  }
  return Value(std::move(list));
}

Result<Value> Evaluator::EvaluateDict(const Expr& expr, Scope* scope) {
  Map map;
  for (size_t i = 0; i < expr.items.size(); i += 2) {
    MLA_RETURN_IF_ERROR(env_.budget->Allocate((map.entries.size() + 2) * sizeof(Value)));
    MLA_ASSIGN_OR_RETURN(Value key, Evaluate(*expr.items[i], scope));
    MLA_ASSIGN_OR_RETURN(Value value, Evaluate(*expr.items[i + 1], scope));
    if (key.map() != nullptr || key.list() != nullptr) {
      return InvalidArgument("line ", expr.line, ": a ", KindName(key), " cannot be a dict's key");
    }
    map.Set(std::move(key), std::move(value));
  }
  return Value(std::move(map));
}

Result<Value> Evaluator::EvaluateBinary(const Expr& expr, Scope* scope) {
  MLA_ASSIGN_OR_RETURN(Value left, Evaluate(*expr.left, scope));
  if (expr.name == "and" && !IsTrue(left)) return left;
  if (expr.name == "or" && IsTrue(left)) return left;
  MLA_ASSIGN_OR_RETURN(Value right, Evaluate(*expr.right, scope));
  if (expr.name == "and" || expr.name == "or") return right;
  return AtLine(expr.line, Arithmetic(expr.name, left, right, env_.budget));
}

// a < b < c: each operand evaluated once, to the first comparison that fails.
Result<Value> Evaluator::EvaluateCompare(const Expr& expr, Scope* scope) {
  MLA_ASSIGN_OR_RETURN(Value left, Evaluate(*expr.left, scope));
  for (size_t i = 0; i < expr.ops.size(); ++i) {
    MLA_ASSIGN_OR_RETURN(Value right, Evaluate(*expr.items[i], scope));
    const Result<bool> holds = Relation(expr.ops[i], left, right, env_.budget);
    if (!holds.ok() || !*holds) return AtLine(expr.line, holds);
    left = std::move(right);
  }
  return Value(true);
}

Result<Value> Evaluator::EvaluateUnary(const Expr& expr, Scope* scope) {
  MLA_ASSIGN_OR_RETURN(Value value, Evaluate(*expr.left, scope));
  if (expr.name == "not") return Value(!IsTrue(value));
  if (expr.name == "-") return AtLine(expr.line, Negate(value));
  if (value.IsNumber()) return value;
  return InvalidArgument("line ", expr.line, ": cannot apply '+' to a ", KindName(value));
}

Result<Value> Evaluator::EvaluateCondition(const Expr& expr, Scope* scope) {
  MLA_ASSIGN_OR_RETURN(const Value condition, Evaluate(*expr.right, scope));
  if (IsTrue(condition)) return Evaluate(*expr.left, scope);
  if (expr.items[0] != nullptr) return Evaluate(*expr.items[0], scope);
  return Value(Undefined{});
}

Result<Value> Evaluator::EvaluateAttribute(const Expr& expr, Scope* scope) {
  MLA_ASSIGN_OR_RETURN(const Value value, Evaluate(*expr.left, scope));
  if (value.IsUndefined()) {
    return AtLine(expr.line, Result<Value>(UndefinedError(
                                 value, Concat("it has no attribute ", Quote(expr.name)))));
  }
  if (const auto* space = std::get_if<Namespace*>(&value)) {
    const Value* found = (*space)->Find(expr.name);
    return found != nullptr ? *found : Value(Undefined{expr.name});
  }
  if (const auto* loop = std::get_if<const Loop*>(&value)) {
    return AtLine(expr.line, LoopAttribute(**loop, expr.name, value));
  }
  Result<Value> found = GetAttribute(value, expr.name, env_.budget);
  if (found.ok() && found->IsUndefined()) return Value(Undefined{expr.name});
  return AtLine(expr.line, found);
}

Result<Value> Evaluator::LoopAttribute(const Loop& loop, std::string_view name,
                                       const Value& self) const {
  const auto index = static_cast<int64_t>(loop.index);
  const int64_t size = std::ssize(loop.items);
  if (name == "index") return Value(index + 1);
  if (name == "index0") return Value(index);
  if (name == "first") return Value(index == 0);
  if (name == "last") return Value(index + 1 == size);
  if (name == "length") return Value(size);
  if (name == "revindex") return Value(size - index);
  if (name == "revindex0") return Value(size - index - 1);
  if (name == "depth") return Value(int64_t{1});
  if (name == "depth0") return Value(int64_t{0});
  if (name == "cycle") return Value(Builtin{"cycle", std::make_shared<const Value>(self)});
  if (name == "previtem" && index > 0 && index <= size) return loop.items[loop.index - 1];
  if (name == "nextitem" && index + 1 < size) return loop.items[loop.index + 1];
  if (name == "changed") return Unsupported("loop.changed is not supported");
  return Value(Undefined{});
}

Result<Value> Evaluator::EvaluateSlice(const Expr& expr, Scope* scope) {
  MLA_ASSIGN_OR_RETURN(const Value container, Evaluate(*expr.left, scope));
  std::optional<int64_t> bounds[3];
  for (size_t i = 0; i < 3; ++i) {
    if (expr.items[i] == nullptr) continue;
    MLA_ASSIGN_OR_RETURN(const Value bound, Evaluate(*expr.items[i], scope));
    if (bound.IsNone()) continue;
    if (!bound.IsInteger()) {
      return InvalidArgument("line ", expr.line, ": a bound of a slice is a ", KindName(bound),
                             ", want an int");
    }
    bounds[i] = bound.ToInteger();
  }
  return AtLine(expr.line, GetSlice(container, bounds, env_.budget));
}

Result<Value> Evaluator::EvaluateTest(const Expr& expr, Scope* scope) {
  MLA_ASSIGN_OR_RETURN(const Value value, Evaluate(*expr.left, scope));
  MLA_ASSIGN_OR_RETURN(const CallArguments arguments, EvaluateArguments(expr.arguments, scope));
  return AtLine(expr.line, ApplyTest(env_, expr.name, value, arguments));
}

Result<Value> Evaluator::EvaluateFilter(const Expr& expr, Scope* scope) {
  MLA_ASSIGN_OR_RETURN(const Value value, Evaluate(*expr.left, scope));
  return Filter(expr, value, scope);
}

Result<Value> Evaluator::Filter(const Expr& expr, const Value& value, Scope* scope) {
  MLA_ASSIGN_OR_RETURN(const CallArguments arguments, EvaluateArguments(expr.arguments, scope));
  return AtLine(expr.line, ApplyFilter(env_, expr.name, value, arguments));
}

Result<CallArguments> Evaluator::EvaluateArguments(const Arguments& arguments, Scope* scope) {
  CallArguments values;
  for (const Expr* argument : arguments.positional) {
    MLA_ASSIGN_OR_RETURN(Value value, Evaluate(*argument, scope));
    values.positional.push_back(std::move(value));
  }
  for (const auto& [name, argument] : arguments.named) {
    MLA_ASSIGN_OR_RETURN(Value value, Evaluate(*argument, scope));
    values.named.emplace_back(name, std::move(value));
  }
  return values;
}

Result<Value> Evaluator::EvaluateCall(const Expr& expr, Scope* scope) {
  MLA_ASSIGN_OR_RETURN(const Value callee, Evaluate(*expr.left, scope));
  MLA_ASSIGN_OR_RETURN(const CallArguments arguments, EvaluateArguments(expr.arguments, scope));
  if (const auto* closure = std::get_if<const Closure*>(&callee)) {
    return CallMacro(**closure, arguments);
  }
  if (const auto* builtin = std::get_if<Builtin>(&callee)) {
    if (builtin->self == nullptr) return AtLine(expr.line, CallGlobal(builtin->name, arguments));
    if (const auto* loop = std::get_if<const Loop*>(builtin->self.get())) {
      const std::vector<Value>& choices = arguments.positional;
      if (!choices.empty()) return choices[(*loop)->index % choices.size()];
      return InvalidArgument("line ", expr.line, ": loop.cycle needs values to go through");
    }
    return AtLine(expr.line, CallMethod(env_, *builtin->self, builtin->name, arguments));
  }
  Error error = callee.IsUndefined() ? UndefinedError(callee, "it cannot be called")
                                     : InvalidArgument("a ", KindName(callee), " cannot be called");
  return AtLine(expr.line, Result<Value>(std::move(error)));
}

Result<Value> Evaluator::CallMacro(const Closure& closure, const CallArguments& arguments) {
  const Macro& macro = *closure.macro;
  const size_t num_parameters = macro.parameters.size();
  if (arguments.positional.size() > num_parameters) {
    return InvalidArgument("macro ", macro.name, " takes ", num_parameters, " arguments, not ",
                           arguments.positional.size());
  }
  const Inner inner(this, closure.scope);
  for (const auto& [name, value] : arguments.named) {
    const auto found = std::find(macro.parameters.begin(), macro.parameters.end(), name);
    const auto at = static_cast<size_t>(found - macro.parameters.begin());
    if (found == macro.parameters.end() || at < arguments.positional.size()) {
      return InvalidArgument("macro ", macro.name, " cannot take the argument ", Quote(name));
    }
    inner.get()->Set(*found, value);
  }
  const size_t first_default = num_parameters - macro.defaults.size();
  for (size_t i = 0; i < num_parameters; ++i) {
    const std::string& name = macro.parameters[i];
    const bool given = std::any_of(arguments.named.begin(), arguments.named.end(),
                                   [&](const auto& argument) { return argument.first == name; });
    if (i < arguments.positional.size()) {
      inner.get()->Set(name, arguments.positional[i]);
    } else if (!given && i >= first_default) {
      MLA_ASSIGN_OR_RETURN(Value value, Evaluate(*macro.defaults[i - first_default], inner.get()));
      inner.get()->Set(name, std::move(value));
    } else if (!given) {
      inner.get()->Set(name, Value(Undefined{name}));
    }
  }
  MLA_ASSIGN_OR_RETURN(Text text, Capture(macro.body, inner.get()));
  return Value(std::move(text));
}

Result<Value> Evaluator::Range(const CallArguments& arguments) {
  constexpr int64_t kMaxRange = 100000;
  MLA_ASSIGN_OR_RETURN(const Bound bound, Bind("range", arguments, {"start", "stop", "step"}));
  if (!bound[0]) return InvalidArgument("range needs an argument");
  MLA_ASSIGN_OR_RETURN(int64_t start, IntegerOr("range", bound[0], 0));
  MLA_ASSIGN_OR_RETURN(int64_t stop, IntegerOr("range", bound[1], 0));
  MLA_ASSIGN_OR_RETURN(const int64_t step, IntegerOr("range", bound[2], 1));
  if (!bound[1]) stop = std::exchange(start, 0);
  if (step == 0) return InvalidArgument("range: the step is 0");
  List list;
  for (int64_t at = start; step > 0 ? at < stop : at > stop;) {
    if (std::ssize(list.items) >= kMaxRange) {
      return InvalidArgument("range: more than ", kMaxRange, " numbers");
    }
    MLA_RETURN_IF_ERROR(env_.budget->Allocate(sizeof(Value)));
    list.items.emplace_back(at);
    if (__builtin_add_overflow(at, step, &at)) break;
  }
  return Value(std::move(list));
}

Result<Value> Evaluator::NewNamespace(const CallArguments& arguments) {
  MLA_RETURN_IF_ERROR(env_.budget->Allocate(
      sizeof(Namespace) + (arguments.named.size() + 1) * (sizeof(Value) + sizeof(std::string))));
  Namespace space;
  if (!arguments.positional.empty()) {
    const Map* map = arguments.positional[0].map();
    if (map == nullptr || arguments.positional.size() > 1) {
      return InvalidArgument("namespace takes one dict and named values");
    }
    MLA_RETURN_IF_ERROR(env_.budget->Allocate(map->entries.size() * map->entries.size() / 8 +
                                              map->entries.size() * 2 * sizeof(Value)));
    for (const auto& [key, value] : map->entries) {
      if (key.text() != nullptr) space.Set(key.text()->bytes(), value);
    }
  }
  for (const auto& [name, value] : arguments.named) space.Set(name, value);
  namespaces_.push_back(std::move(space));
  return Value(&namespaces_.back());
}

Result<Value> Evaluator::CallGlobal(std::string_view name, const CallArguments& arguments) {
  if (name == "range") return Range(arguments);
  if (name == "namespace") return NewNamespace(arguments);
  if (name == "dict") {
    Map map;
    if (!arguments.positional.empty()) {
      const Map* from = arguments.positional[0].map();
      if (from == nullptr || arguments.positional.size() > 1) {
        return Unsupported("dict of anything but a dict and named values is not supported");
      }
      MLA_RETURN_IF_ERROR(env_.budget->Allocate(from->entries.size() * 2 * sizeof(Value)));
      map = *from;
    }
    for (const auto& [key, value] : arguments.named) {
      MLA_RETURN_IF_ERROR(env_.budget->Allocate(2 * sizeof(Value) + map.entries.size()));
      map.Set(Value::String(key), value);
    }
    return Value(std::move(map));
  }
  if (name == "raise_exception") {
    MLA_ASSIGN_OR_RETURN(const Bound bound, Bind(name, arguments, {"message"}));
    MLA_ASSIGN_OR_RETURN(const Text message, TextOr(name, bound[0], ""));
    return InvalidArgument("the template refuses the conversation: ", Quote(message.bytes()));
  }
  if (name == "strftime_now") {
    MLA_ASSIGN_OR_RETURN(const Bound bound, Bind(name, arguments, {"format"}));
    MLA_ASSIGN_OR_RETURN(const Text format, TextOr(name, bound[0], ""));
    MLA_RETURN_IF_ERROR(env_.budget->Allocate(16 * format.size()));
    MLA_ASSIGN_OR_RETURN(const std::string time, FormatTime(format.bytes(), env_.now));
    return Value::String(time);
  }
  return Unsupported("the function ", Quote(name), " is not supported");
}

}  // namespace mla::jinja
