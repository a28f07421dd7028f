// A parsed template. Nodes are owned by the Program and refer to one another by pointer, so that
// nothing recurses when one is freed.
#ifndef MLA_IO_CHAT_TEMPLATE_AST_H_
#define MLA_IO_CHAT_TEMPLATE_AST_H_

#include <cstdint>
#include <deque>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "io/chat_template/value.h"
#include "mla/result.h"

namespace mla::jinja {

struct Expr;

struct Arguments {
  std::vector<const Expr*> positional;
  std::vector<std::pair<std::string, const Expr*>> named;
};

enum class ExprKind {
  kConst,      // value
  kName,       // name
  kList,       // items
  kTuple,      // items
  kDict,       // items: key, value, key, value...
  kAttribute,  // left.name
  kItem,       // left[right]
  kSlice,      // left[a:b:c]; items: a, b, c, null where absent
  kCall,       // left(arguments)
  kFilter,     // left|name(arguments); left null: the body of a filter or set block
  kTest,       // left is name(arguments)
  kUnary,      // name: "-", "+", "not"
  kBinary,     // left name right: + - * / // % ** ~ and or
  kCompare,    // left, then ops[i] items[i]: == != < <= > >= in, "not in"
  kCondition,  // left if right else items[0] (null: undefined)
};

struct Expr {
  ExprKind kind;
  int line = 0;
  Value value;
  std::string name;
  const Expr* left = nullptr;
  const Expr* right = nullptr;
  std::vector<const Expr*> items;
  std::vector<std::string> ops;
  Arguments arguments;
};

enum class StmtKind {
  kText,      // text
  kOutput,    // expr
  kIf,        // branches; a null condition is else
  kFor,       // targets in expr if condition: body, else other
  kSet,       // targets = expr, or names.attribute = expr
  kSetBlock,  // targets[0] = body, through filters in expr (null: none)
  kMacro,     // macro
  kScope,     // body in a scope of its own, with targets[i] = values[i]
  kFilter,    // body through expr
  kBreak,
  kContinue,
};

struct Stmt;
using Body = std::vector<const Stmt*>;

struct Macro {
  std::string name;
  std::vector<std::string> parameters;
  std::vector<const Expr*> defaults;  // of the last parameters
  Body body;
};

struct Branch {
  const Expr* condition;
  Body body;
};

struct Stmt {
  StmtKind kind;
  int line = 0;
  std::string text;
  const Expr* expr = nullptr;
  const Expr* condition = nullptr;
  bool unpack = false;               // several targets, of a sequence's items
  std::vector<std::string> targets;  // names
  std::string attribute;             // targets[0].attribute
  std::vector<const Expr*> values;
  std::vector<Branch> branches;
  Body body, other;
  Macro macro;
};

class Program {
 public:
  // kCorruptFile or kUnsupported with the line.
  static Result<std::unique_ptr<Program>> Parse(std::string_view source);

  const Body& body() const { return body_; }
  Expr* NewExpr(ExprKind kind, int line);
  Stmt* NewStmt(StmtKind kind, int line);

 private:
  std::deque<Expr> exprs_;
  std::deque<Stmt> stmts_;
  Body body_;
};

}  // namespace mla::jinja

#endif  // MLA_IO_CHAT_TEMPLATE_AST_H_
