#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Seconds from the start of `ziya generate` on a GPU to its first token, and to its end: the median of a few runs.

usage: first_token.py PROGRAM MODEL [RUNS]
"""
import statistics
import subprocess
import sys
import time


def run(program, model):
    begin = time.monotonic()
    with subprocess.Popen([program, "generate", model, "--device", "cuda", "--raw", "-p", "Once upon a time",
                           "--greedy", "--max-new-tokens", "8"], stdout=subprocess.PIPE) as process:
        if not process.stdout.read(1):
            sys.exit("error: no token came")
        first = time.monotonic() - begin
        process.stdout.read()
    if process.returncode != 0:
        sys.exit(process.returncode)
    return first, time.monotonic() - begin


def main():
    times = [run(*sys.argv[1:3]) for _ in range(int(sys.argv[3]) if len(sys.argv) > 3 else 4)][1:]  # the first warms up
    first, end = (statistics.median(column) for column in zip(*times))
    print(f"| start of the process to its first token | {first:.2f} s (to its end {end:.2f} s) | | |")


if __name__ == "__main__":
    main()
