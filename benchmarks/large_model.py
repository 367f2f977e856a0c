#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Writes a model of the 13B shape with random fp16 weights, 26 GB in one safetensors file, for what is timed from files.

usage: large_model.py TOKENIZER_FOLDER TARGET [LAYERS HIDDEN INTERMEDIATE HEADS]
"""
import json
import pathlib
import random
import shutil
import struct
import sys

from llama_tensors import beginning, bytes_of, tensors


def main():
    source, target = map(pathlib.Path, sys.argv[1:3])
    layers, hidden, intermediate, heads = map(int, sys.argv[3:7]) if len(sys.argv) > 3 else (40, 5120, 13824, 40)
    vocabulary = 39424
    target.mkdir(parents=True, exist_ok=True)
    for file in ["tokenizer.model", "tokenizer_config.json", "special_tokens_map.json", "generation_config.json"]:
        shutil.copy(source / file, target / file)
    config = json.loads((source / "config.json").read_text())
    config.update(hidden_size=hidden, intermediate_size=intermediate, num_hidden_layers=layers, num_attention_heads=heads,
                  vocab_size=vocabulary, max_position_embeddings=4096)
    (target / "config.json").write_text(json.dumps(config))

    random.seed(1)
    # fp16 numbers in ±0.03; the pattern's length is odd, so rows differ.
    pattern = struct.pack("<1000003e", *(random.uniform(-0.03, 0.03) for _ in range(1000003)))
    pattern *= 64
    shapes = dict(tensors(layers, hidden, intermediate, vocabulary))
    with open(target / "model.safetensors", "wb") as file:
        file.write(beginning(shapes))
        for shape in shapes.values():
            if len(shape) == 1:
                file.write(struct.pack("<e", 1) * shape[0])
                continue
            left = bytes_of(shape)
            while left > 0:
                left -= file.write(memoryview(pattern)[:left])
    print(f"{target}: {sum(map(bytes_of, shapes.values())) / 1e9:.2f} GB")


if __name__ == "__main__":
    main()
