#include "io/chat_template/evaluator.h"

#include <algorithm>

#include "io/json.h"

namespace mla::jinja {
namespace {

Error AtLine(int line, const Error& error) {
  return Error{error.code, Concat("line ", line, ": ", error.message)};
}

}  // namespace

const Value* Scope::Find(std::string_view name) const {
  for (const Scope* scope = this; scope != nullptr; scope = scope->parent) {
    for (const auto& [known, value] : scope->names) {
      if (known == name) return &value;
    }
  }
  return nullptr;
}

void Scope::Set(std::string_view name, Value value) {
  for (auto& [known, old] : names) {
    if (known == name) {
      old = std::move(value);
      return;
    }
  }
  names.emplace_back(name, std::move(value));
}

Evaluator::Inner::Inner(Evaluator* evaluator, Scope* parent)
    : evaluator_(evaluator), scope_(std::make_unique<Scope>()) {
  scope_->parent = parent;
}

Evaluator::Inner::~Inner() {
  if (scope_->captured) evaluator_->kept_.push_back(std::move(scope_));
}

Result<Text> Evaluator::Run(const Program& program,
                            std::vector<std::pair<std::string_view, Value>> variables) {
  Scope globals, top;
  globals.names = std::move(variables);
  top.parent = &globals;
  Text out;
  MLA_ASSIGN_OR_RETURN(const Flow flow, ExecuteBody(program.body(), &top, &out));
  (void)flow;  // a break outside of a loop does not parse
  return out;
}

Status Evaluator::Write(const Text& text, Text* out) {
  MLA_RETURN_IF_ERROR(env_.budget->Allocate(2 * text.size()));
  if (out->size() + text.size() > max_output_bytes_) {
    return InvalidArgument("the output is longer than ", max_output_bytes_, " bytes");
  }
  out->Append(text);
  return {};
}

Result<Evaluator::Flow> Evaluator::ExecuteBody(const Body& body, Scope* scope, Text* out) {
  for (const Stmt* stmt : body) {
    ++depth_;
    Result<Flow> flow = depth_ <= kMaxDepth
                            ? Execute(*stmt, scope, out)
                            : InvalidArgument("line ", stmt->line, ": blocks, expressions and ",
                                              "macros are nested deeper than ", kMaxDepth);
    --depth_;
    if (!flow.ok() || *flow != Flow::kNormal) return flow;
  }
  return Flow::kNormal;
}

Result<Evaluator::Flow> Evaluator::Execute(const Stmt& stmt, Scope* scope, Text* out) {
  Status status = env_.budget->Step();
  if (status.ok()) {
    switch (stmt.kind) {
      case StmtKind::kText: status = Write(Text(stmt.text), out); break;
      case StmtKind::kOutput: {
        MLA_ASSIGN_OR_RETURN(const Value value, Evaluate(*stmt.expr, scope));
        status = env_.budget->Step(WeightOf(value));
        if (!status.ok()) break;
        const Result<Text> text = ToText(value);
        status = text.ok() ? Write(*text, out) : Status(text.error());
        break;
      }
      case StmtKind::kIf: return ExecuteIf(stmt, scope, out);
      case StmtKind::kFor: return ExecuteFor(stmt, scope, out);
      case StmtKind::kScope: return ExecuteScope(stmt, scope, out);
      case StmtKind::kSet: MLA_RETURN_IF_ERROR(ExecuteSet(stmt, scope)); break;
      case StmtKind::kSetBlock: MLA_RETURN_IF_ERROR(ExecuteSetBlock(stmt, scope)); break;
      case StmtKind::kFilter: MLA_RETURN_IF_ERROR(ExecuteFilterBlock(stmt, scope, out)); break;
      case StmtKind::kMacro:
        status = env_.budget->Allocate(sizeof(Scope) + sizeof(Closure));
        for (Scope* outer = scope; outer != nullptr; outer = outer->parent) outer->captured = true;
        closures_.push_back({&stmt.macro, scope});
        scope->Set(stmt.macro.name, Value(static_cast<const Closure*>(&closures_.back())));
        break;
      case StmtKind::kBreak: return Flow::kBreak;
      case StmtKind::kContinue: return Flow::kContinue;
    }
  }
  if (!status.ok()) return AtLine(stmt.line, status.error());
  return Flow::kNormal;
}

Result<Evaluator::Flow> Evaluator::ExecuteIf(const Stmt& stmt, Scope* scope, Text* out) {
  for (const Branch& branch : stmt.branches) {
    if (branch.condition != nullptr) {
      MLA_ASSIGN_OR_RETURN(const Value condition, Evaluate(*branch.condition, scope));
      if (!IsTrue(condition)) continue;
    }
    return ExecuteBody(branch.body, scope, out);
  }
  return Flow::kNormal;
}

// What the loop goes through, less what its condition leaves out.
Result<std::vector<Value>> Evaluator::LoopItems(const Stmt& stmt, Scope* scope) {
  MLA_ASSIGN_OR_RETURN(const Value iterable, Evaluate(*stmt.expr, scope));
  Result<std::vector<Value>> items = Iterate(iterable, env_.budget);
  if (!items.ok()) return AtLine(stmt.line, items.error());
  if (stmt.condition == nullptr) return items;
  std::vector<Value> kept;
  for (Value& item : *items) {
    const Inner inner(this, scope);
    MLA_RETURN_IF_ERROR(Assign(stmt, item, inner.get()));
    MLA_ASSIGN_OR_RETURN(const Value keep, Evaluate(*stmt.condition, inner.get()));
    if (IsTrue(keep)) kept.push_back(std::move(item));
  }
  return kept;
}

Result<Evaluator::Flow> Evaluator::ExecuteFor(const Stmt& stmt, Scope* scope, Text* out) {
  MLA_ASSIGN_OR_RETURN(std::vector<Value> items, LoopItems(stmt, scope));
  if (const Status room = env_.budget->Allocate(sizeof(Loop)); !room.ok()) {
    return AtLine(stmt.line, room.error());
  }
  Loop& loop = all_loops_.emplace_back();  // kept: the template may keep a reference to it
  loop.items = std::move(items);
  for (; loop.index < loop.items.size(); ++loop.index) {
    const Inner inner(this, scope);
    inner.get()->Set("loop", Value(static_cast<const Loop*>(&loop)));
    MLA_RETURN_IF_ERROR(Assign(stmt, loop.items[loop.index], inner.get()));
    MLA_ASSIGN_OR_RETURN(const Flow flow, ExecuteBody(stmt.body, inner.get(), out));
    if (flow == Flow::kBreak) return Flow::kNormal;
  }
  if (!loop.items.empty()) return Flow::kNormal;
  const Inner inner(this, scope);
  return ExecuteBody(stmt.other, inner.get(), out);
}

Result<Evaluator::Flow> Evaluator::ExecuteScope(const Stmt& stmt, Scope* scope, Text* out) {
  const Inner inner(this, scope);
  for (size_t i = 0; i < stmt.targets.size(); ++i) {
    // Of the scope around: the values do not see one another.
    MLA_ASSIGN_OR_RETURN(Value value, Evaluate(*stmt.values[i], scope));
    inner.get()->Set(stmt.targets[i], std::move(value));
  }
  return ExecuteBody(stmt.body, inner.get(), out);
}

Status Evaluator::Assign(const Stmt& stmt, Value value, Scope* scope) {
  if (!stmt.unpack) {
    scope->Set(stmt.targets[0], std::move(value));
    return {};
  }
  Result<std::vector<Value>> items = Iterate(value, env_.budget);
  if (!items.ok()) return AtLine(stmt.line, items.error());
  if (items->size() != stmt.targets.size()) {
    return InvalidArgument("line ", stmt.line, ": ", items->size(), " values for ",
                           stmt.targets.size(), " variables");
  }
  for (size_t i = 0; i < items->size(); ++i) {
    scope->Set(stmt.targets[i], std::move((*items)[i]));
  }
  return {};
}

Status Evaluator::ExecuteSet(const Stmt& stmt, Scope* scope) {
  MLA_ASSIGN_OR_RETURN(Value value, Evaluate(*stmt.expr, scope));
  if (stmt.attribute.empty()) return Assign(stmt, std::move(value), scope);
  const Value* target = scope->Find(stmt.targets[0]);
  if (target == nullptr || !target->Is<Namespace*>()) {
    return InvalidArgument("line ", stmt.line, ": ", stmt.targets[0], " is ",
                           target == nullptr ? "undefined" : KindName(*target),
                           ", only attributes of a namespace can be set");
  }
  if (stmt.attribute.starts_with('_')) {
    return InvalidArgument("line ", stmt.line, ": the attribute ", Quote(stmt.attribute),
                           " of a namespace begins with an underscore");
  }
  if (const Status room = env_.budget->Allocate(sizeof(Value)); !room.ok()) {
    return AtLine(stmt.line, room.error());
  }
  std::get<Namespace*>(*target)->Set(stmt.attribute, std::move(value));
  return {};
}

Result<Text> Evaluator::Capture(const Body& body, Scope* scope) {
  const Inner inner(this, scope);
  Text text;
  MLA_ASSIGN_OR_RETURN(const Flow flow, ExecuteBody(body, inner.get(), &text));
  if (flow != Flow::kNormal) {
    return Unsupported("break or continue within a block that makes a text is not supported");
  }
  return text;
}

Status Evaluator::ExecuteSetBlock(const Stmt& stmt, Scope* scope) {
  MLA_ASSIGN_OR_RETURN(Text text, Capture(stmt.body, scope));
  Value value(Undefined{});
  if (stmt.expr == nullptr) {
    value = Value(std::move(text));
  } else {
    MLA_ASSIGN_OR_RETURN(value, FilterText(*stmt.expr, std::move(text), scope));
  }
  return Assign(stmt, std::move(value), scope);
}

Status Evaluator::ExecuteFilterBlock(const Stmt& stmt, Scope* scope, Text* out) {
  MLA_ASSIGN_OR_RETURN(Text text, Capture(stmt.body, scope));
  MLA_ASSIGN_OR_RETURN(const Value value, FilterText(*stmt.expr, std::move(text), scope));
  const Result<Text> filtered = ToText(value);
  const Status status = filtered.ok() ? Write(*filtered, out) : Status(filtered.error());
  return status.ok() ? status : AtLine(stmt.line, status.error());
}

Result<Value> Evaluator::FilterText(const Expr& expr, Text text, Scope* scope) {
  if (expr.kind != ExprKind::kFilter) {
    return Unsupported("line ", expr.line, ": only filters are supported here");
  }
  if (expr.left == nullptr) return Filter(expr, Value(std::move(text)), scope);
  MLA_ASSIGN_OR_RETURN(const Value value, FilterText(*expr.left, std::move(text), scope));
  return Filter(expr, value, scope);
}

}  // namespace mla::jinja
