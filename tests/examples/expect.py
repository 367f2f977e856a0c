#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Runs a program and compares its standard output with a file.

usage: expect.py FILE PROGRAM [ARGUMENT…]
"""
import difflib
import pathlib
import subprocess
import sys

expected = pathlib.Path(sys.argv[1]).read_text(encoding="utf-8")
run = subprocess.run(sys.argv[2:], stdout=subprocess.PIPE, timeout=50)
actual = run.stdout.decode("utf-8")
sys.stdout.writelines(
    difflib.unified_diff(expected.splitlines(True), actual.splitlines(True), "expected", "actual"))
if run.returncode != 0:
    print(f"exit status {run.returncode}")
sys.exit(actual != expected or run.returncode != 0)
