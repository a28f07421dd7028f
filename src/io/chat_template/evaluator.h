// Runs a program: statements and expressions, scopes, loops and macros.
#ifndef MLA_IO_CHAT_TEMPLATE_EVALUATOR_H_
#define MLA_IO_CHAT_TEMPLATE_EVALUATOR_H_

#include <deque>
#include <memory>
#include <string_view>
#include <utility>
#include <vector>

#include "io/chat_template/ast.h"
#include "io/chat_template/functions.h"

namespace mla::jinja {

// The variables of a block. A name is looked up from the innermost scope out.
struct Scope {
  Scope* parent = nullptr;
  std::vector<std::pair<std::string_view, Value>> names;
  bool captured = false;  // a macro defined within refers to it

  const Value* Find(std::string_view name) const;
  void Set(std::string_view name, Value value);
};

// A macro and the variables that it sees.
struct Closure {
  const Macro* macro;
  Scope* scope;
};

// What `loop` is within a for.
struct Loop {
  std::vector<Value> items;
  size_t index = 0;
};

class Evaluator {
 public:
  static constexpr int kMaxDepth = 800;  // of statements, expressions and macros being evaluated

  Evaluator(const Environment& env, size_t max_output_bytes)
      : env_(env), max_output_bytes_(max_output_bytes) {}

  // `variables`: name and value; the names must outlive the evaluator.
  Result<Text> Run(const Program& program,
                   std::vector<std::pair<std::string_view, Value>> variables);

 private:
  enum class Flow { kNormal, kBreak, kContinue };

  // A scope for the time of a block; kept afterwards if a macro needs it.
  class Inner {
   public:
    Inner(Evaluator* evaluator, Scope* parent);
    ~Inner();
    Inner(const Inner&) = delete;
    Inner& operator=(const Inner&) = delete;
    Scope* get() const { return scope_.get(); }

   private:
    Evaluator* evaluator_;
    std::unique_ptr<Scope> scope_;
  };

  Result<Flow> ExecuteBody(const Body& body, Scope* scope, Text* out);
  Result<Flow> Execute(const Stmt& stmt, Scope* scope, Text* out);
  Result<Flow> ExecuteIf(const Stmt& stmt, Scope* scope, Text* out);
  Result<Flow> ExecuteFor(const Stmt& stmt, Scope* scope, Text* out);
  Result<Flow> ExecuteScope(const Stmt& stmt, Scope* scope, Text* out);
  Status ExecuteSet(const Stmt& stmt, Scope* scope);
  Status ExecuteSetBlock(const Stmt& stmt, Scope* scope);
  Status ExecuteFilterBlock(const Stmt& stmt, Scope* scope, Text* out);
  Result<Text> Capture(const Body& body, Scope* scope);
  Result<std::vector<Value>> LoopItems(const Stmt& stmt, Scope* scope);
  Status Assign(const Stmt& stmt, Value value, Scope* scope);
  Status Write(const Text& text, Text* out);

  Result<Value> Evaluate(const Expr& expr, Scope* scope);
  Result<Value> EvaluateKind(const Expr& expr, Scope* scope);
  Result<Value> EvaluateName(const Expr& expr, Scope* scope);
  Result<Value> EvaluateItems(const Expr& expr, Scope* scope);
  Result<Value> EvaluateDict(const Expr& expr, Scope* scope);
  Result<Value> EvaluateBinary(const Expr& expr, Scope* scope);
  Result<Value> EvaluateCompare(const Expr& expr, Scope* scope);
  Result<Value> EvaluateUnary(const Expr& expr, Scope* scope);
  Result<Value> EvaluateCondition(const Expr& expr, Scope* scope);
  Result<Value> EvaluateAttribute(const Expr& expr, Scope* scope);
  Result<Value> EvaluateSlice(const Expr& expr, Scope* scope);
  Result<Value> EvaluateTest(const Expr& expr, Scope* scope);
  Result<Value> EvaluateFilter(const Expr& expr, Scope* scope);
  // A chain of filters on the text of a block.
  Result<Value> FilterText(const Expr& expr, Text text, Scope* scope);
  Result<Value> Filter(const Expr& expr, const Value& value, Scope* scope);

  Result<CallArguments> EvaluateArguments(const Arguments& arguments, Scope* scope);
  Result<Value> EvaluateCall(const Expr& expr, Scope* scope);
  Result<Value> CallGlobal(std::string_view name, const CallArguments& arguments);
  Result<Value> CallMacro(const Closure& closure, const CallArguments& arguments);
  Result<Value> LoopAttribute(const Loop& loop, std::string_view name, const Value& self) const;
  Result<Value> NewNamespace(const CallArguments& arguments);
  Result<Value> Range(const CallArguments& arguments);

  const Environment& env_;
  size_t max_output_bytes_;
  int depth_ = 0;
  std::vector<std::unique_ptr<Scope>> kept_;
  std::deque<Namespace> namespaces_;
  std::deque<Closure> closures_;
  std::deque<Loop> all_loops_;
};

}  // namespace mla::jinja

#endif  // MLA_IO_CHAT_TEMPLATE_EVALUATOR_H_
