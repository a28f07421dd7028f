#!/usr/bin/env python3
"""Refuses an #include that goes against the layers.

The layers are an ordered list of folders: a file may include from its own folder and from folders
earlier in the list. The headers in include/mla stand first and may be included from everywhere.
Folders up to the key-value cache use no library but the system's (and Highway in kernels/cpu).
tests/, bench/ and fuzz/ may include anything and are not read.

usage: check_layers.py [--root DIR] [--self-test]
Prints FILE:LINE: and the rule for each include refused; the exit status is 1 if there was one.
"""

import argparse
import pathlib
import re
import sys
import tempfile

# Folder, and the third-party headers it may use (regular expressions for the whole name).
JSON = r"nlohmann/.*"
CUDA = r"cuda.*|cub/.*|mma\.h|nvrtc\.h|nccl\.h"
LAYERS = [
    ("include/mla", ""),
    ("src/base", ""),
    ("src/tensor", CUDA),
    ("src/ops", ""),
    ("src/kernels/reference", ""),
    ("src/kernels/cpu", r"hwy/.*"),
    ("src/kernels/cuda", CUDA),
    ("src/dispatch", ""),
    ("src/dispatch/cuda", CUDA),
    ("src/kvcache", ""),
    ("src/capi", ""),
    ("src/capi/cuda", CUDA),
    ("src/io", JSON + r"|pcre2\.h|sentencepiece.*|utf8proc\.h"),
    ("src/model", JSON),
    ("src/engine", JSON),
    ("apps", r".*"),
]
RANK = {folder: rank for rank, (folder, _) in enumerate(LAYERS)}
THIRD_PARTY = dict(LAYERS)

SUFFIXES = {".h", ".cc", ".cu", ".cuh"}
# Matches `#include` followed by a quoted or bracketed name, or by a macro (group 3).
INCLUDE = re.compile(r'^\s*#\s*include(?:_next)?\s*(?:"([^"]*)"|<([^>]*)>|(\S.*))')
BLOCK_COMMENT = re.compile(r"/\*.*?\*/", re.DOTALL)
# The C++ library (<vector>), and C, POSIX and compiler headers by name.
SYSTEM = re.compile(
    r"[a-z_0-9]+|(?:sys|linux|asm|arpa|net|netinet|bits)/.*|"
    r"(?:assert|complex|ctype|dirent|dlfcn|errno|fcntl|fenv|float|getopt|glob|inttypes|langinfo|"
    r"limits|locale|malloc|math|memory|netdb|poll|pthread|pwd|sched|semaphore|setjmp|signal|spawn|"
    r"stdalign|stdarg|stdatomic|stdbool|stddef|stdint|stdio|stdlib|string|strings|syscall|syslog|"
    r"termios|time|unistd|wchar|wctype|immintrin|x86intrin|cpuid|arm_neon|arm_sve)\.h"
)


def layer_of(path):
    """The layer that a path (relative to the root, with /) lies in, or None."""
    best = None
    for folder in RANK:
        if path.startswith(folder + "/") and (best is None or len(folder) > len(best)):
            best = folder
    return best


def resolve(root, name):
    """The path below the root that a quoted name means, or None where it is not one of ours."""
    for base in ("include", "src", "."):
        if (root / base / name).is_file():
            return name if base == "." else f"{base}/{name}"
    return None


def check_include(root, layer, name, quoted):
    """The rule that including `name` from `layer` breaks, or None."""
    if ".." in name.split("/"):
        return f'"{name}": includes are written from src/ or include/, without ..'
    target = resolve(root, name) if quoted or name.startswith("mla/") else None
    if target is not None:
        to_layer = layer_of(target)
        if to_layer is None:
            return f'"{name}" is in no layer: no part of the product may include it'
        if RANK[to_layer] > RANK[layer]:
            return f'{layer} may not include "{name}": {to_layer} comes after it'
        return None
    if not quoted and SYSTEM.fullmatch(name):
        return None
    if THIRD_PARTY[layer] and re.fullmatch(THIRD_PARTY[layer], name):
        return None
    if quoted and "/" not in name:
        return f'"{name}": write the path from src/ or include/'
    return f"{layer} may not include {name}: neither ours nor the system's, nor allowed there"


def includes(text):
    """Yields (line number, name, quoted) of each #include outside block comments."""
    blanked = BLOCK_COMMENT.sub(lambda m: "\n" * m.group().count("\n"), text)
    for number, line in enumerate(blanked.split("\n"), 1):
        match = INCLUDE.match(line)
        if match:
            quoted, bracketed, macro = match.groups()
            yield number, quoted or bracketed or macro, bracketed is None


def check_tree(root):
    """Returns (findings, number of files read); a finding is 'FILE:LINE: rule'."""
    findings, count = [], 0
    for top in ("include", "src", "apps"):
        for file in sorted((root / top).rglob("*")):
            if file.suffix not in SUFFIXES:
                continue
            count += 1
            path = file.relative_to(root).as_posix()
            layer = layer_of(path)
            if layer is None:
                findings.append(f"{path}:1: the folder is in no layer: add it to {__file__}")
                continue
            for line, name, quoted in includes(file.read_text(encoding="utf-8")):
                broken = check_include(root, layer, name, quoted)
                if broken:
                    findings.append(f"{path}:{line}: {broken}")
    return findings, count


# What the self-test builds: file, its text, and the lines that must be refused.
SELF_TEST = [
    ("include/mla/tensor.h", "#include <vector>\n", []),
    ("include/mla/leaks.h", '#include "mla/tensor.h"\n#include "base/check.h"\n', [2]),
    ("src/base/check.h", '#include "mla/tensor.h"\n#include <sys/mman.h>\n', []),
    ("src/base/uses_io.cc", '\n  #  include "io/json.h"\n', [2]),
    ("src/ops/linear.h", '#include "base/check.h"\n#include <nlohmann/json.hpp>\n', [2]),
    ("src/ops/commented.h", '/*\n#include "io/json.h"\n*/\n// #include "io/json.h"\n', []),
    ("src/kernels/reference/a.cc", '#include "ops/linear.h"\n#include "kernels/cpu/isa.h"\n', [2]),
    ("src/kernels/reference/b.cc", "#include <hwy/highway.h>\n", [1]),
    ("src/kernels/cpu/isa.h", '#include "hwy/highway.h"\n#include "ops/linear.h"\n', []),
    ("src/kernels/cpu/up.cc", '#include "dispatch/dispatch.h"\n', [1]),
    ("src/dispatch/dispatch.h", '#include "kernels/cpu/isa.h"\n#include "CLI/CLI.hpp"\n', [2]),
    ("src/kvcache/pool.h", '#include "pool_detail.h"\n#include "../base/check.h"\n', [1, 2]),
    ("src/io/json.h", "#include <nlohmann/json.hpp>\n#include <pcre2.h>\n", []),
    ("src/io/gguf/reader.cc", '#include "io/json.h"\n#include "model/model.h"\n', [2]),
    ("src/model/model.h", '#include "io/json.h"\n#include "engine/engine.h"\n', [2]),
    ("src/model/macro.cc", "#include MLA_SOME_HEADER\n", [1]),
    ("src/engine/engine.h", '#include "model/model.h"\n#include "tests/support/grid.h"\n', [2]),
    ("src/engine/app.cc", '#include "apps/cli.h"\n#include <CLI/CLI.hpp>\n', [1, 2]),
    ("src/novel/thing.cc", "int x;\n", [1]),
    ("apps/cli.h", '#include "engine/engine.h"\n#include <CLI/CLI.hpp>\n', []),
    ("tests/support/grid.h", '#include "apps/cli.h"\n', []),
]


def self_test():
    """Checks a small tree with known faults; returns the exit status."""
    want = {f"{path}:{line}" for path, _, lines in SELF_TEST for line in lines}
    with tempfile.TemporaryDirectory() as folder:
        root = pathlib.Path(folder)
        for path, text, _ in SELF_TEST:
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            (root / path).write_text(text, encoding="utf-8")
        findings, _ = check_tree(root)
    got = {finding.split(": ")[0] for finding in findings}
    for place in sorted(want - got):
        print(f"self-test: {place} was not refused", file=sys.stderr)
    for place in sorted(got - want):
        print(f"self-test: {place} was refused", file=sys.stderr)
    if got != want:
        return 1
    print(f"layers: self-test: {len(want)} faults planted, {len(got)} refused")
    return 0


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--root", type=pathlib.Path, default=pathlib.Path(__file__).parents[1])
    parser.add_argument("--self-test", action="store_true", help="check the checker, on a small tree")
    args = parser.parse_args()
    if args.self_test:
        return self_test()
    findings, count = check_tree(args.root)
    for finding in findings:
        print(finding, file=sys.stderr)
    if count == 0:
        print(f"layers: no C++ file below {args.root}", file=sys.stderr)
        return 1
    if not findings:
        print(f"layers: {count} files keep to the layers")
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main())
