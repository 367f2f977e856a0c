#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Makes the golden answers of the search tests: what Transformers' generate() gives for 50 prompts.

    python3 tests/reference/search_golden.py --model build/ziya-tiny --name ziya-tiny \
        --output tests/data/golden/search [--kind beam|contrastive]

Beam search and constrained greedy search were made with torch 2.15.0 and transformers 5.24.0,
contrastive search, which 5.x no longer has, with transformers 4.49.0; both on the CPU in fp32.

NAME.beam.json and NAME.contrastive.json list prompt (ids), settings, answers (ids without the
prompt) and, of beams, scores. A case is left out where the reference itself is too close to call:
where it gives other ids with the weights in double.
"""

import argparse
import json
import random
from pathlib import Path

import torch
import transformers

BEAMS = [
    {"num_beams": 2, "num_return_sequences": 2},
    {"num_beams": 3, "num_return_sequences": 2, "length_penalty": 2.0},
    {"num_beams": 4, "num_return_sequences": 4, "early_stopping": True},
    {"num_beams": 4, "num_return_sequences": 3, "early_stopping": "never", "length_penalty": 0.5},
    {"num_beams": 3, "num_return_sequences": 3, "length_penalty": -1.0, "early_stopping": "never"},
    {"num_beams": 5, "num_return_sequences": 5, "no_repeat_ngram_size": 2,
     "repetition_penalty": 1.2},
    {"num_beams": 3, "num_return_sequences": 3, "min_new_tokens": 6},
    {"num_beams": 1, "no_repeat_ngram_size": 3, "repetition_penalty": 1.3, "min_new_tokens": 4},
    {"num_beams": 1, "exponential_decay_length_penalty": (3, 1.5)},
    {"num_beams": 1, "suppress_tokens": [13, 29889], "forced_eos_token_id": 2},
]
CONTRASTIVE = [{"penalty_alpha": 0.6, "top_k": 4}, {"penalty_alpha": 0.3, "top_k": 8},
               {"penalty_alpha": 0.8, "top_k": 3, "repetition_penalty": 1.2}]


def answers(model, prompt, settings, new_tokens):
    result = model.generate(torch.tensor([prompt]), max_new_tokens=new_tokens, do_sample=False,
                            return_dict_in_generate=True, output_scores=True, eos_token_id=2,
                            pad_token_id=0, attention_mask=torch.ones(1, len(prompt)).long(),
                            **settings)
    found = []
    for row in result.sequences.tolist():
        ids = row[len(prompt):]
        if 2 in ids:
            ids = ids[:ids.index(2) + 1]
        found.append(ids)
    scores = getattr(result, "sequences_scores", None)
    return found, [] if scores is None else scores.tolist()


def prompts(name, model):
    """Beginnings of the model's own greedy and random texts: 50 lists of ids."""
    draw = random.Random(7)
    torch.manual_seed(7)
    vocabulary = model.config.vocab_size
    for index in range(50):
        start = torch.tensor([[1, draw.randrange(3 if name == "stories260K" else 259,
                                                 min(vocabulary, 4400))]])
        text = model.generate(start, max_new_tokens=10, do_sample=True, temperature=0.8,
                              eos_token_id=2, pad_token_id=0, attention_mask=torch.ones(1, 2).long())
        ids = [id for id in text[0].tolist() if id != 2]
        yield ids[:2 + index % 9]


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--name", required=True)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--kind", choices=("beam", "contrastive"), default="beam")
    options = parser.parse_args()
    single = transformers.LlamaForCausalLM.from_pretrained(options.model, torch_dtype=torch.float32)
    double = transformers.LlamaForCausalLM.from_pretrained(options.model, torch_dtype=torch.float64)
    for model in (single, double):
        model.eval()
        model.generation_config = transformers.GenerationConfig()
    vocabulary = single.config.vocab_size
    beginnings = options.output / f"{options.name}.prompts.json"
    if options.kind == "beam":
        lists = list(prompts(options.name, single))
        options.output.mkdir(parents=True, exist_ok=True)
        beginnings.write_text(json.dumps(lists) + "\n")
    lists = json.loads(beginnings.read_text())
    cases, dropped = [], 0
    table = BEAMS if options.kind == "beam" else CONTRASTIVE
    for index, prompt in enumerate(lists):
        settings = dict(table[index % len(table)])
        if "suppress_tokens" in settings:
            settings["suppress_tokens"] = [13, min(vocabulary - 1, 400)]
        new_tokens = 12 + index % 7
        found, scores = answers(single, prompt, settings, new_tokens)
        again, scores_again = answers(double, prompt, settings, new_tokens)
        if found != again:
            dropped += 1
            continue
        cases.append({"prompt": prompt, "settings": settings, "max_new_tokens": new_tokens,
                      "answers": found, "scores": scores})
    path = options.output / f"{options.name}.{options.kind}.json"
    path.write_text("[\n" + ",\n".join(json.dumps(case) for case in cases) + "\n]\n")
    print(f"{path}: {len(cases)} cases, {dropped} too close to call")


if __name__ == "__main__":
    main()
