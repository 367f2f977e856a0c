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


def tensors(layers, hidden, intermediate, vocabulary):
    yield "model.embed_tokens.weight", [vocabulary, hidden]
    for i in range(layers):
        for name, shape in [("self_attn.q_proj", [hidden, hidden]), ("self_attn.k_proj", [hidden, hidden]),
                            ("self_attn.v_proj", [hidden, hidden]), ("self_attn.o_proj", [hidden, hidden]),
                            ("mlp.gate_proj", [intermediate, hidden]), ("mlp.up_proj", [intermediate, hidden]),
                            ("mlp.down_proj", [hidden, intermediate]), ("input_layernorm", [hidden]),
                            ("post_attention_layernorm", [hidden])]:
            yield f"model.layers.{i}.{name}.weight", shape
    yield "model.norm.weight", [hidden]
    yield "lm_head.weight", [vocabulary, hidden]


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
    header, at = {}, 0
    for name, shape in tensors(layers, hidden, intermediate, vocabulary):
        size = 2 * (shape[0] if len(shape) == 1 else shape[0] * shape[1])
        header[name] = {"dtype": "F16", "shape": shape, "data_offsets": [at, at + size]}
        at += size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(target / "model.safetensors", "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for tensor in header.values():
            left = tensor["data_offsets"][1] - tensor["data_offsets"][0]
            if len(tensor["shape"]) == 1:
                file.write(struct.pack("<e", 1) * tensor["shape"][0])
                continue
            while left > 0:
                left -= file.write(memoryview(pattern)[:left])
    print(f"{target}: {at / 1e9:.2f} GB")


if __name__ == "__main__":
    main()
