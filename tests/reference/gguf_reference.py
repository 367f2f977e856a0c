#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""What llama.cpp makes of the GGUF files that `ziya convert` writes.

usage: gguf_reference.py ZIYA_PROGRAM MERGED_ZIYA_TINY STORIES260K_HF

Converts both models to F32, F16 and BF16, opens each file in llama.cpp with a cache of F32 keys and
values, and continues prompts greedily. Checks that the metadata is complete for gguf's own reader,
that llama.cpp has as many tokens as the embedding has rows, and that it ends answers where the
model does. Writes tests/data/golden/gguf/llama_cpp.json: prompt ids and the ids that follow, which
tests/convert/gguf_model_test.cpp expects of this library's loader. A prompt whose two best logits
come closer than 1e-3 is refused.
Made with llama-cpp-python 0.3.36 (built from source), gguf 0.17.1 and numpy 2.4.6.
"""
import json
import pathlib
import subprocess
import sys
import tempfile

import llama_cpp
import numpy as np
from gguf import GGUFReader

ROOT = pathlib.Path(__file__).resolve().parent.parent
OUT = ROOT / "data" / "golden" / "gguf" / "llama_cpp.json"
F32 = 0  # ggml's number of the type
COUNT = 48
REQUIRED = """general.architecture general.name general.file_type llama.vocab_size
llama.context_length llama.embedding_length llama.block_count llama.feed_forward_length
llama.attention.head_count llama.attention.head_count_kv llama.rope.dimension_count
llama.rope.freq_base llama.attention.layer_norm_rms_epsilon tokenizer.ggml.model
tokenizer.ggml.pre tokenizer.ggml.tokens tokenizer.ggml.scores tokenizer.ggml.token_type
tokenizer.ggml.bos_token_id tokenizer.ggml.eos_token_id tokenizer.ggml.unknown_token_id
tokenizer.ggml.add_bos_token tokenizer.ggml.add_eos_token
tokenizer.ggml.add_space_prefix""".split()


def check_metadata(path):
    reader = GGUFReader(path)
    missing = [key for key in REQUIRED if key not in reader.fields]
    if missing:
        raise SystemExit(f"{path.name}: lacks {missing}")
    rows = next(t for t in reader.tensors if t.name == "token_embd.weight").shape[1]
    tokens = len(reader.fields["tokenizer.ggml.tokens"].data)
    if rows != tokens:
        raise SystemExit(f"{path.name}: {rows} rows, {tokens} tokens")
    vectors = [t for t in reader.tensors if len(t.shape) == 1]
    if any(t.tensor_type.name != "F32" for t in vectors):
        raise SystemExit(f"{path.name}: a vector is not F32")


def greedy(model, prompt):
    """The ids after `prompt`, up to the end of the answer, and the smallest gap between the two
    best logits."""
    model.reset()
    model.eval(prompt)
    ids, gap = [], np.inf
    while len(ids) < COUNT:
        logits = np.array(model.scores[model.n_tokens - 1])
        best = np.sort(logits)[-2:]
        gap = min(gap, float(best[1] - best[0]))
        ids.append(int(logits.argmax()))
        if ids[-1] == model.token_eos():
            break
        model.eval(ids[-1:])
    return ids, gap


def main():
    program, tiny, stories = map(pathlib.Path, sys.argv[1:4])
    expected = json.loads((ROOT.parent / "examples/ziya-tiny/expected.json").read_text())
    samples = [*expected["poems"][:3], *expected["questions"][:3]]
    reference = json.loads((stories / "reference.json").read_text())
    prompts = {"ziya-tiny": (tiny, [sample["prompt_ids"] for sample in samples]),
               "stories260K": (stories, [[1], reference["sentence_ids"]])}
    result = {"made with": f"llama-cpp-python {llama_cpp.__version__}", "models": {}}
    with tempfile.TemporaryDirectory() as folder:
        for name, (source, prompt_ids) in prompts.items():
            cases = result["models"][name] = []
            for dtype in ("f32", "f16", "bf16"):
                path = pathlib.Path(folder) / f"{name}-{dtype}.gguf"
                subprocess.run([program, "convert", "--input", source, "--output", path, "--type",
                                dtype], check=True)
                check_metadata(path)
                model = llama_cpp.Llama(str(path), n_ctx=256, verbose=False, logits_all=True,
                                        type_k=F32, type_v=F32, flash_attn=False, n_threads=1)
                for prompt in prompt_ids:
                    ids, gap = greedy(model, prompt)
                    if gap < 1e-3:
                        raise SystemExit(f"{path.name}: logits as close as {gap}")
                    cases.append({"type": dtype, "prompt_ids": prompt, "ids": ids})
    for sample, case in zip(samples, result["models"]["ziya-tiny"]):
        answer = sample["answer_ids"][:len(case["ids"])]
        if case["ids"][:len(answer)] != answer:
            raise SystemExit(f"llama.cpp answers otherwise than expected.json: {case}")
    bos = reference["greedy_from_bos"]
    first = result["models"]["stories260K"][0]["ids"]
    if bos[1:1 + len(first)] != first:
        raise SystemExit("llama.cpp goes on otherwise than reference.json")
    OUT.parent.mkdir(parents=True, exist_ok=True)
    OUT.write_text(json.dumps(result, separators=(",", ":")) + "\n")


if __name__ == "__main__":
    main()
