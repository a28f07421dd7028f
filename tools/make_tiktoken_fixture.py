#!/usr/bin/env python3
"""Writes tests/data/tokenizer/kimi_tiktoken.json: what tiktoken makes of texts.

Needs `pip install tiktoken`. The ranks are the first tokens of the bundled model's tokenizer, words
are cut as Kimi-K2's own Python code says, and the texts are those of make_tokenizer_fixtures.py.
"""
import ast
import base64
import json
import pathlib

import tiktoken

ROOT = pathlib.Path(__file__).resolve().parent.parent
NUM_RANKS = 1500
LETTERS = r"\p{Lt}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]"
UPPER, LOWER = rf"[\p{{Lu}}{LETTERS}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]"
ENDING = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
WORDS = "|".join(
    [
        r"[\p{Han}]+",
        rf"[^\r\n\p{{L}}\p{{N}}]?{UPPER}*{LOWER}+{ENDING}",
        rf"[^\r\n\p{{L}}\p{{N}}]?{UPPER}+{LOWER}*{ENDING}",
        r"\p{N}{1,3}",
        r" ?[^\s\p{L}\p{N}]+[\r\n]*",
        r"\s*[\r\n]+",
        r"\s+(?!\S)",
        r"\s+",
    ]
)


def byte_of_character():
    """GPT-2's alphabet: printable bytes are themselves, the others follow from U+0100."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    table = {chr(b): b for b in plain}
    others = [b for b in range(256) if b not in plain]
    table.update({chr(256 + i): b for i, b in enumerate(others)})
    return table


def nasty_texts():
    source = (ROOT / "tools" / "make_tokenizer_fixtures.py").read_text()
    for node in ast.parse(source).body:
        if isinstance(node, ast.Assign) and node.targets[0].id == "NASTY":
            return eval(compile(ast.Expression(node.value), "NASTY", "eval"))
    raise SystemExit("make_tokenizer_fixtures.py has no NASTY")


def main():
    tokenizer = json.loads((ROOT / "models/stories-mla-9m/tokenizer.json").read_text())
    table = byte_of_character()
    special = {token["id"] for token in tokenizer["added_tokens"]}
    pieces = sorted(tokenizer["model"]["vocab"].items(), key=lambda item: item[1])
    tokens = [bytes(table[c] for c in piece) for piece, i in pieces if i not in special]
    tokens = tokens[:NUM_RANKS]
    ranks = {token: rank for rank, token in enumerate(tokens)}
    added = {"[BOS]": NUM_RANKS, "[EOS]": NUM_RANKS + 1, "<|im_end|>": NUM_RANKS + 7}
    encoding = tiktoken.Encoding("fixture", pat_str=WORDS, mergeable_ranks=ranks,
                                 special_tokens=added)
    texts = [*nasty_texts(), "HTTPServer fooBar's DON'T XMLHttp I'LL éCole Ünder ǅungla",
             "汉字abc汉字 漢字's かなカナ abc漢", "one [EOS]<|im_end|> two [BOS]"]
    cases = [
        {
            "text": text,
            "ids": encoding.encode(text, disallowed_special=()),
            "ids_parse_special": encoding.encode(text, allowed_special="all"),
        }
        for text in texts
    ]
    fixture = {
        "made_with": f"tiktoken {tiktoken.__version__}",
        "model": "".join(
            f"{base64.b64encode(token).decode()} {rank}\n" for token, rank in ranks.items()
        ),
        "config": {
            "tokenizer_class": "TikTokenTokenizer",
            "bos_token": "[BOS]",
            "eos_token": "[EOS]",
            "added_tokens_decoder": {
                str(i): {"content": content, "special": True} for content, i in added.items()
            },
        },
        "cases": cases,
    }
    path = ROOT / "tests/data/tokenizer/kimi_tiktoken.json"
    path.write_text(json.dumps(fixture, ensure_ascii=False, indent=0) + "\n")


if __name__ == "__main__":
    main()
