#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""What Transformers' processors leave of a model's own logits behind each of the 50 prompts.

    python3 tests/reference/processors_prompts_golden.py --model build/ziya-tiny --name ziya-tiny \
        --output tests/data/golden/search

Made with torch 2.15.0 and transformers 5.23.0 on the CPU in fp32. The prompts are those of
search_golden.py (NAME.prompts.json); the first id counts as the prompt, the others as an answer, and
the next id is the last that the limit allows. Columns that pad the vocabulary are left out.

NAME.processors.json lists prompt, settings, and of what is left: how many ids, their sum, the sum
of their scores, and the three best with their scores. A case is left out where logits changed by
1e-4 at random leave other ids.
"""
import argparse
import json
import math
from pathlib import Path

import sentencepiece
import torch
import transformers

NEUTRAL = {"temperature": 1.0, "top_k": 0, "top_p": 1.0, "repetition_penalty": 1.0}


def settings_of(best, second, end):
    """@param best, second the likeliest ids   @param end the end id"""
    return [{"temperature": 0.7}, {"top_k": 20, "temperature": 1.5}, {"top_p": 0.85}, {"min_p": 0.05},
            {"typical_p": 0.9}, {"epsilon_cutoff": 0.003}, {"eta_cutoff": 0.01},
            {"repetition_penalty": 1.3, "top_k": 40}, {"no_repeat_ngram_size": 1, "top_p": 0.95},
            {"bad_words_ids": [[best], [second, best]]}, {"sequence_bias": [[[second], 2.5], [[end], -3.0]]},
            {"min_new_tokens": 20, "top_k": 30}, {"suppress_tokens": [best, 13]},
            {"exponential_decay_length_penalty": [1, 1.3], "top_k": 25}, {"forced_eos_token_id": end},
            {"top_k": 50, "top_p": 0.85},
            {"temperature": 0.7, "top_k": 50, "top_p": 0.1, "repetition_penalty": 1.18}]


def left(settings, logits, prompt, end):
    config = transformers.LlamaConfig(vocab_size=8, hidden_size=8, intermediate_size=8,
                                      num_hidden_layers=1, num_attention_heads=1)
    model = transformers.LlamaForCausalLM(config)
    generation = transformers.GenerationConfig(do_sample=True, max_length=len(prompt) + 1, eos_token_id=end,
                                               **{**NEUTRAL, **settings})
    generation._eos_token_tensor = torch.tensor([end])
    processors = model._get_logits_processor(generation, input_ids_seq_length=1)
    return processors(torch.tensor([prompt]), logits[None].clone())[0]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--name", required=True)
    parser.add_argument("--output", type=Path, required=True)
    options = parser.parse_args()
    torch.set_num_threads(1)
    model = transformers.LlamaForCausalLM.from_pretrained(options.model, dtype=torch.float32).eval()
    vocabulary = sentencepiece.SentencePieceProcessor(model_file=str(options.model / "tokenizer.model")).vocab_size()
    added = options.model / "added_tokens.json"
    if added.exists():
        vocabulary = max(vocabulary, 1 + max(json.loads(added.read_text()).values()))
    noise = torch.Generator().manual_seed(3)
    cases, dropped = [], 0
    for prompt in json.loads((options.output / f"{options.name}.prompts.json").read_text()):
        with torch.no_grad():
            logits = model(torch.tensor([prompt])).logits[0, -1, :vocabulary]
        best, second = logits.topk(2).indices.tolist()
        for settings in settings_of(best, second, 2):
            scores = left(settings, logits, prompt, 2)
            moved = [left(settings, logits + 1e-4 * (2 * torch.rand(vocabulary, generator=noise) - 1), prompt, 2)
                     for _ in range(3)]
            kept = scores > -math.inf
            if any(not torch.equal(kept, other > -math.inf) for other in moved):
                dropped += 1
                continue
            ids = torch.nonzero(kept)[:, 0]
            order = scores[ids].argsort(descending=True, stable=True)[:3]
            cases.append({"prompt": prompt, "settings": settings, "kept": len(ids), "ids": int(ids.sum()),
                          "scores": round(float(scores[ids].double().sum()), 4),
                          "best": [[int(ids[i]), round(float(scores[ids[i]]), 5)] for i in order]})
    path = options.output / f"{options.name}.processors.json"
    path.write_text("[\n" + ",\n".join(json.dumps(case) for case in cases) + "\n]\n")
    print(f"{path}: {len(cases)} cases, {dropped} too close to call")


if __name__ == "__main__":
    main()
