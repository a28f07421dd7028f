#!/usr/bin/env python3
"""Tokenising here against the Python package `tokenizers`, on one core, in turns within one run.

usage: tokenizer_ratio.py DIR... --text FILE... [--bench build/bin/tokenizer_bench] [--pairs 10]

DIR has a tokenizer.json. Per DIR and text, prints the ratio of encoding speeds (above 1: this
library is the faster): the median of the paired ratios, with the smallest and the largest. Both
sides encode the text as one string, without special tokens; times are of the processor.
Needs: pip install tokenizers.
"""

import argparse
import json
import os
import pathlib
import statistics
import subprocess
import sys
import time

os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["RAYON_NUM_THREADS"] = "1"


def ours_seconds(bench, directory, text):
    """Seconds of one encoding of the text by tokenizer_bench."""
    command = [bench, "--benchmark_filter=^encode/", "--benchmark_format=json",
               "--benchmark_min_time=0.2", str(directory), str(text)]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    if run.returncode != 0:
        sys.exit(f"tokenizer_ratio: {bench} failed: {run.stderr.strip()}")
    result = json.loads(run.stdout)["benchmarks"][0]
    return result["cpu_time"] * {"ns": 1e-9, "us": 1e-6, "ms": 1e-3}[result["time_unit"]]


def theirs_seconds(tokenizer, text):
    start = time.process_time()
    tokenizer.encode(text, add_special_tokens=False)
    return time.process_time() - start


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("directories", nargs="+", metavar="DIR", type=pathlib.Path)
    parser.add_argument("--text", nargs="+", required=True, type=pathlib.Path)
    parser.add_argument("--bench", default="build/bin/tokenizer_bench")
    parser.add_argument("--pairs", type=int, default=10)
    args = parser.parse_args()
    try:
        from tokenizers import Tokenizer
    except ImportError:
        sys.exit("tokenizer_ratio: needs the package: pip install tokenizers")

    print("| tokenizer | text | MB/s here | MB/s there | ratio | from | to |")
    print("| --- | --- | --: | --: | --: | --: | --: |")
    for directory in args.directories:
        tokenizer = Tokenizer.from_file(str(directory / "tokenizer.json"))
        for path in args.text:
            text = path.read_text(encoding="utf-8")
            megabytes = path.stat().st_size / 1e6
            ours, theirs = [], []
            for _ in range(args.pairs):
                ours.append(ours_seconds(args.bench, directory, path))
                theirs.append(theirs_seconds(tokenizer, text))
            ratios = [b / a for a, b in zip(ours, theirs)]
            print(f"| {directory.name} | {path.name} | {megabytes / statistics.median(ours):.1f} | "
                  f"{megabytes / statistics.median(theirs):.2f} | {statistics.median(ratios):.1f} | "
                  f"{min(ratios):.1f} | {max(ratios):.1f} |", flush=True)


if __name__ == "__main__":
    main()
