// Tokens to a Program, by recursive descent with Jinja's own grammar and precedences.
#ifndef MLA_IO_CHAT_TEMPLATE_PARSER_H_
#define MLA_IO_CHAT_TEMPLATE_PARSER_H_

#include <initializer_list>
#include <string>
#include <string_view>
#include <vector>

#include "io/chat_template/ast.h"
#include "io/chat_template/lexer.h"
#include "mla/result.h"

namespace mla::jinja {

class Parser {
 public:
  static constexpr int kMaxDepth = 100;  // of blocks and expressions within one another

  Parser(std::vector<Token> tokens, Program* program)
      : tokens_(std::move(tokens)), program_(program) {}

  Result<Body> ParseTemplate();

 private:
  using ExprResult = Result<const Expr*>;

  // Counts how deep the parser is while it lives.
  class Nesting {
   public:
    explicit Nesting(Parser* parser) : parser_(parser) { ++parser_->depth_; }
    ~Nesting() { --parser_->depth_; }
    Nesting(const Nesting&) = delete;
    Nesting& operator=(const Nesting&) = delete;
    Status Check() const;

   private:
    Parser* parser_;
  };

  const Token& Now() const { return tokens_[at_]; }
  const Token& Next() const { return tokens_[at_ + 1 < tokens_.size() ? at_ + 1 : at_]; }
  Token Take() { return tokens_[at_ + 1 < tokens_.size() ? at_++ : at_]; }  // kEnd stays
  bool IsOp(std::string_view op) const {
    return Now().kind == TokenKind::kOperator && Now().text == op;
  }
  bool IsWord(std::string_view word) const {
    return Now().kind == TokenKind::kName && Now().text == word;
  }
  bool SkipOp(std::string_view op);
  bool SkipWord(std::string_view word);
  Status WantOp(std::string_view op);
  Status WantBlockEnd();
  Result<std::string> WantName(std::string_view what);
  Error Unexpected(std::string_view want) const;

  // Statements. A body ends before the tag named in `ends`; its name is the current token then.
  Result<Body> ParseBody(std::initializer_list<std::string_view> ends, std::string_view opener);
  Result<Body> ParseBlockBody(std::string_view end);  // with the tags around the body
  Result<const Stmt*> ParseStatement();
  Result<const Stmt*> ParseIf();
  Result<const Stmt*> ParseFor();
  Result<const Stmt*> ParseSet();
  Result<const Stmt*> ParseMacro();
  Result<const Stmt*> ParseWith();
  Result<const Stmt*> ParseFilterBlock();
  Result<const Stmt*> ParseGeneration();
  Status ParseTargets(Stmt* stmt);
  Error UnknownTag(const Token& name) const;

  // Expressions, each level binding tighter than the one before.
  ExprResult ParseTuple(bool conditions = true);  // a, b without brackets, or one expression
  ExprResult ParseExpression();                   // a if b else c
  ExprResult ParseOr();
  ExprResult ParseAnd();
  ExprResult ParseNot();
  ExprResult ParseComparison();
  ExprResult ParseSum();
  ExprResult ParseConcat();
  ExprResult ParseProduct();
  ExprResult ParsePower();
  ExprResult ParseUnary(bool filters = true);
  ExprResult ParsePrimary();
  ExprResult ParseParenthesis();
  ExprResult ParseListLiteral();
  ExprResult ParseDictLiteral();
  ExprResult ParsePostfix(const Expr* left);
  ExprResult ParseFilters(const Expr* left);  // null: those of a filter or set block
  ExprResult ParseFilter(const Expr* left);   // after the |
  ExprResult ParseTest(const Expr* left);     // after "is"
  ExprResult ParseSubscript(const Expr* left);
  ExprResult ParseCall(const Expr* left);
  Result<Arguments> ParseArguments();
  Result<std::string> ParseDottedName(std::string_view what);
  ExprResult ParseBinary(std::initializer_list<std::string_view> ops,
                         ExprResult (Parser::*operand)());
  const Expr* NewBinary(std::string_view op, int line, const Expr* left, const Expr* right);

  std::vector<Token> tokens_;
  Program* program_;
  size_t at_ = 0;
  int depth_ = 0;
  int loops_ = 0;  // around the current statement: break and continue need one
};

}  // namespace mla::jinja

#endif  // MLA_IO_CHAT_TEMPLATE_PARSER_H_
