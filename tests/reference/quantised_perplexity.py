#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Perplexity of every stored type: this library's and llama.cpp's quantiser, this library's and
llama.cpp's arithmetic, and what calibration buys. Prints the table of docs/quantisation.md.

    python quantised_perplexity.py ZIYA_PROGRAM MODEL TEXT CALIBRATION_TEXT [CONTEXT]

with llama-cpp-python 0.3.36 and numpy 2.4.6. MODEL is a Hugging Face folder, the texts are files.
"""
import json
import math
import pathlib
import subprocess
import sys
import tempfile

import llama_cpp
import numpy as np

# Our name, and the number of llama.cpp's preset whose matrices are of that type throughout.
TYPES = {"q8_0": 7, "q6_k": 18, "q5_k": None, "q5_k_m": 17, "q5_1": 9, "q5_0": 8, "q4_k": None, "q4_k_m": 15,
         "q4_1": 3, "q4_0": 2, "iq4_nl": 25, "q3_k": None, "q3_k_m": 12, "q2_k": None}


def theirs(file, ids, context):
    """Perplexity by llama.cpp's logits and method."""
    model = llama_cpp.Llama(str(file), n_ctx=context, logits_all=True, n_threads=2, verbose=False)
    nll = []
    for begin in range(0, len(ids) - context + 1, context):
        window = [1] + ids[begin + 1:begin + context]
        model.reset()
        model.eval(window)
        logits = np.array(model.scores[context // 2:context - 1], dtype=np.float64)
        total = np.log(np.exp(logits - logits.max(-1, keepdims=True)).sum(-1)) + logits.max(-1)
        targets = window[context // 2 + 1:]
        nll += list(total - logits[np.arange(len(targets)), targets])
    return math.exp(sum(nll) / len(nll))


def main():
    program, model, text, calibration = sys.argv[1:5]
    context = int(sys.argv[5]) if len(sys.argv) > 5 else 256

    def ziya(*arguments):
        return subprocess.run([program, *map(str, arguments)], check=True, capture_output=True, text=True).stdout

    def ours(file):
        return json.loads(ziya("perplexity", file, "--file", text, "--context", context, "--json", "--against",
                               model))

    ids = json.loads(ziya("tokenize", model, "--json", "--mode", "plain", "--text-file", text))["ids"]
    if ids[0] != 1:
        ids = [1] + ids
    with tempfile.TemporaryDirectory() as folder:
        full = pathlib.Path(folder) / "f16.gguf"
        ziya("quantize", model, "--type", "f16", "--output", full)
        print(f"{len(ids)} tokens, context {context}; f16: {ours(full)['perplexity']:.4f}, llama.cpp "
              f"{theirs(full, ids, context):.4f}")
        print("| type | perplexity | llama.cpp on the same file | llama.cpp's own file | KL divergence | top token | "
              "calibrated: perplexity | KL divergence |")
        print("|---|---|---|---|---|---|---|---|")
        for name, preset in TYPES.items():
            file, tuned, other = (pathlib.Path(folder) / f"{name}.{kind}.gguf" for kind in ("ours", "tuned", "theirs"))
            ziya("quantize", model, "--type", name, "--output", file)
            ziya("quantize", model, "--type", name, "--calibrate", calibration, "--context", context, "--output", tuned)
            plain, weighted = ours(file), ours(tuned)
            own = "–"
            if preset is not None:
                parameters = llama_cpp.llama_model_quantize_default_params()
                parameters.ftype = preset
                llama_cpp.llama_model_quantize(str(full).encode(), str(other).encode(), parameters)
                own = f"{ours(other)['perplexity']:.4f}"
            print(f"| {name} | {plain['perplexity']:.4f} | {theirs(file, ids, context):.4f} | {own} | "
                  f"{plain['against']['mean_kl_divergence']:.5f} | {100 * plain['against']['top_agreement']:.2f} % | "
                  f"{weighted['perplexity']:.4f} | {weighted['against']['mean_kl_divergence']:.5f} |", flush=True)
            for path in (file, tuned, other):
                path.unlink(missing_ok=True)


if __name__ == "__main__":
    main()
