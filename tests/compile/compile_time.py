#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""How long a program takes to compile at -O2, beside one that includes the same libraries only.

usage: compile_time.py --compiler g++ --include DIR --program FILE --limit SECONDS [--define NAME=VALUE]
Processor time of the compiler, best of at most eight attempts, because what else the machine does only
makes it longer. The limit is for a machine that compiles usual_includes.cpp in 5 seconds; on one that
takes longer, in the same attempt, it grows in proportion.
"""
import argparse
import os
import pathlib
import subprocess
import sys
import tempfile

YARDSTICK_SECONDS = 5


def seconds(command):
    before = os.times()
    subprocess.run(command, check=True)
    after = os.times()
    return (after.children_user - before.children_user) + (after.children_system - before.children_system)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--compiler", default="g++")
    parser.add_argument("--include", required=True)
    parser.add_argument("--program", required=True)
    parser.add_argument("--limit", type=float, required=True)
    parser.add_argument("--define", action="append", default=[])
    arguments = parser.parse_args()
    yardstick = str(pathlib.Path(__file__).parent / "usual_includes.cpp")
    with tempfile.TemporaryDirectory() as folder:
        defines = ["-D" + define for define in arguments.define]

        def command(program):
            return [arguments.compiler, "-std=c++20", "-O2", "-I" + arguments.include,
                    "-isystem/usr/include/eigen3", *defines, "-c", program, "-o", folder + "/a.o"]
        for _ in range(8):
            taken, usual = seconds(command(arguments.program)), seconds(command(yardstick))
            limit = arguments.limit * max(1.0, usual / YARDSTICK_SECONDS)
            print(f"{arguments.program}: {taken:.2f} s of processor time, limit {limit:.1f} s "
                  f"(the usual includes: {usual:.2f} s)")
            if taken <= limit:
                return 0
    return 1


if __name__ == "__main__":
    sys.exit(main())
