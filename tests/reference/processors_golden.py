#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Makes the golden numbers of the processors beyond sampling_golden.py's: what Transformers keeps.

    python3 tests/reference/processors_golden.py --output tests/data/golden/processors

Made with torch 2.15.0, transformers 5.24.0, on the CPU. As generate() builds and orders them; each
case is a batch of three rows, stored one by one. cases.json lists name, settings, prompt length and
the length limit; golden.safetensors holds NAME/logits, history, kept, scores. A row whose cut is too
close to call in fp32 (where double keeps other ids) is drawn again.
"""

import argparse
import json
import math
from pathlib import Path

import safetensors.torch
import torch
import transformers

NEUTRAL = {"temperature": 1.0, "top_k": 0, "top_p": 1.0, "repetition_penalty": 1.0}
SIZE, HISTORY, PROMPT, LIMIT = 40, 12, 5, 20
MASKED = -math.inf

SETTINGS = {
    "min_p": {"min_p": 0.1}, "min_p.high": {"min_p": 0.9}, "min_p.one": {"min_p": 1.0},
    "min_p.warm": {"min_p": 0.05, "temperature": 1.7},
    "min_p.top_k": {"min_p": 0.2, "top_k": 7, "top_p": 0.9},
    "typical": {"typical_p": 0.5}, "typical.low": {"typical_p": 0.05},
    "typical.high": {"typical_p": 0.95}, "typical.top_k": {"typical_p": 0.6, "top_k": 9},
    "typical.all": {"typical_p": 0.7, "top_p": 0.9, "min_p": 0.01, "temperature": 0.8},
    "epsilon": {"epsilon_cutoff": 0.02}, "epsilon.high": {"epsilon_cutoff": 0.9},
    "eta": {"eta_cutoff": 0.05}, "eta.top_k": {"eta_cutoff": 0.3, "top_k": 10},
    "ngram.1": {"no_repeat_ngram_size": 1}, "ngram.2": {"no_repeat_ngram_size": 2},
    "ngram.3": {"no_repeat_ngram_size": 3}, "ngram.long": {"no_repeat_ngram_size": 13},
    "ngram.whole": {"no_repeat_ngram_size": 12},
    "bad_words": {"bad_words_ids": [[3], [5, 7], [2], [1, 1], [0, 1, 2, 3]]},
    "bias": {"sequence_bias": [[[4], 3.5], [[1, 4], -2.0], [[0, 4], 1.25], [[9], -10.0]]},
    "bias.bad_words": {"sequence_bias": [[[3], 8.0]], "bad_words_ids": [[3], [6]]},
    "min_length": {"min_length": 14}, "min_length.met": {"min_length": 12},
    "min_new_tokens": {"min_new_tokens": 8}, "min_new_tokens.met": {"min_new_tokens": 7},
    "suppress": {"suppress_tokens": [1, 2, 8]},
    "begin_suppress": {"begin_suppress_tokens": [0, 5]},
    "decay": {"exponential_decay_length_penalty": [3, 1.3]},
    "decay.later": {"exponential_decay_length_penalty": [30, 1.3]},
    "decay.below": {"exponential_decay_length_penalty": [1, 0.5]},
    "all": {"sequence_bias": [[[4], 2.0]], "repetition_penalty": 1.2, "no_repeat_ngram_size": 3,
            "bad_words_ids": [[5]], "min_new_tokens": 20, "suppress_tokens": [7],
            "temperature": 0.9, "top_k": 20, "top_p": 0.95, "min_p": 0.02, "typical_p": 0.9},
}
SHORT = {  # where the history is short, or at the limit
    "forced_bos": ({"forced_bos_token_id": 6}, 1, 1), "forced_bos.later": ({"forced_bos_token_id": 6}, 2, 1),
    "forced_eos": ({"forced_eos_token_id": [2, 3]}, LIMIT - 1, 4),
    "forced_eos.early": ({"forced_eos_token_id": 2}, LIMIT - 2, 4),
    "begin_suppress.begin": ({"begin_suppress_tokens": [0, 5]}, 4, 4),
    "begin_suppress.bos": ({"begin_suppress_tokens": [0, 5], "forced_bos_token_id": 6}, 2, 1),
}


def run(settings, logits, ids, prompt):
    config = transformers.LlamaConfig(vocab_size=8, hidden_size=8, intermediate_size=8,
                                      num_hidden_layers=1, num_attention_heads=1)
    model = transformers.LlamaForCausalLM(config)
    generation = transformers.GenerationConfig(do_sample=True, max_length=LIMIT, eos_token_id=2,
                                               **{**NEUTRAL, **settings})
    generation._eos_token_tensor = torch.tensor([2])
    return model._get_logits_processor(generation, input_ids_seq_length=prompt)(ids, logits.clone())


def rows(name, draw):
    values = torch.randn(3, SIZE, generator=draw) * 2.5
    if name.startswith(("min_p", "typical")):  # ties, and masked columns
        values[1, 5:9] = values[1, 4]
        values[2, ::3] = MASKED
    return values


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True)
    output = parser.parse_args().output
    draw = torch.Generator().manual_seed(11)
    tensors, listing = {}, []
    cases = [(name, settings, HISTORY, PROMPT) for name, settings in SETTINGS.items()]
    cases += [(name, *case) for name, case in SHORT.items()]
    for name, settings, history, prompt in cases:
        while True:
            logits = rows(name, draw)
            ids = torch.randint(0, 10 if "ngram" not in name else 3, (3, history), generator=draw)
            scores = run(settings, logits, ids, prompt)
            exact = run(settings, logits.double(), ids, prompt)
            if torch.equal(scores > MASKED, exact > MASKED):
                break
        for row in range(3):
            key = f"{name}.{row}"
            kept = torch.nonzero(scores[row] > MASKED)[:, 0]
            listing.append({"name": key, "prompt": prompt, "limit": LIMIT, **settings})
            tensors[f"{key}/logits"] = logits[row].clone()
            tensors[f"{key}/history"] = ids[row].to(torch.int32)
            tensors[f"{key}/kept"] = kept.to(torch.int32)
            tensors[f"{key}/scores"] = scores[row][kept].clone()
        print(f"{name}: {[int((scores[r] > MASKED).sum()) for r in range(3)]} kept")
    output.mkdir(parents=True, exist_ok=True)
    safetensors.torch.save_file(tensors, output / "golden.safetensors")
    (output / "golden.safetensors").chmod(0o644)
    (output / "cases.json").write_text(json.dumps(listing, indent=0) + "\n")


if __name__ == "__main__":
    main()
