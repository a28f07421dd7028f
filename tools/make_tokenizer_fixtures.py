#!/usr/bin/env python3
"""Writes tests/data/tokenizer: what Hugging Face's tokenizers and SentencePiece make of texts.

Needs `pip install tokenizers sentencepiece`. The tests read the fixtures only; run this again after
adding a text or a tokenizer:

    python3 tools/make_tokenizer_fixtures.py --shared ../shared
"""

import argparse
import json
import pathlib
import random
import struct

import sentencepiece
import tokenizers
from tokenizers import Tokenizer

ROOT = pathlib.Path(__file__).resolve().parent.parent
FILES = ["tinyshakespeare.txt", "tinystories_2M.txt", "tinystories_val_800K.txt", "wiki.test.raw"]

NASTY = [
    "", "a", " ", "  ", "\n", "\r\n\r\n", "a\r\nb\rc\nd\n\n\n e", "   leading", "trailing   ",
    "a  b   c    d\t\te \t f", "12345678901234567890", "1 22 333 4444", "٣٤٥ ⅷ ½ ²³ 一二三",
    "你好，世界！今天天气很好。", "こんにちは世界ヒラガナ", "한국어 텍스트",
    "👨‍👩‍👧‍👦 family 🏳️‍🌈 🇩🇪🇫🇷 👍🏽", "e\u0301 é n\u0303 ñ A\u030a Å \u1e9b\u0323",
    "مرحبا بالعالم שלום עולם", "\u0000\u0001\u001f\u007f\u0080\u009f x",
    "\u00a0nbsp\u2003em\u3000ideo\u200bzw\u180emvs\u2028ls\u2029ps\u0085nel\ufeffbom",
    "<|endoftext|> and <｜begin▁of▁sentence｜>x<|im_start|>user\n<|im_end|>",
    "a" * 900, "ab" * 500 + "1" * 100, " " * 300 + "x", " " * 300, "\n" * 200 + " \n",
    "I'm you're we'VE 'S it's DON'T 'll",
    "hello_world fooBar HTTPServer x=y+z; // comment\n\tif (a&&b) { return 0xFF; }",
    "!!!???...,,,;;;---===", "$100.00 €50 £3 ≠ ∞ √", "ﬁ ﬂ ß İ ı Ǆ ǆ",
    "\ud7ff\ue000\ufffd\U0010ffff\U00010000", "Z͑ͫ̓ͪ̂ͫ̽͏̴̙̤̞͉͚̯̞̠͍A̴̵̜̰͔ͫ͗͢",
    "<｜tool▁sep｜> <｜tool▁calls▁begin｜>x <tool_call> <|fim_pad|>", "नमस्ते दुनिया ภาษาไทย",
    "\t\n\x0b\x0c\r x", "a\u0300\u0301\u0302 \u0300b", "'s'ſ 'ſ K Å", "_a_b_ __init__",
    "가각 \u1100\u1161\u11a8", "\u0958 \u2126 \u212b \uf900", "<0x41> ▁a▁▁b",
    "\U0001fa77\U0001fae8 new \U0001fa77! \U0002ebf0字 \u1c89a",
]


def fnv1a64(ids):
    value = 0xCBF29CE484222325
    for byte in struct.pack(f"<{len(ids)}i", *ids):
        value = ((value ^ byte) * 0x100000001B3) & 0xFFFFFFFFFFFFFFFF
    return f"{value:016x}"


def encode(tokenizer, text, parse_special):
    tokenizer.encode_special_tokens = not parse_special
    return tokenizer.encode(text, add_special_tokens=False).ids


def hf_case(tokenizer, text):
    ids = encode(tokenizer, text, True)
    return {
        "text": text,
        "ids": encode(tokenizer, text, False),
        "ids_parse_special": ids,
        "decoded": tokenizer.decode(ids, skip_special_tokens=False),
        "decoded_skip_special": tokenizer.decode(ids, skip_special_tokens=True),
    }


def random_ids(tokenizer, seed, count):
    rng = random.Random(seed)
    size = tokenizer.get_vocab_size()
    lists = [[rng.randrange(size) for _ in range(rng.randint(1, 12))] for _ in range(count)]
    return [{"ids": ids, "decoded": tokenizer.decode(ids, skip_special_tokens=False)}
            for ids in lists]


def read(path):
    return path.read_bytes().decode("utf-8")


def hf_fixture(directory, text_dir):
    tokenizer = Tokenizer.from_file(str(directory / "tokenizer.json"))
    fixture = {
        "made_with": f"tokenizers {tokenizers.__version__}",
        "cases": [hf_case(tokenizer, text) for text in NASTY],
        "random_ids": random_ids(tokenizer, 7, 50),
        "files": {},
    }
    for name in FILES if text_dir else []:
        ids = encode(tokenizer, read(text_dir / name), False)
        fixture["files"][name] = {"tokens": len(ids), "fnv1a64": fnv1a64(ids)}
    return fixture


def sentencepiece_fixture(model, text_dir):
    processor = sentencepiece.SentencePieceProcessor(model_file=str(model))
    rng = random.Random(7)
    size = processor.get_piece_size()
    lists = [[rng.choice([rng.randrange(260), rng.randrange(size)])
              for _ in range(rng.randint(1, 12))] for _ in range(200)]
    fixture = {
        "made_with": f"sentencepiece {sentencepiece.__version__}",
        "cases": [], "random_ids": [], "files": {},
    }
    for text in NASTY:
        ids = processor.encode(text)
        fixture["cases"].append({"text": text, "ids": ids, "decoded": processor.decode(ids)})
    for ids in lists:
        fixture["random_ids"].append({"ids": ids, "decoded": processor.decode(ids)})
    for name in FILES:
        lines = read(text_dir / name).split("\n")[:500]
        ids = [i for line in lines for i in processor.encode(line)]
        fixture["files"][name] = {"lines": 500, "tokens": len(ids), "fnv1a64": fnv1a64(ids)}
    return fixture


# Small tokenizers for the parts of the format that the released ones above do not use.

def bpe(words, byte_fallback=False, byte_level=False, **options):
    vocab = {"<unk>": 0}
    if byte_fallback:
        vocab.update({f"<0x{b:02X}>": b + 1 for b in range(256)})
    letters = set("".join(words))
    if byte_level:
        letters |= set(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    for letter in sorted(letters):
        vocab.setdefault(letter, len(vocab))
    merges = []
    for word in words:
        for i in range(1, len(word)):
            vocab.setdefault(word[:i + 1], len(vocab))
            if (pair := [word[:i], word[i]]) not in merges:
                merges.append(pair)
    return {"type": "BPE", "dropout": None, "unk_token": "<unk>", "vocab": vocab, "merges": merges,
            "continuing_subword_prefix": None, "end_of_word_suffix": None, "fuse_unk": False,
            "byte_fallback": byte_fallback, "ignore_merges": False, **options}


def synthetic(model, added=(), **parts):
    tokens = [{"id": model["vocab"].get(t["content"], len(model["vocab"]) + i), "special": False,
               "single_word": False, "lstrip": False, "rstrip": False, "normalized": False, **t}
              for i, t in enumerate(added)]
    return {"version": "1.0", "truncation": None, "padding": None, "added_tokens": tokens,
            "normalizer": None, "pre_tokenizer": None, "post_processor": None, "decoder": None,
            "model": model, **parts}


def sequence(key, *steps):
    return {"type": "Sequence", key: list(steps)}


BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "use_regex": True,
              "trim_offsets": False}


def synthetics():
    words = ["▁the", "▁cat", "sat", "▁mat", "ab", "abc", "12", "the", "cat", "hello", "▁▁"]
    plain = ["the", "cat", "sat", "ab", "abc", "12", "  ", " the", "hello", ".,", "A", "É", "é"]
    llama_decoder = sequence(
        "decoders", {"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
        {"type": "ByteFallback"}, {"type": "Fuse"},
        {"type": "Strip", "content": " ", "start": 1, "stop": 0})
    special = [{"content": "<s>", "special": True}, {"content": "</s>", "special": True}]
    out = {
        "llama": synthetic(
            bpe(words, byte_fallback=True, fuse_unk=True), special,
            normalizer=sequence("normalizers", {"type": "Prepend", "prepend": "▁"},
                                {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}),
            decoder=llama_decoder),
        "no_decoder": synthetic(bpe(plain), pre_tokenizer={"type": "WhitespaceSplit"}),
        "fuse_unk": synthetic(bpe(plain, fuse_unk=True), decoder={"type": "Fuse"}),
        "no_unk": synthetic(bpe(plain, unk_token=None), decoder={"type": "Fuse"}),
        "ignore_merges": synthetic(
            bpe(["the", "cat"], byte_level=True, ignore_merges=True),
            pre_tokenizer={"type": "ByteLevel", "add_prefix_space": True, "use_regex": True,
                           "trim_offsets": False},
            decoder=BYTE_LEVEL),
        "byte_level_first": synthetic(
            bpe(["the", "Ġcat"], byte_level=True),
            pre_tokenizer=sequence(
                "pretokenizers",
                {"type": "ByteLevel", "add_prefix_space": False, "use_regex": False,
                 "trim_offsets": False},
                {"type": "Split", "pattern": {"String": "Ġ"}, "behavior": "MergedWithNext",
                 "invert": False}),
            decoder=BYTE_LEVEL),
        "strip_tail": synthetic(
            bpe(words), decoder=sequence("decoders", {"type": "Fuse"},
                                         {"type": "Strip", "content": "a", "start": 2, "stop": 0})),
        "lower_nfkd": synthetic(
            bpe(plain), normalizer=sequence("normalizers", {"type": "NFKD"},
                                            {"type": "Lowercase"},
                                            {"type": "Strip", "strip_left": True,
                                             "strip_right": True}), decoder={"type": "Fuse"}),
        "nfkc": synthetic(bpe(plain), normalizer={"type": "NFKC"}, decoder={"type": "Fuse"}),
        "nfd": synthetic(bpe(plain + ["e\u0301"]), normalizer={"type": "NFD"},
                         decoder={"type": "Fuse"}),
        "replace_regex": synthetic(
            bpe(plain), normalizer={"type": "Replace", "pattern": {"Regex": "\\s+"},
                                    "content": " "}, decoder={"type": "Fuse"}),
        "added_flags": synthetic(
            bpe(plain, byte_level=True),
            special + [{"content": "left", "lstrip": True}, {"content": "right", "rstrip": True},
                       {"content": "both", "lstrip": True, "rstrip": True},
                       {"content": "word", "single_word": True}, {"content": "wordy"}],
            pre_tokenizer={"type": "ByteLevel", "add_prefix_space": False, "use_regex": True,
                           "trim_offsets": False},
            decoder=BYTE_LEVEL),
    }
    out["added_normalized"] = synthetic(
        bpe(plain, byte_level=True),
        special + [{"content": "NORM", "normalized": True}, {"content": "ÉE", "normalized": True}],
        normalizer=sequence("normalizers", {"type": "NFC"}, {"type": "Lowercase"}),
        pre_tokenizer=BYTE_LEVEL, decoder=BYTE_LEVEL)
    for scheme in ("always", "first", "never"):
        for split in (True, False):
            step = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": scheme,
                    "split": split}
            out[f"metaspace_{scheme}_{split}".lower()] = synthetic(
                bpe(words), special, pre_tokenizer=step, decoder=step)
    for behavior in ("Isolated", "Removed", "MergedWithPrevious", "MergedWithNext", "Contiguous"):
        for invert in (False, True):
            out[f"split_{behavior}_{invert}".lower()] = synthetic(
                bpe(plain), decoder=None,
                pre_tokenizer=sequence("pretokenizers", {
                    "type": "Split", "pattern": {"Regex": "[,.!a]| "}, "behavior": behavior,
                    "invert": invert}))
    for name, step in {
            "digits": {"type": "Digits", "individual_digits": False},
            "digits_single": {"type": "Digits", "individual_digits": True},
            "whitespace": {"type": "Whitespace"},
            "punctuation": {"type": "Punctuation", "behavior": "Isolated"}}.items():
        out[name] = synthetic(bpe(plain), pre_tokenizer=step)
    return out


SYNTHETIC_TEXTS = [
    "", " ", "the cat sat", "  the  cat ", "abcabc ab", "hello, the cat. 12 123!", "É é e\u0301",
    "ﬁ ² Å", "中文 😀", "<s>the</s> cat<s>", "a left b  left\tc", "x right   y", "p both  both q",
    "word words wordy a word. sword", "norm NORM Norm ée ÉE", "aaa,,..a a!", "aab", "x  \n y",
    "the\u00a0cat\u3000sat", "<0x41>", "▁the▁cat", "a²b_c", "٣12",
]


def synthetic_fixture():
    fixture = {"made_with": f"tokenizers {tokenizers.__version__}", "tokenizers": {}}
    for name, content in synthetics().items():
        tokenizer = Tokenizer.from_str(json.dumps(content))
        cases = [hf_case(tokenizer, text) for text in SYNTHETIC_TEXTS]
        ids = random_ids(tokenizer, 11, 40)
        if name == "added_normalized":
            # Versions differ in how such a token is decoded: as written, or as its normal form.
            ids = []
            for case in cases:
                del case["decoded"], case["decoded_skip_special"]
        fixture["tokenizers"][name] = {"tokenizer": content, "cases": cases, "random_ids": ids}
    return fixture


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shared", type=pathlib.Path, required=True,
                        help="the folder with tokenizers/, models/stories15m and text/")
    parser.add_argument("--only", help="write this fixture alone")
    parser.add_argument("--out", type=pathlib.Path, default=ROOT / "tests/data/tokenizer")
    args = parser.parse_args()
    text_dir = args.shared / "text"
    makers = {"synthetic": synthetic_fixture,
              "stories-mla-9m": lambda: hf_fixture(ROOT / "models/stories-mla-9m", text_dir),
              "stories15m": lambda: sentencepiece_fixture(
                  args.shared / "models/stories15m/tokenizer.model", text_dir)}
    for name in ("deepseek_v3", "qwen2_5", "gpt2"):
        makers[name] = lambda name=name: hf_fixture(args.shared / "tokenizers" / name, text_dir)
    args.out.mkdir(parents=True, exist_ok=True)
    for name, make in makers.items():
        if args.only not in (None, name):
            continue
        path = args.out / f"{name}.json"
        path.write_text(json.dumps(make(), separators=(",", ":")) + "\n")
        print(f"{path.name}: {path.stat().st_size} bytes")


if __name__ == "__main__":
    main()
