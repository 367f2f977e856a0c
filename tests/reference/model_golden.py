#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Makes the golden numbers of the model tests from Transformers.

    python3 tests/reference/model_golden.py random  --output tests/data/golden/models
    python3 tests/reference/model_golden.py stories --model ../shared/data/stories260K-hf \
        --output tests/data/golden/stories
    python3 tests/reference/model_golden.py tiny --tiny examples/ziya-tiny \
        --output tests/data/golden/ziya-tiny

Made with torch 2.15.0, transformers 5.23.0, safetensors 0.8.0, numpy 2.4.6 (requirements.txt), on
the CPU. The reference always computes in fp32, on weights that were rounded to the precision of
the case and widened again. Everything is seeded; a case whose greedy tokens are not at least
MARGIN ahead of the second best is drawn again.

random: models of two layers that share one weights.safetensors (f32). A case is those weights,
overlaid with the tensors that it has differently, without the head where it is tied, rounded to
f32, f16 or bf16. cases.json says which; golden.safetensors holds, under CASE/PRECISION/,
  prompt (n), layer.0, layer.1 (n, hidden: the residual stream after each layer), norm (n, hidden),
  logits (n, vocabulary), greedy (24), margins (24: distance of the two best logits).
"""

import argparse
import copy
import json
import shutil
from pathlib import Path

import safetensors.torch
import torch
import transformers
from safetensors import safe_open

MARGIN = 1e-3
NEW_TOKENS = 24
PRECISIONS = {"f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16}

BASE_CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 64,
    "intermediate_size": 108,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "vocab_size": 192,
    "max_position_embeddings": 64,
    "hidden_act": "silu",
    "rms_norm_eps": 1e-5,
    "tie_word_embeddings": False,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
LLAMA3 = {"rope_type": "llama3", "factor": 4.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
          "original_max_position_embeddings": 32}
# name: (what config.json says besides, the tensors that differ from weights.safetensors, prompt).
# The rotary scalings are spelled as different versions of Transformers spell them.
CASES = {
    "plain": ({}, None, 12),
    "grouped": ({"num_key_value_heads": 2}, "grouped", 12),
    "tied": ({"tie_word_embeddings": True}, None, 12),
    "wide_heads": ({"head_dim": 24, "num_key_value_heads": 2}, "wide_heads", 12),
    "biased": ({"attention_bias": True, "mlp_bias": True}, "biased", 12),
    "theta": ({"rope_theta": 500000.0, "rope_scaling": None}, None, 12),
    "linear": ({"rope_scaling": {"type": "linear", "factor": 2.0}}, None, 12),
    "dynamic": ({"rope_scaling": {"rope_type": "dynamic", "factor": 2.0},
                 "max_position_embeddings": 16}, None, 24),
    "llama3": ({"rope_parameters": {"rope_theta": 10000.0, **LLAMA3}}, None, 12),
    "grouped_llama3": ({"rope_theta": 10000.0, "rope_scaling": LLAMA3, "num_key_value_heads": 2},
                       "grouped", 12),
}


def case_config(name):
    """config.json of a case."""
    return {**BASE_CONFIG, **CASES[name][0]}


def load_config(values):
    """What Transformers makes of it; it changes the dictionaries that it is given."""
    return transformers.LlamaConfig(**copy.deepcopy(values))


def random_state(values, generator):
    """Weights whose logits spread over several units and whose attention is uneven."""
    config = load_config(values)
    model = transformers.LlamaForCausalLM(config)
    state = {}
    for name, tensor in model.state_dict().items():
        noise = torch.randn(tensor.shape, generator=generator)
        if name.endswith("bias"):
            state[name] = 0.3 * noise
        elif "norm" in name:
            state[name] = 1.0 + 0.2 * noise
        elif "embed_tokens" in name:
            state[name] = 0.4 * noise
        else:
            gain = 1.6 if "q_proj" in name or "k_proj" in name else 1.2
            state[name] = noise * gain / tensor.shape[1] ** 0.5
    return state


def round_to(state, precision):
    """Rounded to the precision and widened to fp32 again."""
    return {name: tensor.to(PRECISIONS[precision]).float() for name, tensor in state.items()}


def build(values, state):
    model = transformers.LlamaForCausalLM(load_config(values)).eval()
    missing, unexpected = model.load_state_dict(state, strict=False)
    tied = values["tie_word_embeddings"]
    assert not unexpected and (not missing or (tied and missing == ["lm_head.weight"])), missing
    model.tie_weights()
    return model


def run(model, prompt):
    """Residual stream after every layer, final norm, logits, at every position."""
    streams = []
    hooks = [layer.register_forward_hook(lambda _m, _a, out: streams.append(out[0]))
             for layer in model.model.layers]
    with torch.no_grad():
        norm = model.model(torch.tensor([prompt]), use_cache=False).last_hidden_state[0]
        logits = model.lm_head(norm)
    for hook in hooks:
        hook.remove()
    streams = [stream.reshape(len(prompt), -1) for stream in streams]
    return {**{f"layer.{i}": stream for i, stream in enumerate(streams)},
            "norm": norm, "logits": logits}


def greedy(model, prompt, count):
    """(ids, margins) by generate() with its cache.

    A cache keeps the rotation that a key was given. With dynamic scaling that is another result
    than the whole sequence at once would give; in every other case the two must agree."""
    input_ids = torch.tensor([prompt])
    result = model.generate(input_ids, attention_mask=torch.ones_like(input_ids), do_sample=False,
                            max_new_tokens=count, min_new_tokens=count, eos_token_id=None,
                            pad_token_id=0, output_logits=True, return_dict_in_generate=True)
    ids = result.sequences[0, len(prompt):].tolist()
    best = torch.topk(torch.cat(result.logits), 2).values
    if model.config.rope_parameters["rope_type"] != "dynamic":
        with torch.no_grad():
            rows = model(torch.tensor([prompt + ids]), use_cache=False).logits[0]
        assert rows[len(prompt) - 1:-1].argmax(1).tolist() == ids
    return ids, (best[:, 0] - best[:, 1]).tolist()


def save(tensors, path):
    safetensors.torch.save_file(tensors, path)
    path.chmod(0o644)


def compact(tensors):
    return {name: tensor.detach().to(torch.float32).contiguous() for name, tensor in
            tensors.items()}


def golden(model, prompt, count):
    """Everything a test compares, or None for a case that is too close to call."""
    numbers = compact(run(model, prompt))  # before the dynamic scaling saw anything longer
    ids, margins = greedy(model, prompt, count)
    if min(margins) < MARGIN:
        return None
    return {"prompt": torch.tensor(prompt, dtype=torch.int32), **numbers,
            "greedy": torch.tensor(ids, dtype=torch.int32), "margins": torch.tensor(margins)}


def case_state(name, base, overlays):
    overlay = CASES[name][1]
    state = {**base, **(overlays[overlay] if overlay else {})}
    if case_config(name)["tie_word_embeddings"]:
        del state["lm_head.weight"]
    return state


def make_case(name, base, overlays):
    """The goldens of all precisions with one prompt, trying seeds until every margin is wide."""
    values, state = case_config(name), case_state(name, base, overlays)
    for seed in range(200):
        draw = torch.Generator().manual_seed(1000 + seed)
        count = CASES[name][2] - 1
        prompt = [1] + torch.randint(3, values["vocab_size"], (count,), generator=draw).tolist()
        # Fresh models: the dynamic rotation remembers the longest sequence it saw.
        models = {p: build(values, round_to(state, p)) for p in PRECISIONS}
        result = {p: golden(model, prompt, NEW_TOKENS) for p, model in models.items()}
        if all(result.values()):
            return result
    raise SystemExit(f"{name}: no prompt with wide margins")


def check_scaling_matters(name, result, base, overlays):
    """A library that ignored the rotary scaling or the biases would be far off."""
    plain = case_config("grouped" if CASES[name][1] == "grouped" else "plain")
    if name in ("plain", "grouped", "tied", "wide_heads"):
        return
    state = {n: t for n, t in case_state(name, base, overlays).items() if "bias" not in n}
    other = run(build(plain, state), result["f32"]["prompt"].tolist())["logits"]
    logits = result["f32"]["logits"]
    error = ((other - logits).abs().max(1).values / logits.abs().max(1).values).max().item()
    print(f"{name}: ignoring it would be off by {error:.3f}")
    assert error > 0.02


def make_random(output):
    draw = torch.Generator().manual_seed(20260)
    base = random_state(BASE_CONFIG, draw)
    overlays = {}
    for name in ("grouped", "wide_heads", "biased"):
        state = random_state(case_config(name), draw)
        overlays[name] = {n: t for n, t in state.items()
                          if n not in base or t.shape != base[n].shape}
    output.mkdir(parents=True, exist_ok=True)
    tensors, listing = {}, []
    for name, (_, overlay, _) in CASES.items():
        result = make_case(name, base, overlays)
        check_scaling_matters(name, result, base, overlays)
        for precision, values in result.items():
            print(f"{name}/{precision}: smallest margin {values['margins'].min():.4f}")
            tensors.update({f"{name}/{precision}/{n}": t for n, t in values.items()})
        listing.append({"name": name, "overlay": overlay, "config": case_config(name)})
    save(base, output / "weights.safetensors")
    for name, tensors_of in overlays.items():
        save(tensors_of, output / f"{name}.safetensors")
    save(tensors, output / "golden.safetensors")
    (output / "cases.json").write_text(json.dumps(listing, indent=1) + "\n")
    save_as_published(output, base, overlays)


def save_as_published(output, base, overlays):
    """Two of the cases as files that other software wrote: torch.save in two shards (f16) and in
    one (bf16), and save_pretrained (bf16, with Transformers' own config.json)."""
    def folder(name):
        path = output / name
        shutil.rmtree(path, ignore_errors=True)
        path.mkdir()
        return path

    half = {n: t.half() for n, t in case_state("grouped", base, overlays).items()}
    shards = folder("grouped-f16-sharded-bin")
    names = sorted(half)
    split = {n: half[n] for n in names[:7]}, {n: half[n] for n in names[7:]}
    files = [f"pytorch_model-{i + 1:05}-of-00002.bin" for i in range(2)]
    for file, tensors in zip(files, split):
        torch.save(tensors, shards / file)
    index = {"metadata": {"total_size": sum(2 * t.numel() for t in half.values())},
             "weight_map": {n: file for file, tensors in zip(files, split) for n in tensors}}
    (shards / "pytorch_model.bin.index.json").write_text(json.dumps(index, indent=1) + "\n")
    write_config(shards, {**case_config("grouped"), "torch_dtype": "float16"})

    single = folder("tied-bf16-bin")
    tied = case_state("tied", base, overlays)
    torch.save({n: t.bfloat16() for n, t in tied.items()}, single / "pytorch_model.bin")
    write_config(single, {**case_config("tied"), "torch_dtype": "bfloat16"})

    state = round_to(case_state("grouped_llama3", base, overlays), "bf16")
    model = build(case_config("grouped_llama3"), state).bfloat16()
    model.save_pretrained(folder("grouped_llama3-bf16-safetensors"))


def write_config(folder, values):
    (folder / "config.json").write_text(json.dumps(values, indent=1) + "\n")


def check_files(output):
    """What was written is what a reader gets."""
    with safe_open(output / "golden.safetensors", "pt") as file:
        assert len(file.keys()) == len(CASES) * len(PRECISIONS) * 7
    size = sum(path.stat().st_size for path in output.rglob("*") if path.is_file())
    print(f"{output}: {size / 1e6:.2f} MB")


def make_stories(output, folder):
    """The trained checkpoint: a sentence and its logits, and greedy tokens."""
    reference = json.loads((folder / "reference.json").read_text())
    model = transformers.LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    result = golden(model, reference["sentence_ids"], 2 * NEW_TOKENS)
    assert result is not None
    output.mkdir(parents=True, exist_ok=True)
    save(result, output / "golden.safetensors")


def merged_tiny(folder):
    """base + delta by the reference rule, in fp16, widened to fp32."""
    def tensors(path):
        state = {}
        for file in sorted(path.glob("*.safetensors")):
            state.update(safetensors.torch.load_file(file))
        for file in sorted(path.glob("*.bin")):
            state.update(torch.load(file, weights_only=True))
        return state

    base, delta = tensors(folder / "base"), tensors(folder / "delta")
    copied = ("embed_tokens", "lm_head.weight")
    state = {name: tensor if any(part in name for part in copied) else base[name] + tensor
             for name, tensor in delta.items() if "inv_freq" not in name}
    return {name: tensor.half().float() for name, tensor in state.items()}


def make_tiny(output, folder):
    """ziya-tiny: the last two positions of three prompts. Made anew whenever ziya-tiny is."""
    values = json.loads((folder / "delta" / "config.json").read_text())
    model = build(values, merged_tiny(folder))
    expected = json.loads((folder / "expected.json").read_text())
    tensors = {}
    for index, prompt in enumerate(tiny_prompts(expected)):
        rows = {n: t[-2:] for n, t in compact(run(model, prompt)).items()}
        tensors[f"{index}/prompt"] = torch.tensor(prompt, dtype=torch.int32)
        tensors.update({f"{index}/{n}": t.contiguous() for n, t in rows.items()})
    output.mkdir(parents=True, exist_ok=True)
    save(tensors, output / "golden.safetensors")


def tiny_prompts(expected):
    """A poem, a question and a conversation of expected.json."""
    samples = expected["poems"][0], expected["questions"][-1], expected["conversations"][0]
    return [sample["prompt_ids"] for sample in samples]


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("random", "stories", "tiny"))
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--model", type=Path, help="stories: the checkpoint's folder")
    parser.add_argument("--tiny", type=Path, help="tiny: the folder of base, delta, expected.json")
    arguments = parser.parse_args()
    torch.set_num_threads(2)
    if arguments.what == "random":
        make_random(arguments.output)
        check_files(arguments.output)
    elif arguments.what == "stories":
        make_stories(arguments.output, arguments.model)
    else:
        make_tiny(arguments.output, arguments.tiny)


if __name__ == "__main__":
    main()
