# SPDX-License-Identifier: Apache-2.0
"""The base of ziya-tiny as Meta published LLaMA: two model-parallel shards of fp16 and params.json.

    python3 tests/reference/ziya_tiny_llama.py examples/ziya-tiny

Reads DIR/base, the same weights as an early conversion wrote them, and writes DIR/llama: the
tokenizer in the folder of all sizes, the weights in one named after theirs. make_ziya_tiny.py calls
it. Made with torch 2.15.0 and safetensors 0.8.0.
"""
import hashlib
import json
import pathlib
import shutil
import sys

import torch
from safetensors.torch import load_file

SHARDS = 2
ROWS, COLUMNS, WHOLE = 0, 1, None
PARTS = {"self_attn.q_proj": ("attention.wq", ROWS), "self_attn.k_proj": ("attention.wk", ROWS),
         "self_attn.v_proj": ("attention.wv", ROWS), "self_attn.o_proj": ("attention.wo", COLUMNS),
         "mlp.gate_proj": ("feed_forward.w1", ROWS), "mlp.down_proj": ("feed_forward.w2", COLUMNS),
         "mlp.up_proj": ("feed_forward.w3", ROWS), "input_layernorm": ("attention_norm", WHOLE),
         "post_attention_layernorm": ("ffn_norm", WHOLE)}
WHOLE_MODEL = {"model.embed_tokens.weight": ("tok_embeddings.weight", COLUMNS),
               "model.norm.weight": ("norm.weight", WHOLE), "lm_head.weight": ("output.weight", ROWS)}


def pairs(weight, heads):
    """Rows of every head from halves (i, i + d/2) to pairs (2i, 2i + 1)."""
    rows, columns = weight.shape
    return weight.view(heads, 2, rows // heads // 2, columns).transpose(1, 2).reshape(rows, columns)


def meta_name(name):
    if name in WHOLE_MODEL:
        return WHOLE_MODEL[name]
    layer, part = name.removeprefix("model.layers.").removesuffix(".weight").split(".", 1)
    part, axis = PARTS[part]
    return f"layers.{layer}.{part}.weight", axis


def write_llama(tiny):
    base, folder = tiny / "base", tiny / "llama"
    config = json.loads((base / "config.json").read_text())
    heads = config["num_attention_heads"]
    weights = {}
    for file in sorted(base.glob("*.safetensors")):
        weights.update(load_file(file))
    shutil.rmtree(folder, ignore_errors=True)
    leaf = folder / "3M"
    leaf.mkdir(parents=True)
    shutil.copy(base / "tokenizer.model", folder / "tokenizer.model")
    for shard in range(SHARDS):
        state = {}
        for name, tensor in weights.items():
            meta, axis = meta_name(name)
            if name.endswith(("q_proj.weight", "k_proj.weight")):
                tensor = pairs(tensor, heads)
            state[meta] = tensor.clone() if axis is None else tensor.chunk(SHARDS, axis)[shard].clone()
        size = config["hidden_size"] // heads
        state["rope.freqs"] = 1 / 10000 ** (torch.arange(0, size, 2).float() / size)
        torch.save(state, leaf / f"consolidated.{shard:02}.pth")
    (leaf / "params.json").write_text(json.dumps({
        "dim": config["hidden_size"], "multiple_of": 256, "n_heads": heads,
        "n_layers": config["num_hidden_layers"], "norm_eps": config["rms_norm_eps"],
        "vocab_size": -1}))
    lines = [f"{hashlib.md5(file.read_bytes()).hexdigest()}  {file.name}\n"
             for file in sorted(leaf.iterdir())]
    (leaf / "checklist.chk").write_text("".join(lines))


if __name__ == "__main__":
    write_llama(pathlib.Path(sys.argv[1]))
