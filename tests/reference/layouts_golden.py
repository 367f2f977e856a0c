# SPDX-License-Identifier: Apache-2.0
"""Small checkpoints in Meta's and in the Fengshen layout, and what PyTorch makes of them.

Meta: 1, 2 and 4 model-parallel shards, grouped queries, sizes that are no powers of two, fp16, bf16
and fp32, zip and legacy pickles; joined and permuted as Transformers' convert_llama_weights_to_hf.py
does. Fengshen: a model of four heads, split into 1, 2 and 4 parts as Fengshenbang-LM's llama_convert
does. Writes tests/data/layouts. Made with torch 2.15.0 and safetensors 0.8.0 (requirements.txt).
"""
import hashlib
import json
import pathlib
import shutil

import torch
from safetensors.torch import save_file

OUT = pathlib.Path(__file__).resolve().parent.parent / "data" / "layouts"
META = {
    "one": dict(shards=1, dtype=torch.float16, vocab=41, layers=2, legacy=False, params=dict(
        dim=30, n_heads=3, n_kv_heads=1, multiple_of=7, norm_eps=1e-6)),
    "two": dict(shards=2, dtype=torch.bfloat16, vocab=38, layers=2, legacy=False, params=dict(
        dim=24, n_heads=4, n_kv_heads=2, multiple_of=10, ffn_dim_multiplier=1.3, norm_eps=1e-5)),
    "four": dict(shards=4, dtype=torch.float32, vocab=36, layers=1, legacy=True, params=dict(
        dim=24, n_heads=4, multiple_of=4, norm_eps=1e-5, rope_theta=1e6)),
    "rows": dict(shards=2, dtype=torch.float16, vocab=18, layers=1, legacy=False, params=dict(
        dim=12, n_heads=2, multiple_of=2, norm_eps=1e-6)),  # the embedding split by rows; rotary
    # tables in the layers
}


def intermediate(params):
    wanted = int(params.get("ffn_dim_multiplier", 1) * int(8 * params["dim"] / 3))
    multiple = params["multiple_of"]
    return multiple * ((wanted + multiple - 1) // multiple)


def permute(weight, heads):
    rows, columns = weight.shape
    return weight.view(heads, rows // heads // 2, 2, columns).transpose(1, 2).reshape(rows, columns)


def meta(name, shards, dtype, vocab, layers, legacy, params):
    folder = OUT / "meta" / name
    folder.mkdir(parents=True)
    dim, heads = params["dim"], params["n_heads"]
    keys = dim // heads * params.get("n_kv_heads", heads)
    ffn = intermediate(params)

    def rand(*shape):
        return (torch.randn(*shape) * 0.1).to(dtype)

    whole = {"tok_embeddings.weight": (rand(vocab, dim), 0 if name == "rows" else 1),
             "norm.weight": (rand(dim), None), "output.weight": (rand(vocab, dim), 0)}
    expected = {"model.embed_tokens.weight": whole["tok_embeddings.weight"][0],
                "model.norm.weight": whole["norm.weight"][0],
                "lm_head.weight": whole["output.weight"][0]}
    for i in range(layers):
        sizes = {"attention.wq": ((dim, dim), 0), "attention.wk": ((keys, dim), 0),
                 "attention.wv": ((keys, dim), 0), "attention.wo": ((dim, dim), 1),
                 "feed_forward.w1": ((ffn, dim), 0), "feed_forward.w2": ((dim, ffn), 1),
                 "feed_forward.w3": ((ffn, dim), 0), "attention_norm": ((dim,), None),
                 "ffn_norm": ((dim,), None)}
        hf = {"attention.wq": "self_attn.q_proj", "attention.wk": "self_attn.k_proj",
              "attention.wv": "self_attn.v_proj", "attention.wo": "self_attn.o_proj",
              "feed_forward.w1": "mlp.gate_proj", "feed_forward.w2": "mlp.down_proj",
              "feed_forward.w3": "mlp.up_proj", "attention_norm": "input_layernorm",
              "ffn_norm": "post_attention_layernorm"}
        for part, (shape, axis) in sizes.items():
            tensor = rand(*shape)
            whole[f"layers.{i}.{part}.weight"] = (tensor, axis)
            if part == "attention.wq":
                tensor = permute(tensor, heads)
            if part == "attention.wk":
                tensor = permute(tensor, params.get("n_kv_heads", heads))
            expected[f"model.layers.{i}.{hf[part]}.weight"] = tensor
    for shard in range(shards):
        freqs = torch.rand(dim // heads // 2)
        state = {"rope.freqs": freqs}
        if name == "rows":  # as LLaMA-1 7B has it
            state = {f"layers.{i}.attention.inner_attention.rope.freqs": freqs
                     for i in range(layers)}
        for key, (tensor, axis) in whole.items():
            state[key] = tensor if axis is None else tensor.chunk(shards, axis)[shard].clone()
        torch.save(state, folder / f"consolidated.{shard:02}.pth",
                   _use_new_zipfile_serialization=not legacy)
    (folder / "params.json").write_text(
        json.dumps(dict(params, n_layers=layers, vocab_size=-1)) + "\n")
    lines = [f"{hashlib.md5(path.read_bytes()).hexdigest()}  {path.name}"
             for path in sorted(folder.iterdir())]
    (folder / "checklist.chk").write_text("\n".join(lines) + "\n")
    save_file(expected, folder / "expected.safetensors")


def fengshen():
    torch.manual_seed(2)
    hidden, heads, ffn, vocab, layers = 24, 4, 20, 16, 2
    size = hidden // heads
    shapes = {"self_attn.q_proj": (hidden, hidden), "self_attn.k_proj": (hidden, hidden),
              "self_attn.v_proj": (hidden, hidden), "self_attn.o_proj": (hidden, hidden),
              "mlp.gate_proj": (ffn, hidden), "mlp.up_proj": (ffn, hidden),
              "mlp.down_proj": (hidden, ffn), "input_layernorm": (hidden,),
              "post_attention_layernorm": (hidden,)}
    hf = {"model.embed_tokens.weight": torch.randn(vocab, hidden).half(),
          "model.norm.weight": (1 + torch.randn(hidden) * 0.1).half(),
          "lm_head.weight": torch.randn(vocab, hidden).half()}
    whole = {"llama.embed_in.word_embeddings.weight": (hf["model.embed_tokens.weight"], 0),
             "llama.final_layer_norm.scale": (hf["model.norm.weight"], None),
             "embed_out.final_linear.weight": (hf["lm_head.weight"], 0)}
    for i in range(layers):
        layer = {part: torch.randn(*shape).half() * 0.5 for part, shape in shapes.items()}
        layer["input_layernorm"] += 1
        layer["post_attention_layernorm"] += 1
        hf.update({f"model.layers.{i}.{part}.weight": tensor for part, tensor in layer.items()})
        q, k, v = (layer[f"self_attn.{p}_proj"].view(heads, size, hidden) for p in "qkv")
        qkv = torch.stack([q, k, v], dim=1).reshape(3 * hidden, hidden)
        prefix = f"llama.layers.{i}."
        whole.update({
            prefix + "attention.query_key_value.weight": (qkv, 0),
            prefix + "attention.dense.weight": (layer["self_attn.o_proj"], 1),
            prefix + "mlp.w1.weight": (layer["mlp.gate_proj"], 0),
            prefix + "mlp.w3.weight": (layer["mlp.up_proj"], 0),
            prefix + "mlp.w2.weight": (layer["mlp.down_proj"], 1),
            prefix + "input_layernorm.scale": (layer["input_layernorm"], None),
            prefix + "post_attention_layernorm.scale": (layer["post_attention_layernorm"], None),
            prefix + "attention.rotary_emb.inv_freq": (
                1.0 / (10000 ** (torch.arange(0, size, 2).float() / size)), None),
        })
    config = dict(architectures=["LlamaForCausalLM"], model_type="llama", hidden_size=hidden,
                  intermediate_size=ffn, num_hidden_layers=layers, num_attention_heads=heads,
                  num_key_value_heads=heads, vocab_size=vocab, max_position_embeddings=64,
                  rope_theta=10000.0, torch_dtype="float16", tie_word_embeddings=False,
                  bos_token_id=1, eos_token_id=2, pad_token_id=0, hidden_act="silu")
    folder = OUT / "fengshen" / "hf"
    folder.mkdir(parents=True)
    save_file(hf, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(dict(config, rms_norm_eps=1e-6)) + "\n")
    for parts in (1, 2, 4):
        for part in range(parts):
            target = OUT / "fengshen" / f"parts-{parts}" / f"part_{part}"
            target.mkdir(parents=True)
            state = {key: tensor if axis is None else tensor.chunk(parts, axis)[part].clone()
                     for key, (tensor, axis) in whole.items()}
            torch.save(state, target / "pytorch_model.bin")
            own = {k: v for k, v in config.items() if k != "rope_theta"}
            (target / "config.json").write_text(json.dumps(
                dict(own, rms_norm_epsilon=1e-6, rotary_emb_base=10000, rotary_pct=1)) + "\n")


def main():
    torch.manual_seed(1)
    shutil.rmtree(OUT, ignore_errors=True)
    for name, case in META.items():
        meta(name, **case)
    fengshen()


if __name__ == "__main__":
    main()
