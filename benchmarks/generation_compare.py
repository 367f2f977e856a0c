#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Many answers at once, and guessing ahead, against one token of one answer at a time.

usage: generation_compare.py PROGRAM MODEL [--device cpu|cuda] [--pairs N]

PROGRAM is ziya, MODEL a folder that tests/reference/widen_ziya_tiny.py made of 1 GB or more. Both
sides of a pair run one after the other, so that a shared machine slows both; medians of the pairs.

  batch     16 prompts of 64 tokens on average (32 to 96), 128 new tokens each, greedy:
            `--prompts-file --parallel 16` against `--parallel 1`
  lookup    a prompt that holds a poem and asks for it: `--prompt-lookup 16` against none

The texts of both sides must be the same. Tokens per second are the program's own, without loading.
"""
import argparse
import json
import pathlib
import re
import statistics
import subprocess
import tempfile

SOURCE = pathlib.Path(__file__).resolve().parents[1]
POEMS = json.loads((SOURCE / "examples/ziya-tiny/expected.json").read_text(encoding="utf-8"))["poems"]


def run(options, *arguments):
    """(standard output, tokens per second, standard error)"""
    result = subprocess.run([options.program, "generate", options.model, "--greedy", "--device", options.device,
                             *map(str, arguments)], capture_output=True, text=True, check=False)
    if result.returncode != 0:
        raise SystemExit(result.stderr)
    speed = re.search(r"generated \([\d.]+ s, ([\d.]+) per second\)", result.stderr)
    return result.stdout, float(speed.group(1)), result.stderr


def compare(options, name, slow, fast):
    ratios, speeds = [], []
    for _ in range(options.pairs):
        before, slow_speed, _ = run(options, *slow)
        after, fast_speed, said = run(options, *fast)
        if before != after:
            raise SystemExit(f"{name}: the texts differ")
        ratios.append(fast_speed / slow_speed)
        speeds.append((slow_speed, fast_speed))
    slow_speed, fast_speed = (statistics.median(column) for column in zip(*speeds))
    print(f"{name:8} {slow_speed:8.1f} {fast_speed:8.1f} tokens/s   {statistics.median(ratios):5.2f} times"
          f"   ({min(ratios):.2f} ... {max(ratios):.2f})", flush=True)
    return said


def ragged_prompts():
    """16 lines of poems, of 32, 36, ... 96 characters; a character is a token."""
    text = "".join(poem["answer"].replace("\n", "") for poem in POEMS)
    lengths = [32 + (64 * i + 8) // 15 for i in range(16)]
    begins = [sum(lengths[:i]) for i in range(16)]
    return [text[begin:begin + length] for begin, length in zip(begins, lengths)]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("program")
    parser.add_argument("model")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--pairs", type=int, default=5)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        file = pathlib.Path(folder) / "prompts.txt"
        file.write_text("\n".join(ragged_prompts()), encoding="utf-8")
        many = ["--prompts-file", file, "--template", "raw", "--ids", "--max-new-tokens", 128,
                "--min-new-tokens", 128]
        compare(options, "batch", many + ["--parallel", 1], many + ["--parallel", 16])
        poem = max(POEMS, key=lambda poem: len(poem["answer"]))
        question = f"{poem['answer']}\n{poem['query']}"
        quote = ["--prompt", question, "--ids", "--max-new-tokens", len(poem["answer"]) + 8]
        said = compare(options, "lookup", quote, quote + ["--prompt-lookup", 16])
        print(next(line for line in said.splitlines() if line.startswith("speculation")))


if __name__ == "__main__":
    main()
