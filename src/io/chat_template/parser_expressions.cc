#include "io/chat_template/parser.h"
#include "io/json.h"

namespace mla::jinja {

Status Parser::Nesting::Check() const {
  if (parser_->depth_ <= kMaxDepth) return {};
  return CorruptFile("line ", parser_->Now().line, ": blocks and expressions nested deeper than ",
                     kMaxDepth);
}

bool Parser::SkipOp(std::string_view op) {
  if (!IsOp(op)) return false;
  Take();
  return true;
}

bool Parser::SkipWord(std::string_view word) {
  if (!IsWord(word)) return false;
  Take();
  return true;
}

Status Parser::WantOp(std::string_view op) {
  if (SkipOp(op)) return {};
  return Unexpected(Concat("'", op, "'"));
}

Result<std::string> Parser::WantName(std::string_view what) {
  if (Now().kind != TokenKind::kName) return Unexpected(what);
  return Take().text;
}

Error Parser::Unexpected(std::string_view want) const {
  std::string found;
  switch (Now().kind) {
    case TokenKind::kEnd: found = "the end of the template"; break;
    case TokenKind::kBlockEnd: found = "the end of the block"; break;
    case TokenKind::kOutputEnd: found = "the end of the output"; break;
    default: found = Quote(Now().text);
  }
  return CorruptFile("line ", Now().line, ": unexpected ", found, ", want ", want);
}

const Expr* Parser::NewBinary(std::string_view op, int line, const Expr* left, const Expr* right) {
  Expr* expr = program_->NewExpr(ExprKind::kBinary, line);
  expr->name = op;
  expr->left = left;
  expr->right = right;
  return expr;
}

Parser::ExprResult Parser::ParseBinary(std::initializer_list<std::string_view> ops,
                                       ExprResult (Parser::*operand)()) {
  MLA_ASSIGN_OR_RETURN(const Expr* left, (this->*operand)());
  for (;;) {
    std::string_view found;
    for (const std::string_view op : ops) {
      if (IsOp(op) || IsWord(op)) found = op;
    }
    if (found.empty()) return left;
    const int line = Take().line;
    MLA_ASSIGN_OR_RETURN(const Expr* right, (this->*operand)());
    left = NewBinary(found, line, left, right);
  }
}

Parser::ExprResult Parser::ParseTuple(bool conditions) {
  const int line = Now().line;
  const auto one = [&] { return conditions ? ParseExpression() : ParseOr(); };
  MLA_ASSIGN_OR_RETURN(const Expr* first, one());
  if (!IsOp(",")) return first;
  Expr* tuple = program_->NewExpr(ExprKind::kTuple, line);
  tuple->items.push_back(first);
  while (SkipOp(",")) {
    const TokenKind kind = Now().kind;
    if (kind == TokenKind::kBlockEnd || kind == TokenKind::kOutputEnd || IsOp(")")) break;
    MLA_ASSIGN_OR_RETURN(const Expr* item, one());
    tuple->items.push_back(item);
  }
  return tuple;
}

Parser::ExprResult Parser::ParseExpression() {
  const Nesting nesting(this);
  MLA_RETURN_IF_ERROR(nesting.Check());
  MLA_ASSIGN_OR_RETURN(const Expr* value, ParseOr());
  while (IsWord("if")) {
    Expr* expr = program_->NewExpr(ExprKind::kCondition, Take().line);
    expr->left = value;
    MLA_ASSIGN_OR_RETURN(expr->right, ParseOr());
    const Expr* other = nullptr;
    if (SkipWord("else")) {
      MLA_ASSIGN_OR_RETURN(other, ParseExpression());
    }
    expr->items.push_back(other);
    value = expr;
  }
  return value;
}

Parser::ExprResult Parser::ParseOr() { return ParseBinary({"or"}, &Parser::ParseAnd); }
Parser::ExprResult Parser::ParseAnd() { return ParseBinary({"and"}, &Parser::ParseNot); }
Parser::ExprResult Parser::ParseSum() { return ParseBinary({"+", "-"}, &Parser::ParseConcat); }
Parser::ExprResult Parser::ParseConcat() { return ParseBinary({"~"}, &Parser::ParseProduct); }

Parser::ExprResult Parser::ParseProduct() {
  return ParseBinary({"*", "/", "//", "%"}, &Parser::ParsePower);
}

Parser::ExprResult Parser::ParsePower() {
  // To the left, as Jinja has it.
  MLA_ASSIGN_OR_RETURN(const Expr* left, ParseUnary());
  while (IsOp("**")) {
    const int line = Take().line;
    MLA_ASSIGN_OR_RETURN(const Expr* right, ParseUnary());
    left = NewBinary("**", line, left, right);
  }
  return left;
}

Parser::ExprResult Parser::ParseNot() {
  if (!IsWord("not")) return ParseComparison();
  const Nesting nesting(this);
  MLA_RETURN_IF_ERROR(nesting.Check());
  Expr* expr = program_->NewExpr(ExprKind::kUnary, Take().line);
  expr->name = "not";
  MLA_ASSIGN_OR_RETURN(expr->left, ParseNot());
  return expr;
}

Parser::ExprResult Parser::ParseComparison() {
  const int line = Now().line;
  MLA_ASSIGN_OR_RETURN(const Expr* left, ParseSum());
  Expr* comparison = nullptr;
  for (;;) {
    std::string op;
    for (const std::string_view known : {"==", "!=", "<", "<=", ">", ">="}) {
      if (IsOp(known)) op = known;
    }
    if (IsWord("in")) op = "in";
    if (IsWord("not") && Next().kind == TokenKind::kName && Next().text == "in") {
      op = "not in";
      Take();
    }
    if (op.empty()) return comparison != nullptr ? comparison : left;
    Take();
    if (comparison == nullptr) {
      comparison = program_->NewExpr(ExprKind::kCompare, line);
      comparison->left = left;
    }
    MLA_ASSIGN_OR_RETURN(const Expr* right, ParseSum());
    comparison->ops.push_back(op);
    comparison->items.push_back(right);
  }
}

Parser::ExprResult Parser::ParseUnary(bool filters) {
  const Nesting nesting(this);
  MLA_RETURN_IF_ERROR(nesting.Check());
  const Expr* node = nullptr;
  if (IsOp("-") || IsOp("+")) {
    const Token op = Take();
    Expr* unary = program_->NewExpr(ExprKind::kUnary, op.line);
    unary->name = op.text;
    MLA_ASSIGN_OR_RETURN(unary->left, ParseUnary(false));
    node = unary;
  } else {
    MLA_ASSIGN_OR_RETURN(node, ParsePrimary());
  }
  MLA_ASSIGN_OR_RETURN(node, ParsePostfix(node));
  return filters ? ParseFilters(node) : ExprResult(node);
}

Parser::ExprResult Parser::ParsePrimary() {
  if (IsOp("(")) return ParseParenthesis();
  if (IsOp("[")) return ParseListLiteral();
  if (IsOp("{")) return ParseDictLiteral();
  const TokenKind kind = Now().kind;
  if (kind != TokenKind::kName && kind != TokenKind::kString && kind != TokenKind::kInteger &&
      kind != TokenKind::kFloat) {
    return Unexpected("an expression");
  }
  const Token token = Take();
  Expr* expr = program_->NewExpr(ExprKind::kConst, token.line);
  if (kind == TokenKind::kInteger) {
    expr->value = Value(token.integer);
  } else if (kind == TokenKind::kFloat) {
    expr->value = Value(token.number);
  } else if (kind == TokenKind::kString) {
    std::string text = token.text;
    while (Now().kind == TokenKind::kString) text += Take().text;
    expr->value = Value::String(text);
  } else if (token.text == "true" || token.text == "True") {
    expr->value = Value(true);
  } else if (token.text == "false" || token.text == "False") {
    expr->value = Value(false);
  } else if (token.text == "none" || token.text == "None") {
    expr->value = Value(None{});
  } else {
    expr->kind = ExprKind::kName;
    expr->name = token.text;
  }
  return expr;
}

Parser::ExprResult Parser::ParseParenthesis() {
  const int line = Take().line;
  if (SkipOp(")")) return program_->NewExpr(ExprKind::kTuple, line);
  MLA_ASSIGN_OR_RETURN(const Expr* inside, ParseTuple());
  MLA_RETURN_IF_ERROR(WantOp(")"));
  return inside;
}

Parser::ExprResult Parser::ParseListLiteral() {
  Expr* list = program_->NewExpr(ExprKind::kList, Take().line);
  while (!SkipOp("]")) {
    if (!list->items.empty()) {
      MLA_RETURN_IF_ERROR(WantOp(","));
      if (SkipOp("]")) break;
    }
    MLA_ASSIGN_OR_RETURN(const Expr* item, ParseExpression());
    list->items.push_back(item);
  }
  return list;
}

Parser::ExprResult Parser::ParseDictLiteral() {
  Expr* dict = program_->NewExpr(ExprKind::kDict, Take().line);
  while (!SkipOp("}")) {
    if (!dict->items.empty()) {
      MLA_RETURN_IF_ERROR(WantOp(","));
      if (SkipOp("}")) break;
    }
    MLA_ASSIGN_OR_RETURN(const Expr* key, ParseExpression());
    MLA_RETURN_IF_ERROR(WantOp(":"));
    MLA_ASSIGN_OR_RETURN(const Expr* value, ParseExpression());
    dict->items.push_back(key);
    dict->items.push_back(value);
  }
  return dict;
}

Parser::ExprResult Parser::ParsePostfix(const Expr* left) {
  for (;;) {
    if (IsOp(".") || IsOp("[")) {
      MLA_ASSIGN_OR_RETURN(left, ParseSubscript(left));
    } else if (IsOp("(")) {
      MLA_ASSIGN_OR_RETURN(left, ParseCall(left));
    } else {
      return left;
    }
  }
}

Parser::ExprResult Parser::ParseFilters(const Expr* left) {
  for (;;) {
    if (SkipOp("|")) {
      MLA_ASSIGN_OR_RETURN(left, ParseFilter(left));
    } else if (left != nullptr && SkipWord("is")) {
      MLA_ASSIGN_OR_RETURN(left, ParseTest(left));
    } else if (left != nullptr && IsOp("(")) {
      MLA_ASSIGN_OR_RETURN(left, ParseCall(left));
    } else {
      return left;
    }
  }
}

Result<std::string> Parser::ParseDottedName(std::string_view what) {
  MLA_ASSIGN_OR_RETURN(std::string name, WantName(what));
  while (SkipOp(".")) {
    MLA_ASSIGN_OR_RETURN(const std::string part, WantName(what));
    name += "." + part;
  }
  return name;
}

Parser::ExprResult Parser::ParseFilter(const Expr* left) {
  Expr* filter = program_->NewExpr(ExprKind::kFilter, Now().line);
  filter->left = left;
  MLA_ASSIGN_OR_RETURN(filter->name, ParseDottedName("the name of a filter"));
  if (IsOp("(")) {
    MLA_ASSIGN_OR_RETURN(filter->arguments, ParseArguments());
  }
  return filter;
}

Parser::ExprResult Parser::ParseTest(const Expr* left) {
  const bool negated = SkipWord("not");
  Expr* test = program_->NewExpr(ExprKind::kTest, Now().line);
  test->left = left;
  MLA_ASSIGN_OR_RETURN(test->name, ParseDottedName("the name of a test"));
  if (IsOp("(")) {
    MLA_ASSIGN_OR_RETURN(test->arguments, ParseArguments());
  } else {
    // One argument may follow without brackets: "is divisibleby 3".
    const TokenKind kind = Now().kind;
    const bool word =
        kind == TokenKind::kName && !IsWord("else") && !IsWord("or") && !IsWord("and");
    if (IsWord("is")) return CorruptFile("line ", Now().line, ": tests cannot be chained with is");
    if (word || kind == TokenKind::kString || kind == TokenKind::kInteger ||
        kind == TokenKind::kFloat || IsOp("[") || IsOp("{")) {
      MLA_ASSIGN_OR_RETURN(const Expr* argument, ParsePrimary());
      MLA_ASSIGN_OR_RETURN(argument, ParsePostfix(argument));
      test->arguments.positional.push_back(argument);
    }
  }
  if (!negated) return test;
  Expr* negation = program_->NewExpr(ExprKind::kUnary, test->line);
  negation->name = "not";
  negation->left = test;
  return negation;
}

Parser::ExprResult Parser::ParseSubscript(const Expr* left) {
  const Token opener = Take();
  if (opener.text == ".") {
    if (Now().kind == TokenKind::kInteger) {
      Expr* item = program_->NewExpr(ExprKind::kItem, opener.line);
      Expr* index = program_->NewExpr(ExprKind::kConst, opener.line);
      index->value = Value(Take().integer);
      item->left = left;
      item->right = index;
      return item;
    }
    Expr* attribute = program_->NewExpr(ExprKind::kAttribute, opener.line);
    attribute->left = left;
    MLA_ASSIGN_OR_RETURN(attribute->name, WantName("the name of an attribute"));
    return attribute;
  }
  const Expr* parts[3] = {nullptr, nullptr, nullptr};
  int colons = 0;
  while (!IsOp("]")) {
    if (IsOp(":") && colons < 2) {
      Take();
      ++colons;
      continue;
    }
    if (parts[colons] != nullptr) return Unexpected("']'");
    MLA_ASSIGN_OR_RETURN(parts[colons], ParseExpression());
  }
  if (colons == 0 && parts[0] == nullptr) return Unexpected("an expression");
  Take();
  Expr* item = program_->NewExpr(colons > 0 ? ExprKind::kSlice : ExprKind::kItem, opener.line);
  item->left = left;
  if (colons > 0) {
    item->items.assign(parts, parts + 3);
  } else {
    item->right = parts[0];
  }
  return item;
}

Parser::ExprResult Parser::ParseCall(const Expr* left) {
  Expr* call = program_->NewExpr(ExprKind::kCall, Now().line);
  call->left = left;
  MLA_ASSIGN_OR_RETURN(call->arguments, ParseArguments());
  return call;
}

Result<Arguments> Parser::ParseArguments() {
  Arguments arguments;
  MLA_RETURN_IF_ERROR(WantOp("("));
  for (bool first = true; !SkipOp(")"); first = false) {
    if (!first) {
      MLA_RETURN_IF_ERROR(WantOp(","));
      if (SkipOp(")")) break;
    }
    if (IsOp("*") || IsOp("**")) {
      return Unsupported("line ", Now().line, ": ", Now().text,
                         " before an argument is not supported");
    }
    const bool named =
        Now().kind == TokenKind::kName && Next().kind == TokenKind::kOperator && Next().text == "=";
    if (named) {
      std::string name = Take().text;
      Take();
      MLA_ASSIGN_OR_RETURN(const Expr* value, ParseExpression());
      arguments.named.emplace_back(std::move(name), value);
    } else if (!arguments.named.empty()) {
      return Unexpected("a named argument: one came before");
    } else {
      MLA_ASSIGN_OR_RETURN(const Expr* value, ParseExpression());
      arguments.positional.push_back(value);
    }
  }
  return arguments;
}

}  // namespace mla::jinja
