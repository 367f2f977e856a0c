#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""What Transformers answers to the questions of tests/data/golden/scoring, and how it embeds texts.

    python3 tests/reference/scoring_golden.py --model build/ziya-tiny --output tests/data/golden/scoring

Made with torch 2.15.0 and transformers 5.24.0 in fp32 on the CPU, from the merged miniature. The
question files are written by hand; this script reads them with Python's own csv and json, encodes
with SentencePiece and writes expected.json: per case the command line's settings, the
log-probability of every choice and the choice taken; and of some texts the mean of the last hidden
states, scaled to length 1. Two choices closer than 1e-3 are refused.
"""
import argparse
import csv
import json
from pathlib import Path

import sentencepiece
import torch
import transformers

CASES = [
    {"file": "questions.jsonl", "score": "letter", "shots": 0, "template": "raw"},
    {"file": "questions.jsonl", "score": "text", "shots": 0, "template": "ziya"},
    {"file": "questions.jsonl", "score": "mean", "shots": 2, "template": "raw"},
    {"file": "ceval.csv", "score": "letter", "shots": 0, "template": "raw"},
    {"file": "ceval.csv", "score": "text", "shots": 1, "template": "raw"},
    {"file": "mmlu.csv", "score": "letter", "shots": 3, "template": "raw"},
    {"file": "mmlu.csv", "score": "letter", "shots": 1, "template": "raw",
     "intro": "The following are multiple choice questions (with answers) about common knowledge."},
]
TEXTS = ["What is the capital of France?", "床前明月光，疑是地上霜。", "a", "</s><human>: typed"]


def questions(path):
    """(question, choices, index of the answer)"""
    text = path.read_text(encoding="utf-8-sig")
    found = []
    if path.suffix == ".jsonl":
        for line in filter(str.strip, text.splitlines()):
            row = json.loads(line)
            answer = row["answer"]
            if isinstance(answer, str):
                answer = ("ABCDE".index(answer.upper()) if len(answer) == 1
                          else row["choices"].index(answer))
            found.append((row["question"], row["choices"], answer))
        return found
    with open(path, encoding="utf-8-sig", newline="") as file:
        rows = list(csv.reader(file))
    if "question" in rows[0]:
        rows = [dict(zip(rows[0], row)) for row in rows[1:]]
        return [(row["question"], [row[letter] for letter in "ABCD"], "ABCD".index(row["answer"]))
                for row in rows]
    return [(row[0], row[1:-1], "ABCD".index(row[-1])) for row in rows]


def asked(question, choices, letters, chinese):
    answer = "答案：" if chinese else "Answer:"
    if letters:
        listed = "".join(f"{'ABCDE'[i]}. {choice}\n" for i, choice in enumerate(choices))
        return f"{question}\n{listed}{answer}"
    return f"{'问题：' if chinese else 'Question: '}{question}\n{answer}"


class Reference:
    def __init__(self, folder):
        self.spm = sentencepiece.SentencePieceProcessor(model_file=str(folder / "tokenizer.model"))
        self.model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
        added = json.loads((folder / "added_tokens.json").read_text())
        self.human, self.bot = added["<human>"], added["<bot>"]

    def prompt(self, text, template):
        if template == "raw":
            return [1] + self.spm.encode(text)
        return [1, self.human, *self.spm.encode(":" + text.strip()), self.bot, *self.spm.encode(":")]

    @torch.no_grad()
    def log_probability(self, prompt, continuation):
        logits = self.model(torch.tensor([prompt + continuation])).logits[0].double().log_softmax(-1)
        return sum(float(logits[len(prompt) - 1 + i, token]) for i, token in enumerate(continuation))

    def answers(self, folder, case):
        letters, chinese = case["score"] == "letter", case["file"] == "ceval.csv"
        shown = "".join(
            asked(question, choices, letters, chinese)
            + " " + ("ABCDE"[answer] if letters else choices[answer]) + "\n\n"
            for question, choices, answer in questions(folder / "examples.csv")[:case["shots"]])
        if "intro" in case:
            shown = case["intro"] + "\n\n" + shown
        results = []
        for question, choices, answer in questions(folder / case["file"]):
            prompt = self.prompt(shown + asked(question, choices, letters, chinese), case["template"])
            scores = []
            for i, choice in enumerate(choices):
                ids = self.spm.encode("ABCDE"[i] if letters else choice)
                score = self.log_probability(prompt, ids)
                scores.append(score / (len(ids) if case["score"] == "mean" else 1))
            best = sorted(scores)[-2:]
            assert best[1] - best[0] > 1e-3, (question, scores)
            results.append({"answer": answer, "chosen": scores.index(max(scores)),
                            "scores": [round(score, 6) for score in scores]})
        return results

    @torch.no_grad()
    def embed(self, text):
        ids = [1] + self.spm.encode(text)
        hidden = self.model.model(torch.tensor([ids])).last_hidden_state[0].double().mean(0)
        return {"text": text, "tokens": len(ids), "embedding": [round(float(x), 7) for x in hidden / hidden.norm()]}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    arguments = parser.parse_args()
    reference = Reference(arguments.model)
    cases = [case | {"results": reference.answers(arguments.output, case)} for case in CASES]
    golden = {"torch": torch.__version__, "transformers": transformers.__version__, "cases": cases,
              "embeddings": [reference.embed(text) for text in TEXTS]}
    (arguments.output / "expected.json").write_text(json.dumps(golden, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
