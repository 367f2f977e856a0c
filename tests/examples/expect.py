#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Runs a program and compares its standard output with a file. A program that wants an NVIDIA GPU where there is none is
skipped, unless ZIYA_REQUIRE_GPU is set.

usage: expect.py FILE PROGRAM [ARGUMENT…]
"""
import difflib
import os
import pathlib
import subprocess
import sys

expected = pathlib.Path(sys.argv[1]).read_text(encoding="utf-8")
run = subprocess.run(sys.argv[2:], stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=50)
error = run.stderr.decode("utf-8")
sys.stderr.write(error)
if "there is no NVIDIA GPU" in error and not os.environ.get("ZIYA_REQUIRE_GPU"):
    print("SKIPPED: there is no NVIDIA GPU")
    sys.exit(0)
actual = run.stdout.decode("utf-8")
sys.stdout.writelines(
    difflib.unified_diff(expected.splitlines(True), actual.splitlines(True), "expected", "actual"))
if run.returncode != 0:
    print(f"exit status {run.returncode}")
sys.exit(actual != expected or run.returncode != 0)
