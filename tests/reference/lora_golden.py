# SPDX-License-Identifier: Apache-2.0
"""Small LoRA adapters as PEFT saves them, logits with them, and weights with them merged.

A base in fp16 and one with biases in fp32; adapters on some and on all projections, chosen by list
and by regular expression, with patterns of ranks and alphas, rank-stabilised, on embedding and head,
with whole embeddings of another vocabulary, with biases. The reference runs in fp32 on the base's
rounded weights; merged tensors are PEFT's in fp32, rounded once to the base's type.
Writes tests/data/lora. Made with torch 2.15.0, transformers 5.24.0, peft 0.21.2,
safetensors 0.8.0.
"""
import json
import pathlib
import shutil

import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import save_file
from transformers import LlamaConfig, LlamaForCausalLM

OUT = pathlib.Path(__file__).resolve().parent.parent / "data" / "lora"
IDS = [1, 5, 9, 30, 2, 17, 23, 4]
ALL = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
CASES = {
    "plain": ("base", dict(r=4, lora_alpha=8, target_modules=["q_proj", "v_proj"])),
    "patterns": ("base", dict(
        r=4, lora_alpha=6, use_rslora=True,
        target_modules=r".*\.(self_attn\.[qkvo]_proj|mlp\.(gate|up|down)_proj)",
        rank_pattern={"layers.1.mlp.up_proj": 2, r".*\.0\.self_attn\.[qk]_proj": 3},
        alpha_pattern={"down_proj": 20})),
    "vocabulary": ("base", dict(r=2, lora_alpha=2, target_modules=["o_proj", "up_proj"],
                                modules_to_save=["embed_tokens", "lm_head"])),
    "embedding": ("base", dict(r=3, lora_alpha=5, target_modules=["embed_tokens", "lm_head",
                                                                  "k_proj"])),
    "biases": ("biased", dict(r=2, lora_alpha=4, target_modules=["q_proj", "down_proj"],
                              bias="all")),
}


def make_base(name, dtype, **options):
    torch.manual_seed(len(name))
    config = LlamaConfig(hidden_size=32, intermediate_size=48, num_hidden_layers=2,
                         num_attention_heads=4, num_key_value_heads=2, vocab_size=40,
                         max_position_embeddings=64, rms_norm_eps=1e-6, pad_token_id=0,
                         tie_word_embeddings=False, initializer_range=0.3, **options)
    model = LlamaForCausalLM(config)
    with torch.no_grad():
        for key, value in model.named_parameters():
            if key.endswith("bias"):
                value.normal_(std=0.2)
    model.to(dtype).save_pretrained(OUT / name)
    (OUT / name / "generation_config.json").unlink(missing_ok=True)


def make_adapter(name, base, options, binary):
    torch.manual_seed(100 + len(name))
    stored = LlamaForCausalLM.from_pretrained(OUT / base, dtype="auto")
    dtype = stored.dtype
    model = stored.float()
    if name == "vocabulary":
        model.resize_token_embeddings(43, mean_resizing=False)
    adapted = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", **options))
    with torch.no_grad():
        for key, value in adapted.named_parameters():
            if value.requires_grad and "norm" not in key:
                value.copy_(torch.randn_like(value) * 0.3)
    adapted.peft_config["default"].base_model_name_or_path = f"fixtures/{base}"
    adapted.eval()
    folder = OUT / name
    with torch.no_grad():
        logits = adapted(torch.tensor([IDS])).logits[0]
    adapted.save_pretrained(folder)
    (folder / "README.md").unlink(missing_ok=True)
    if binary:
        from safetensors.torch import load_file
        torch.save(load_file(folder / "adapter_model.safetensors"), folder / "adapter_model.bin")
        (folder / "adapter_model.safetensors").unlink()
    config = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps(config, indent=1, sort_keys=True) + "\n")
    merged = adapted.merge_and_unload()
    tensors = {k: v.to(dtype).contiguous().clone() for k, v in merged.state_dict().items()}
    save_file(tensors, OUT / f"{name}-merged.safetensors")
    save_file({"ids": torch.tensor(IDS, dtype=torch.int32), "logits": logits.contiguous()},
              OUT / f"{name}-logits.safetensors")


def main():
    shutil.rmtree(OUT, ignore_errors=True)
    make_base("base", torch.float16)
    make_base("biased", torch.float32, attention_bias=True)
    for name, (base, options) in CASES.items():
        make_adapter(name, base, options, binary=name == "patterns")


if __name__ == "__main__":
    main()
