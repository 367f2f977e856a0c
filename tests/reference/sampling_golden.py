#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Makes the golden numbers of the sampling tests: what Transformers' logits processors keep.

    python3 tests/reference/sampling_golden.py --output tests/data/golden/sampling

Made with torch 2.15.0, transformers 5.23.0, safetensors 0.8.0 (requirements.txt), on the CPU. The
processors and their order are those that generate() itself builds from a GenerationConfig:
repetition_penalty, then temperature, top_k, top_p.

cases.json lists name, settings and the row; golden.safetensors holds, under NAME/,
  logits (vocabulary)  unless the row is "spread", which the test computes from its formula
  history (n)          ids of prompt and answer so far
  kept (m)             ids that are not masked, ascending
  scores (m)           their scores after all processors
  probabilities (m)    their softmax, computed in double
A random row whose top_p boundary is too close to call in fp32 is drawn again.
"""

import argparse
import itertools
import json
import math
from pathlib import Path

import safetensors.torch
import torch
import transformers

NEUTRAL = {"temperature": 1.0, "top_k": 0, "top_p": 1.0, "repetition_penalty": 1.0}
CARD = {"top_k": 50, "top_p": 0.85}
MASKED = -math.inf


def reference_processors(settings):
    """As generate() builds them."""
    config = transformers.LlamaConfig(vocab_size=8, hidden_size=8, intermediate_size=8,
                                      num_hidden_layers=1, num_attention_heads=1)
    model = transformers.LlamaForCausalLM(config)
    generation = transformers.GenerationConfig(do_sample=True, **settings)
    return model._get_logits_processor(generation, input_ids_seq_length=1)


def spread(vocabulary):
    """logits[i] = float(((i · 2654435761) mod 2^32) · 2^-32 · 20 − 10), far from sorted."""
    values = [(i * 2654435761 % 2**32) * 2.0**-32 * 20.0 - 10.0 for i in range(vocabulary)]
    return torch.tensor(values, dtype=torch.float64).float()


def run(settings, logits, history):
    ids = torch.tensor([history], dtype=torch.long)
    scores = reference_processors(settings)(ids, logits[None].clone())[0]
    kept = torch.nonzero(scores > MASKED)[:, 0]
    return kept, scores[kept]


def too_close(settings, logits, history):
    """Whether fp32 and double disagree, or nearly, about where top_p cuts."""
    if settings["top_p"] == 1.0:
        return False
    before = {**settings, "top_p": 1.0}
    scores = reference_processors(before)(torch.tensor([history], dtype=torch.long),
                                          logits[None].clone())[0].double()
    cumulative = torch.sort(scores).values.softmax(0).cumsum(0)
    return (cumulative - (1 - settings["top_p"])).abs().min().item() < 2e-6


def random_cases(draw):
    """Combinations of settings on rows of several sizes and spreads."""
    temperatures = (0.1, 0.5, 0.9, 1.0, 1.3, 10.0)
    settings = itertools.product(temperatures, (0, 1, 7, 50), (1.0, 0.85, 0.3))
    for index, (temperature, top_k, top_p) in enumerate(settings):
        if index % 2:
            continue
        size = (5, 33, 64, 200)[index // 2 % 4]
        penalty = (1.0, 1.3, 1.18, 0.8)[index // 2 % 4]
        values = {"temperature": temperature, "top_k": top_k, "top_p": top_p,
                  "repetition_penalty": penalty}
        while True:
            logits = torch.randn(size, generator=draw) * (1.0, 3.0, 8.0)[index // 2 % 3]
            history = torch.randint(0, size, (index % 12,), generator=draw).tolist()
            if not too_close(values, logits, history):
                break
        yield f"random.{index}", values, logits, history


def adversarial_cases():
    """Ties, masks, equal rows, one hot, extremes. Equal rows have a power of two of entries, so
    that their cumulative sums are exact."""
    ties = torch.tensor([1.0, 3.0, 2.0, 3.0, 2.0, 2.0, 0.0, -1.0])
    equal = torch.full((16,), 0.25)
    masked = torch.tensor([MASKED, 2.0, MASKED, 1.0, 0.5, MASKED, -4.0, 1.5])
    one_hot = torch.tensor([MASKED] * 5 + [3.0] + [MASKED] * 3)
    peak = torch.tensor([-50.0, 40.0, -30.0, 0.0, -40.0])
    negative = torch.tensor([-3.0, -1.0, -2.0, -0.5, 0.0, -0.0, 2.0, 4.0])
    last = torch.tensor([1.0, 2.0, 4.0, 4.0, 4.0, 3.0])
    yield "ties.top_k", {"top_k": 3}, ties, []
    yield "ties.top_k.one", {"top_k": 1}, ties, []
    yield "ties.top_p", {"top_p": 0.5}, torch.tensor([2.0, 2.0, 2.0, 2.0]), []
    yield "ties.top_p.last", {"top_p": 0.6}, last, []
    yield "ties.both", {"top_k": 2, "top_p": 0.4}, last, []
    yield "equal", {}, equal, []
    yield "equal.top_k", {"top_k": 4}, equal, []
    yield "equal.top_p", {"top_p": 0.25}, equal, []
    yield "equal.top_p.between", {"top_p": 0.3}, equal, []
    yield "masked", {}, masked, []
    yield "masked.top_k", {"top_k": 6}, masked, []
    yield "masked.top_p", {"top_p": 0.7}, masked, []
    yield "masked.penalty", {"repetition_penalty": 1.5}, masked, [0, 1, 6, 2]
    yield "one_hot", CARD, one_hot, []
    yield "one_hot.top_k", {"top_k": 1}, one_hot, [5]
    yield "peak", CARD, peak, []
    yield "peak.hot", {"temperature": 10.0, "top_p": 0.99}, peak, []
    yield "peak.cold", {"temperature": 0.1, "top_p": 0.99}, peak, []
    yield "top_p.zero", {"top_p": 0.0}, ties, []
    yield "top_p.tiny", {"top_p": 1e-6}, negative, []
    yield "top_p.nearly_one", {"top_p": 0.9999}, negative, []
    yield "top_k.beyond", {"top_k": 1000}, negative, []
    yield "top_k.all", {"top_k": 8}, negative, []
    yield "penalty.negative", {"repetition_penalty": 2.0}, negative, [0, 1, 2, 3]
    yield "penalty.zero", {"repetition_penalty": 2.0}, negative, [4, 5]
    yield "penalty.repeated_once", {"repetition_penalty": 2.0}, negative, [7, 7, 7, 6, 0, 0]
    yield "penalty.below_one", {"repetition_penalty": 0.5}, negative, [0, 7]
    yield "penalty.first", {"repetition_penalty": 4.0, "temperature": 0.5, "top_k": 2}, negative, [7]
    yield "single", CARD, torch.tensor([0.5]), [0]
    yield "card", CARD, spread(300), [1, 2, 3]
    visual = {"temperature": 0.7, "top_k": 50, "top_p": 0.1, "repetition_penalty": 1.18}
    yield "card.visual", visual, spread(300), list(range(0, 300, 7))


def large_cases():
    """Rows as wide as the real vocabulary."""
    yield "large.card", CARD, spread(39424), [1, 39408, 584]
    yield "large.top_p", {"top_p": 0.05, "temperature": 0.8}, spread(39424), []
    yield "large.top_k", {"top_k": 400, "repetition_penalty": 1.1}, spread(39424), [5, 17, 900]


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True)
    output = parser.parse_args().output
    draw = torch.Generator().manual_seed(7)
    tensors, listing = {}, []
    cases = itertools.chain(random_cases(draw), adversarial_cases(), large_cases())
    for name, changes, logits, history in cases:
        settings = {**NEUTRAL, **changes}
        wide = name.startswith("large")
        assert not wide or not too_close(settings, logits, history), name
        kept, scores = run(settings, logits, history)
        listing.append({"name": name, "spread": logits.numel() if wide else 0, **settings})
        if not wide:
            tensors[f"{name}/logits"] = logits.clone()
        tensors[f"{name}/history"] = torch.tensor(history, dtype=torch.int32)
        tensors[f"{name}/kept"] = kept.to(torch.int32)
        tensors[f"{name}/scores"] = scores
        tensors[f"{name}/probabilities"] = scores.double().softmax(0).float()
        print(f"{name}: {len(kept)} of {logits.numel()} kept")
    output.mkdir(parents=True, exist_ok=True)
    safetensors.torch.save_file(tensors, output / "golden.safetensors")
    (output / "golden.safetensors").chmod(0o644)
    (output / "cases.json").write_text(json.dumps(listing, indent=0) + "\n")


if __name__ == "__main__":
    main()
