#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The miniature widened with zeros says what it says itself (reference/widen_ziya_tiny.py).

usage: widened.py PROGRAM SOURCE MODEL     needs NumPy; says SKIPPED where it is absent
"""
import json
import pathlib
import subprocess
import sys
import tempfile

try:
    import numpy  # noqa: F401
except ImportError:
    print("SKIPPED: this Python has no NumPy")
    sys.exit(0)

program, source, model = sys.argv[1], pathlib.Path(sys.argv[2]), sys.argv[3]
expected = json.loads((source / "examples/ziya-tiny/expected.json").read_text(encoding="utf-8"))
prompts = [sample["query"] for sample in expected["poems"][:2]] + ["What is the capital of France?"]


def answers(folder):
    return [json.loads(subprocess.run([program, "generate", str(folder), "--device", "cpu", "--greedy", "--ids",
                                       "-p", prompt], check=True, stdout=subprocess.PIPE,
                                      stderr=subprocess.PIPE).stdout)["generated_ids"] for prompt in prompts]


with tempfile.TemporaryDirectory(prefix="ziya-widened-") as folder:
    right = answers(model)
    for dtype, megabytes in [("f16", 30), ("bf16", 30), ("f32", 60)]:
        wide = pathlib.Path(folder) / dtype
        subprocess.run([sys.executable, str(source / "tests/reference/widen_ziya_tiny.py"), "--model",
                        str(source / "examples/ziya-tiny"), "--output", str(wide), "--gigabytes",
                        str(megabytes / 1000), "--dtype", dtype], check=True)
        size = (wide / "model.safetensors").stat().st_size
        assert megabytes * 1e6 <= size < megabytes * 1.2e6, size
        assert answers(wide) == right, dtype
