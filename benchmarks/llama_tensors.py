# SPDX-License-Identifier: Apache-2.0
"""The tensors of a LLaMA model in fp16, and the beginning of a safetensors file of them."""
import json
import math
import struct


def tensors(layers, hidden, intermediate, vocabulary):
    """Names and shapes, in the order of files."""
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


def bytes_of(shape):
    """Bytes of a tensor."""
    return 2 * math.prod(shape)


def beginning(shapes):
    """What stands before the bytes of tensors, whose shapes are given by name."""
    header, at = {}, 0
    for name, shape in shapes.items():
        header[name] = {"dtype": "F16", "shape": shape, "data_offsets": [at, at + bytes_of(shape)]}
        at += bytes_of(shape)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text
