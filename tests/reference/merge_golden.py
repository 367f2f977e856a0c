# SPDX-License-Identifier: Apache-2.0
"""A base, a delta and what the reference's rule makes of them, in PyTorch.

The rule: both are loaded as fp16; target = base + delta in fp16, except that tensors whose name
contains embed_tokens, lm_head.weight or rotary_emb.inv_freq are the delta's. The values cover all
kinds of halves (zeros of both signs, subnormals, infinities, NaN) and fp32 and bf16 inputs next to
every rounding boundary. Two of the base's tensors are views of one storage and overlap in it, one of
them strided; another is transposed. Layer 1 pairs every two types. delta-views/ is the delta again,
all tensors of a type in one storage, the matrices transposed there; base-legacy/ the base as torch
wrote it before 1.6. Writes tests/data/merge/{base,base-legacy,delta,delta-views}/ and
expected.safetensors, and the small tensors of expected-bf16 and expected-f32: the same rule with
both loaded so, and of expected-delta: what make_delta makes of the merged model and the base.
Made with torch 2.15.0 and safetensors 0.8.0 (requirements.txt). Running it again gives the same
bytes, but for the names of the storages inside base-legacy, which are addresses of memory.
"""
import json
import pathlib
import shutil

import torch
from safetensors.torch import save_file

OUT = pathlib.Path(__file__).resolve().parent.parent / "data" / "merge"
EXCEPTIONS = ("embed_tokens", "lm_head.weight", "self_attn.rotary_emb.inv_freq")
TYPES = {"f16": torch.float16, "bf16": torch.bfloat16, "f32": torch.float32, "f64": torch.float64}


def any_half(count):
    """Every seventh half is special, the others are random bits."""
    bits = torch.randint(0, 65536, (count,), dtype=torch.int32)
    special = torch.tensor([0x0000, 0x8000, 0x0001, 0x8001, 0x03FF, 0x0400, 0x8400, 0x7BFF, 0xFBFF,
                            0x7C00, 0xFC00, 0x7E00, 0x3C00, 0xBC00], dtype=torch.int32)
    pick = torch.arange(0, count, 7)
    bits[pick] = special[torch.randint(0, len(special), (len(pick),))]
    return bits.to(torch.uint16).view(torch.float16)


def near_boundaries(count):
    """fp32: halves, and the midpoints between neighbours, each moved by at most one ulp."""
    half = any_half(count)
    wide = half.float()
    after = (half.view(torch.int16) + 1).view(torch.float16).float()
    middle = torch.where(torch.arange(count) % 3 == 0, wide, wide + (after - wide) * 0.5)
    step = torch.randint(-1, 2, (count,), dtype=torch.int32)
    finite = torch.isfinite(middle) & (middle != 0)
    return torch.where(finite, (middle.view(torch.int32) + step).view(torch.float32), middle)


def in_one_storage(tensors):
    """The same numbers as views of one storage per type, matrices transposed in it."""
    result = {}
    for dtype in {t.dtype for t in tensors.values()}:
        names = [name for name, t in tensors.items() if t.dtype == dtype]
        whole = torch.cat([tensors[name].t().reshape(-1) for name in names])
        for name, part in zip(names, whole.split([tensors[name].numel() for name in names])):
            result[name] = part.view(tensors[name].t().shape).t()
    return {name: result[name] for name in tensors}


def merged(base, delta, dtype, sign=1):
    """The rule, with both models loaded as `dtype`; -1: the model in the delta's place, less base."""
    result = {}
    for name, value in delta.items():
        if name.endswith("inv_freq"):
            result[name] = value
        elif any(part in name for part in EXCEPTIONS):
            result[name] = value.to(dtype)
        else:
            result[name] = value.to(dtype) + sign * base[name].to(dtype)
    return {name: tensor.contiguous() for name, tensor in result.items()}


def main():
    torch.manual_seed(1)
    shutil.rmtree(OUT, ignore_errors=True)
    (OUT / "base").mkdir(parents=True)
    (OUT / "delta").mkdir()
    layer = "model.layers.0."
    base = {
        "model.embed_tokens.weight": torch.randn(6, 16).half(),
        layer + "self_attn.q_proj.weight": any_half(12000).reshape(60, 200),
        layer + "self_attn.k_proj.weight": near_boundaries(4000).reshape(40, 100),
        layer + "self_attn.v_proj.weight": near_boundaries(2000).bfloat16(),
        layer + "self_attn.o_proj.weight": near_boundaries(2000).double(),
        layer + "mlp.down_proj.weight": any_half(4000).reshape(40, 100).t(),
        layer + "self_attn.rotary_emb.inv_freq": torch.rand(8),
        "model.norm.weight": torch.rand(16).half() + 1,
        "lm_head.weight": torch.randn(6, 16).half(),
    }
    delta = {
        "model.embed_tokens.weight": near_boundaries(8 * 16).bfloat16().reshape(8, 16),
        layer + "self_attn.q_proj.weight": any_half(12000).reshape(60, 200),
        layer + "self_attn.k_proj.weight": near_boundaries(4000).reshape(40, 100),
        layer + "self_attn.v_proj.weight": near_boundaries(2000),
        layer + "self_attn.o_proj.weight": near_boundaries(2000).bfloat16(),
        layer + "mlp.down_proj.weight": any_half(4000).reshape(100, 40),
        layer + "self_attn.rotary_emb.inv_freq": torch.rand(8),
        "model.norm.weight": torch.rand(16).half() * 0.01,
        "lm_head.weight": near_boundaries(8 * 16).reshape(8, 16),
    }
    packed = any_half(6000)
    base[layer + "mlp.gate_proj.weight"] = packed[:2000].view(40, 50)
    base[layer + "mlp.up_proj.weight"] = packed[1000:5000].view(40, 100)[:, ::2]
    delta[layer + "mlp.gate_proj.weight"] = any_half(2000).reshape(40, 50)
    delta[layer + "mlp.up_proj.weight"] = any_half(2000).reshape(40, 50)
    for one in TYPES:
        for other in TYPES:
            name = f"model.layers.1.pair.{one}_{other}.weight"
            base[name] = near_boundaries(210).to(TYPES[one])
            delta[name] = near_boundaries(210).to(TYPES[other])
    names = list(base)
    shards = [{n: base[n] for n in names[:4]}, {n: base[n] for n in names[4:]}]
    index = {"metadata": {}, "weight_map": {}}
    for i, shard in enumerate(shards, 1):
        file = f"pytorch_model-{i:05}-of-00002.bin"
        torch.save(shard, OUT / "base" / file)
        index["weight_map"].update({n: file for n in shard})
    (OUT / "base" / "pytorch_model.bin.index.json").write_text(json.dumps(index, indent=1))
    save_file({n: t.contiguous() for n, t in delta.items()}, OUT / "delta" / "model.safetensors")
    (OUT / "delta-views").mkdir()
    torch.save(in_one_storage(delta), OUT / "delta-views" / "pytorch_model.bin")
    config = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": 8}
    for folder in ("delta", "delta-views"):
        (OUT / folder / "config.json").write_text(json.dumps(config))
    (OUT / "delta" / "added_tokens.json").write_text('{"<bot>": 7, "<human>": 6}')
    (OUT / "delta" / "LICENSE").write_text("A text that travels with the weights.\n")
    (OUT / "delta" / "notes.tmp").write_text("A file that does not.\n")
    model = merged(base, delta, torch.float16)
    save_file(model, OUT / "expected.safetensors")
    for suffix, tensors in (("bf16", merged(base, delta, torch.bfloat16)),
                            ("f32", merged(base, delta, torch.float32)),
                            ("delta", merged(base, model, torch.float16, -1))):
        small = {name: tensor for name, tensor in tensors.items() if tensor.numel() < 300}
        save_file(small, OUT / f"expected-{suffix}.safetensors")
    (OUT / "base-legacy").mkdir()
    torch.save(base, OUT / "base-legacy" / "pytorch_model.bin",
               _use_new_zipfile_serialization=False)


if __name__ == "__main__":
    main()
