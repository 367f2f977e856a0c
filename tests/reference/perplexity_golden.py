#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Perplexity of stories260K by three others: tests/data/golden/perplexity/stories.json.

    REFERENCE/bin/python perplexity_golden.py transformers SHARED_DATA    (torch 2.15.0, transformers 5.24.0)
    LLAMA_CPP/bin/python perplexity_golden.py llama.cpp SHARED_DATA       (llama-cpp-python 0.3.36)

The first draws a text from the model itself (seeded) and writes its ids, the perplexity by
the strided loop of Transformers' documentation, that by llama.cpp's method, and the divergence of
the weights rounded to bf16 from the fp32 ones. The second adds the perplexity that llama.cpp's own
logits give by its method, for every GGUF file of the model.
"""
import json
import math
import pathlib
import sys

HERE = pathlib.Path(__file__).resolve().parent
OUT = HERE.parent / "data/golden/perplexity/stories.json"
CONTEXT, STRIDE, TOKENS = 128, 48, 1100


def windows(ids):
    """llama.cpp: windows that do not overlap, bos in front; the second half counts."""
    for begin in range(0, len(ids) - CONTEXT + 1, CONTEXT):
        yield [1] + ids[begin + 1:begin + CONTEXT]


def with_transformers(shared):
    import torch
    import transformers

    folder = shared / "stories260K-hf"
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    torch.manual_seed(0)
    ids = [1]
    while len(ids) < TOKENS:
        story = model.generate(torch.tensor([[1]]), do_sample=True, top_k=0, temperature=1.0, max_new_tokens=220)
        ids += [int(i) for i in story[0] if int(i) > 2]
    ids = ids[:TOKENS]

    nll_sum = count = previous = 0
    for begin in range(0, len(ids), STRIDE):
        end = min(begin + CONTEXT, len(ids))
        input_ids = torch.tensor([ids[begin:end]])
        target = input_ids.clone()
        target[:, :-(end - previous)] = -100
        with torch.no_grad():
            loss = model(input_ids, labels=target).loss
        valid = int((target != -100).sum())
        nll_sum += float(loss) * (valid - 1)
        count += valid - 1
        previous = end
        if end == len(ids):
            break
    strided = math.exp(nll_sum / count)

    rounded = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    for parameter in rounded.parameters():
        if parameter.ndim == 2:
            parameter.data = parameter.data.bfloat16().float()
    nll, kl, same = [], [], []
    for window in windows(ids):
        with torch.no_grad():
            p = model(torch.tensor([window])).logits[0, CONTEXT // 2:-1].double().log_softmax(-1)
            q = rounded(torch.tensor([window])).logits[0, CONTEXT // 2:-1].double().log_softmax(-1)
        nll += (-p.gather(1, torch.tensor(window[CONTEXT // 2 + 1:])[:, None])).flatten().tolist()
        kl += (p.exp() * (p - q)).sum(-1).tolist()
        same += (p.argmax(-1) == q.argmax(-1)).tolist()
    return {"torch": torch.__version__, "transformers": transformers.__version__, "context": CONTEXT,
            "stride": STRIDE, "ids": ids, "strided": strided, "llama_cpp_method": math.exp(sum(nll) / len(nll)),
            "bf16_kl": sum(kl) / len(kl), "bf16_top": sum(same) / len(same), "tokens": len(nll)}


def with_llama_cpp(shared, golden):
    import llama_cpp
    import numpy as np

    found = {}
    for file in sorted((shared / "stories260K-gguf").glob("*.gguf")):
        model = llama_cpp.Llama(str(file), n_ctx=CONTEXT, logits_all=True, n_threads=2, verbose=False)
        nll = []
        for window in windows(golden["ids"]):
            model.reset()
            model.eval(window)
            logits = np.array(model.scores[CONTEXT // 2:CONTEXT - 1], dtype=np.float64)
            total = np.log(np.exp(logits - logits.max(-1, keepdims=True)).sum(-1)) + logits.max(-1)
            targets = window[CONTEXT // 2 + 1:]
            nll += list(total - logits[np.arange(len(targets)), targets])
        found[file.name] = math.exp(sum(nll) / len(nll))
    return {"llama-cpp-python": llama_cpp.__version__, "llama_cpp": found}


def main():
    kind, shared = sys.argv[1], pathlib.Path(sys.argv[2])
    golden = json.loads(OUT.read_text()) if OUT.exists() else {}
    golden.update(with_transformers(shared) if kind == "transformers" else with_llama_cpp(shared, golden))
    OUT.parent.mkdir(parents=True, exist_ok=True)
    OUT.write_text(json.dumps(golden) + "\n")


if __name__ == "__main__":
    main()
