#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The 13B shape with random weights on one GPU: ziya beside Transformers, in turn, in one run.

usage: compare_gpu.py GPU_BENCHMARK [--rounds 3] [--layers 40]

Transformers is the one of the Python that runs this, with `generate` on a static cache, which it
compiles (torch.compile), and SDPA. A round runs GPU_BENCHMARK, in a process of its own, and then
Transformers, whose model stays in the GPU's memory. Decoding: batch 1, fp16, 128 greedy tokens after
a prompt of 64, on either side with the choice of the token; the time of a token is the median.
Prompt: 2048 tokens in bf16 through all layers, one row through the head. Printed: versions, each
side's medians over the rounds, and the median and range of ziya / Transformers over the rounds. With
fewer layers, to try it out, Transformers runs alone.
"""
import argparse
import re
import statistics
import subprocess
import time

import torch
import transformers

PROMPT, TOKENS, PREFILL = 64, 128, 2048


class Times(transformers.StoppingCriteria):
    """Stops nothing, and knows when each token was there."""

    def __init__(self):
        self.at = []

    def __call__(self, input_ids, scores, **_):
        torch.cuda.synchronize()
        self.at.append(time.perf_counter())
        return torch.zeros(input_ids.shape[0], dtype=torch.bool, device=input_ids.device)


class Transformers:
    def __init__(self, layers):
        config = transformers.LlamaConfig(
            vocab_size=39424, hidden_size=5120, intermediate_size=13824, num_hidden_layers=layers,
            num_attention_heads=40, num_key_value_heads=40, max_position_embeddings=4096,
            attn_implementation="sdpa")
        torch.set_default_dtype(torch.float16)
        with torch.device("cuda"):
            self.model = transformers.LlamaForCausalLM(config).eval()
        torch.set_default_dtype(torch.float32)
        self.model.generation_config.eos_token_id = None
        self.model.generation_config.pad_token_id = 0

    @staticmethod
    def ids(count):
        return torch.tensor([[(i * 7919 + 3) % 30000 for i in range(count)]], device="cuda")

    def decode(self):
        """Tokens per second."""
        times = Times()
        ids = self.ids(PROMPT)
        out = self.model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=TOKENS + 1, do_sample=False,
                                  cache_implementation="static",
                                  stopping_criteria=transformers.StoppingCriteriaList([times]))
        assert out.shape[1] == PROMPT + TOKENS + 1 and len(times.at) == TOKENS + 1
        return 1 / statistics.median(b - a for a, b in zip(times.at, times.at[1:]))

    def prefill(self):
        """Tokens per second, in bf16."""
        self.model.to(torch.bfloat16)
        times = []
        with torch.no_grad():
            for _ in range(7):
                torch.cuda.synchronize()
                begin = time.perf_counter()
                self.model(self.ids(PREFILL), use_cache=True, logits_to_keep=1)
                torch.cuda.synchronize()
                times.append(time.perf_counter() - begin)
        self.model.to(torch.float16)
        return PREFILL / statistics.median(times[2:])


def ziya(program):
    """The same rates, and the line that says what the GPU can do."""
    out = subprocess.run([program, "decode prefill"], check=True, stdout=subprocess.PIPE, text=True).stdout
    rate = re.search(rf"context +{PROMPT}: .* ([\d.]+) tokens/s", out)
    prefill = re.search(rf"prefill of +{PREFILL} tokens: +([\d.]+) ms", out)
    return {"decode": float(rate[1]), "prefill": PREFILL / float(prefill[1]) * 1e3}, out.splitlines()[0]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("program")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--layers", type=int, default=40)
    args = parser.parse_args()
    driver = subprocess.run(["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"],
                            check=True, stdout=subprocess.PIPE, text=True).stdout.strip()
    print(f"{driver}; Transformers {transformers.__version__}, PyTorch {torch.__version__}, CUDA "
          f"{torch.version.cuda}; {args.layers} layers", flush=True)
    begin = time.perf_counter()
    peer = Transformers(args.layers)
    made = time.perf_counter()
    for _ in range(2):
        peer.decode()
    print(f"Transformers: made in {made - begin:.0f} s, compiled and warm in {time.perf_counter() - made:.0f} s", flush=True)
    rounds = []
    for number in range(args.rounds):
        ours, ceilings = ziya(args.program) if args.layers == 40 else ({}, "")
        theirs = {"decode": peer.decode(), "prefill": peer.prefill()}
        rounds.append((ours, theirs))
        print(f"round {number + 1}: ziya {ours}, Transformers {theirs}; {ceilings}", flush=True)
    print("| test | ziya | Transformers | ziya / Transformers |\n|---|---|---|---|")
    for test, what in [("decode", f"decode, batch 1, {TOKENS} tokens, fp16"), ("prefill", f"prompt of {PREFILL}, bf16")]:
        theirs = statistics.median(t[test] for _, t in rounds)
        if args.layers != 40:
            print(f"| {what} | – | {theirs:.1f} tokens/s | – |")
            continue
        ours = statistics.median(o[test] for o, _ in rounds)
        ratios = sorted(o[test] / t[test] for o, t in rounds)
        print(f"| {what} | {ours:.1f} tokens/s | {theirs:.1f} tokens/s | "
              f"{statistics.median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f}) |")


if __name__ == "__main__":
    main()
