#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""How long a program takes to compile at -O2.

usage: compile_time.py --compiler g++ --include DIR --program FILE [--limit SECONDS]
Measures processor time of the compiler, the least of three, so that a busy machine does not count.
"""
import argparse
import os
import subprocess
import sys
import tempfile


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
    parser.add_argument("--limit", type=float, default=8.0)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        command = [arguments.compiler, "-std=c++20", "-O2", "-I" + arguments.include,
                   "-isystem/usr/include/eigen3", "-c", arguments.program, "-o", folder + "/a.o"]
        least = min(seconds(command) for _ in range(3))
    print(f"{arguments.program}: {least:.2f} s of processor time, limit {arguments.limit:.1f} s")
    return 0 if least <= arguments.limit else 1


if __name__ == "__main__":
    sys.exit(main())
