#include <algorithm>

#include "io/chat_template/parser.h"
#include "io/json.h"

namespace mla::jinja {

Expr* Program::NewExpr(ExprKind kind, int line) {
  Expr& expr = exprs_.emplace_back();
  expr.kind = kind;
  expr.line = line;
  return &expr;
}

Stmt* Program::NewStmt(StmtKind kind, int line) {
  Stmt& stmt = stmts_.emplace_back();
  stmt.kind = kind;
  stmt.line = line;
  return &stmt;
}

Result<std::unique_ptr<Program>> Program::Parse(std::string_view source) {
  auto program = std::make_unique<Program>();
  MLA_ASSIGN_OR_RETURN(std::vector<Token> tokens, Tokenize(source));
  MLA_ASSIGN_OR_RETURN(program->body_, Parser(std::move(tokens), program.get()).ParseTemplate());
  return program;
}

Result<Body> Parser::ParseTemplate() { return ParseBody({}, ""); }

Status Parser::WantBlockEnd() {
  if (Now().kind != TokenKind::kBlockEnd) return Unexpected("the end of the block");
  Take();
  return {};
}

Result<Body> Parser::ParseBody(std::initializer_list<std::string_view> ends,
                               std::string_view opener) {
  const Nesting nesting(this);
  MLA_RETURN_IF_ERROR(nesting.Check());
  const int line = Now().line;
  Body body;
  for (;;) {
    const Token token = Take();
    if (token.kind == TokenKind::kEnd) {
      if (ends.size() == 0) return body;
      return CorruptFile("line ", line, ": {% ", opener, " %} without {% ", *(ends.end() - 1),
                         " %}");
    }
    if (token.kind == TokenKind::kText) {
      Stmt* text = program_->NewStmt(StmtKind::kText, token.line);
      text->text = token.text;
      body.push_back(text);
    } else if (token.kind == TokenKind::kOutputBegin) {
      Stmt* output = program_->NewStmt(StmtKind::kOutput, token.line);
      MLA_ASSIGN_OR_RETURN(output->expr, ParseTuple());
      if (Now().kind != TokenKind::kOutputEnd) return Unexpected("the end of the output");
      Take();
      body.push_back(output);
    } else {
      if (Now().kind != TokenKind::kName) return Unexpected("the name of a tag");
      if (std::find(ends.begin(), ends.end(), Now().text) != ends.end()) return body;
      MLA_ASSIGN_OR_RETURN(const Stmt* statement, ParseStatement());
      body.push_back(statement);
    }
  }
}

Result<Body> Parser::ParseBlockBody(std::string_view end) {
  const std::string opener(end.substr(3));
  MLA_RETURN_IF_ERROR(WantBlockEnd());
  MLA_ASSIGN_OR_RETURN(Body body, ParseBody({end}, opener));
  Take();
  return body;
}

Error Parser::UnknownTag(const Token& name) const {
  constexpr std::string_view kEnds[] = {"elif",    "else",      "endif",
                                        "endfor",  "endset",    "endmacro",
                                        "endwith", "endfilter", "endgeneration"};
  if (std::find(std::begin(kEnds), std::end(kEnds), name.text) != std::end(kEnds)) {
    return CorruptFile("line ", name.line, ": {% ", name.text, " %} without its beginning");
  }
  return Unsupported("line ", name.line, ": the tag ", Quote(name.text), " is not supported");
}

Result<const Stmt*> Parser::ParseStatement() {
  struct Tag {
    std::string_view name;
    Result<const Stmt*> (Parser::*parse)();
  };
  constexpr Tag kTags[] = {{"if", &Parser::ParseIf},
                           {"for", &Parser::ParseFor},
                           {"set", &Parser::ParseSet},
                           {"macro", &Parser::ParseMacro},
                           {"with", &Parser::ParseWith},
                           {"filter", &Parser::ParseFilterBlock},
                           {"generation", &Parser::ParseGeneration}};
  for (const Tag& tag : kTags) {
    if (!IsWord(tag.name)) continue;
    MLA_ASSIGN_OR_RETURN(const Stmt* stmt, (this->*tag.parse)());
    MLA_RETURN_IF_ERROR(WantBlockEnd());
    return stmt;
  }
  const Token name = Take();
  const bool is_break = name.text == "break";
  if (!is_break && name.text != "continue") return UnknownTag(name);
  if (loops_ == 0) return CorruptFile("line ", name.line, ": ", name.text, " outside of a loop");
  MLA_RETURN_IF_ERROR(WantBlockEnd());
  return program_->NewStmt(is_break ? StmtKind::kBreak : StmtKind::kContinue, name.line);
}

Result<const Stmt*> Parser::ParseIf() {
  Stmt* stmt = program_->NewStmt(StmtKind::kIf, Now().line);
  for (;;) {
    const std::string tag = Take().text;  // if, elif, else or endif
    if (tag == "endif") return stmt;
    const bool is_else = tag == "else";
    const Expr* condition = nullptr;
    if (!is_else) {
      MLA_ASSIGN_OR_RETURN(condition, ParseTuple(false));
    }
    MLA_RETURN_IF_ERROR(WantBlockEnd());
    Result<Body> body =
        is_else ? ParseBody({"endif"}, "if") : ParseBody({"elif", "else", "endif"}, "if");
    if (!body.ok()) return body.error();
    stmt->branches.push_back({condition, *std::move(body)});
  }
}

// "a", "a, b", "(a, b)"; ends before what follows.
Status Parser::ParseTargets(Stmt* stmt) {
  const bool brackets = SkipOp("(");
  for (;;) {
    MLA_ASSIGN_OR_RETURN(std::string name, WantName("the name of a variable"));
    constexpr std::string_view kReserved[] = {"true",  "false", "none", "True",
                                              "False", "None",  "loop"};
    if (std::find(std::begin(kReserved), std::end(kReserved), name) != std::end(kReserved)) {
      return CorruptFile("line ", Now().line, ": ", name, " cannot be assigned to");
    }
    stmt->targets.push_back(std::move(name));
    if (!SkipOp(",")) break;
    stmt->unpack = true;
    if (Now().kind != TokenKind::kName || IsWord("in")) break;
  }
  return brackets ? WantOp(")") : Status();
}

Result<const Stmt*> Parser::ParseFor() {
  Stmt* stmt = program_->NewStmt(StmtKind::kFor, Take().line);
  MLA_RETURN_IF_ERROR(ParseTargets(stmt));
  if (!SkipWord("in")) return Unexpected("\"in\"");
  MLA_ASSIGN_OR_RETURN(stmt->expr, ParseTuple(false));
  if (SkipWord("if")) {
    MLA_ASSIGN_OR_RETURN(stmt->condition, ParseExpression());
  }
  if (IsWord("recursive")) {
    return Unsupported("line ", stmt->line, ": a recursive loop is not supported");
  }
  MLA_RETURN_IF_ERROR(WantBlockEnd());
  ++loops_;
  MLA_ASSIGN_OR_RETURN(stmt->body, ParseBody({"else", "endfor"}, "for"));
  --loops_;
  if (Take().text == "endfor") return stmt;
  MLA_RETURN_IF_ERROR(WantBlockEnd());
  MLA_ASSIGN_OR_RETURN(stmt->other, ParseBody({"endfor"}, "for"));
  Take();
  return stmt;
}

Result<const Stmt*> Parser::ParseSet() {
  Stmt* stmt = program_->NewStmt(StmtKind::kSet, Take().line);
  if (Now().kind == TokenKind::kName && Next().kind == TokenKind::kOperator && Next().text == ".") {
    stmt->targets.push_back(Take().text);
    Take();
    MLA_ASSIGN_OR_RETURN(stmt->attribute, WantName("the name of an attribute"));
  } else {
    MLA_RETURN_IF_ERROR(ParseTargets(stmt));
  }
  if (SkipOp("=")) {
    MLA_ASSIGN_OR_RETURN(stmt->expr, ParseTuple());
    return stmt;
  }
  if (stmt->unpack) return Unexpected("'='");
  stmt->kind = StmtKind::kSetBlock;
  MLA_ASSIGN_OR_RETURN(stmt->expr, ParseFilters(nullptr));
  MLA_ASSIGN_OR_RETURN(stmt->body, ParseBlockBody("endset"));
  return stmt;
}

Result<const Stmt*> Parser::ParseMacro() {
  Stmt* stmt = program_->NewStmt(StmtKind::kMacro, Take().line);
  MLA_ASSIGN_OR_RETURN(stmt->macro.name, WantName("the name of a macro"));
  MLA_RETURN_IF_ERROR(WantOp("("));
  for (bool first = true; !SkipOp(")"); first = false) {
    if (!first) {
      MLA_RETURN_IF_ERROR(WantOp(","));
      if (SkipOp(")")) break;
    }
    MLA_ASSIGN_OR_RETURN(std::string name, WantName("the name of a parameter"));
    stmt->macro.parameters.push_back(std::move(name));
    if (SkipOp("=")) {
      MLA_ASSIGN_OR_RETURN(const Expr* value, ParseExpression());
      stmt->macro.defaults.push_back(value);
    } else if (!stmt->macro.defaults.empty()) {
      return Unexpected("a default: a parameter before has one");
    }
  }
  const int loops = std::exchange(loops_, 0);  // the loops around are not the macro's
  MLA_ASSIGN_OR_RETURN(stmt->macro.body, ParseBlockBody("endmacro"));
  loops_ = loops;
  return stmt;
}

Result<const Stmt*> Parser::ParseWith() {
  Stmt* stmt = program_->NewStmt(StmtKind::kScope, Take().line);
  while (Now().kind != TokenKind::kBlockEnd) {
    if (!stmt->targets.empty()) MLA_RETURN_IF_ERROR(WantOp(","));
    MLA_ASSIGN_OR_RETURN(std::string name, WantName("the name of a variable"));
    MLA_RETURN_IF_ERROR(WantOp("="));
    MLA_ASSIGN_OR_RETURN(const Expr* value, ParseExpression());
    stmt->targets.push_back(std::move(name));
    stmt->values.push_back(value);
  }
  MLA_ASSIGN_OR_RETURN(stmt->body, ParseBlockBody("endwith"));
  return stmt;
}

Result<const Stmt*> Parser::ParseFilterBlock() {
  Stmt* stmt = program_->NewStmt(StmtKind::kFilter, Take().line);
  MLA_ASSIGN_OR_RETURN(stmt->expr, ParseFilter(nullptr));
  MLA_ASSIGN_OR_RETURN(stmt->expr, ParseFilters(stmt->expr));
  MLA_ASSIGN_OR_RETURN(stmt->body, ParseBlockBody("endfilter"));
  return stmt;
}

// Marks what the assistant says, for training: the text is the same.
Result<const Stmt*> Parser::ParseGeneration() {
  Stmt* stmt = program_->NewStmt(StmtKind::kScope, Take().line);
  MLA_ASSIGN_OR_RETURN(stmt->body, ParseBlockBody("endgeneration"));
  return stmt;
}

}  // namespace mla::jinja
