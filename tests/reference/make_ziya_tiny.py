#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Makes ziya-tiny: a LLaMA base, converted and as Meta publishes, a Chinese vocabulary, a
fine-tuned target, and its delta.

    python3 tests/reference/make_ziya_tiny.py --output examples/ziya-tiny

Needs the Debian packages bible-kjv (4.38) and fortunes-zh (2.98), and from PyPI torch 2.15,
transformers 5.23, sentencepiece 0.2.3, safetensors 0.8, numpy 2.4, protobuf. Everything is
seeded; other versions or processors give other weights of the same behaviour. Nothing is
written before every promise of `check_promises` holds.
"""

import argparse
import json
import random
import shutil
import tempfile
import zlib
from dataclasses import dataclass, replace
from pathlib import Path

import safetensors.torch
import sentencepiece
import torch
import transformers

import ziya_tiny_llama
import ziya_tiny_model as tiny
import ziya_tiny_text as text
from ziya_tiny_text import Turn

POEMS = 200
CONVERSATIONS = 24
BASE_TRAINING = tiny.Schedule(steps=600, learning_rate=2e-3, weight_decay=0.1)
# The norms move little, so that the delta's are near 0 as in the published one.
CONTINUED_TRAINING = tiny.Schedule(steps=200, learning_rate=1e-3, weight_decay=0.1, norm_rate=0.03)
FINE_TUNING = tiny.Schedule(steps=1500, learning_rate=1.5e-3, noise=0.10, norm_rate=0.03)
COPIED = ("embed_tokens", "lm_head.weight", "self_attn.rotary_emb.inv_freq")
MINIMAL_MARGINS = {"float32": 1.0, "bfloat16 weights": 0.5, "bfloat16": 0.5, "four bits": 0.0}


@dataclass(frozen=True)
class Recital:
    """Everything the merged model has by heart, with the ids that prove it."""

    poems: list
    questions: list
    conversations: list
    tokenizer: text.ZiyaTokenizer

    @property
    def turns(self):
        return [Turn(poem.query, poem.text) for poem in self.poems] + self.questions

    def samples(self):
        single = [text.make_sample(self.tokenizer, [turn]) for turn in self.turns]
        several = [text.make_sample(self.tokenizer, turns) for turns in self.conversations]
        return single + several


def text_windows(encode, lines, length, rows, rng):
    """Endless batches of windows, each after a bos, of the lines joined by newlines."""
    newline = 3 + ord("\n")
    stream = torch.tensor([i for line in lines for i in [*encode(line), newline]])
    while True:
        starts = [rng.randrange(len(stream) - length) for _ in range(rows)]
        windows = torch.stack([stream[start:start + length] for start in starts])
        windows[:, 0] = text.BOS
        yield windows, torch.ones_like(windows, dtype=torch.bool)


def poem_pages(tokenizer, poems, rng):
    """Endless batches of poems as running text."""
    pages = [[text.BOS, *tokenizer.encode(poem.page), text.EOS] for poem in poems]
    pages = [text.Sample(page[:256], [True] * len(page[:256])) for page in pages]
    while True:
        yield from tiny.batches_by_length(pages, 1500, rng)


def alternate(*iterators):
    while True:
        for iterator in iterators:
            yield next(iterator)


def conversation_batches(recital, rng):
    while True:
        turns = text.random_conversations(recital.turns, rng)
        samples = [text.make_sample(recital.tokenizer, conversation) for conversation in turns]
        yield from tiny.batches_by_length(samples, 1200, rng)


def train_base(tokenizer_model, lines, rng):
    pieces = sentencepiece.SentencePieceProcessor(model_proto=tokenizer_model)
    model = tiny.Llama(tiny.Shape(vocab_size=pieces.get_piece_size()))
    windows = text_windows(pieces.encode, lines, 128, 16, rng)
    seconds = tiny.train("base", model, windows, BASE_TRAINING)
    return model, seconds


def extend(base, rows):
    """The base with fresh embedding and head rows behind its own."""
    target = tiny.Llama(replace(base.shape, vocab_size=rows))
    state = target.state_dict()
    for name, tensor in base.state_dict().items():
        state[name][:len(tensor)] = tensor
    target.load_state_dict(state)
    return target


def train_target(base, recital, lines, all_poems, rng):
    """Continued pre-training on English and Chinese, then fine-tuning."""
    tokens = recital.tokenizer.bot + 1
    target = extend(base, -(-tokens // 128) * 128)
    windows = text_windows(recital.tokenizer.encode, lines, 128, 12, rng)
    pages = poem_pages(recital.tokenizer, all_poems, rng)
    seconds = tiny.train("continued", target, alternate(windows, pages), CONTINUED_TRAINING)
    seconds += tiny.train("fine-tuning", target, conversation_batches(recital, rng), FINE_TUNING)
    return target, seconds


def make_delta(base, target, shape):
    """target - base in fp16, except the copied tensors; inv_freq is stored in fp32."""
    delta = {name: tensor if any(part in name for part in COPIED)
             else (tensor.float() - base[name].float()).half()
             for name, tensor in target.items()}
    for layer in range(shape.num_hidden_layers):
        name = f"model.layers.{layer}.self_attn.rotary_emb.inv_freq"
        delta[name] = tiny.inverse_frequencies(shape)
    return delta


def merge(base, delta):
    """The reference rule, without the inv_freq that every reader computes itself."""
    return {name: tensor if any(part in name for part in COPIED)
            else (base[name].float() + tensor.float()).half()
            for name, tensor in delta.items() if not name.endswith("inv_freq")}


def check_tokenizer(recital, base_pieces):
    """Every character of the poems is one appended piece; every answer survives the trip."""
    tokenizer = recital.tokenizer
    space = tokenizer.pieces.piece_to_id("▁")
    for poem in recital.poems:
        for line in (poem.text + poem.title + poem.author).split("\n"):
            ids = tokenizer.encode(line)
            assert ids[0] == space and len(ids) == len(line) + 1, line
            assert all(i >= base_pieces or c.isascii() for i, c in zip(ids[1:], line)), line
    for turn in recital.turns:
        assert tokenizer.decode(tokenizer.encode_answer(turn.answer)) == turn.answer, turn


def check_promises(merged, shape, recital):
    """Recites exactly, with wide margins, in every precision; returns the margins."""
    models = {
        "float32": tiny.load(merged, shape),
        "bfloat16 weights": tiny.load(tiny.bf16_state(merged), shape),
        "bfloat16": tiny.load(merged, shape, torch.bfloat16),
        "four bits": tiny.load(tiny.four_bit_state(merged), shape),
    }
    samples = recital.samples()
    margins = {}
    for name, model in models.items():
        lowest = tiny.greedy_margins(model, samples)
        margins[name] = round(min(lowest), 3)
        wrong = sum(margin <= 0 for margin in lowest)
        print(f"{name}: smallest margin {margins[name]}, {wrong}/{len(lowest)} wrong", flush=True)
    for name, least in MINIMAL_MARGINS.items():
        assert margins[name] > least, f"{name}: margin {margins[name]}, wanted {least}"
    return margins


def check_base_recites_nothing(base, shape, tokenizer_model, recital):
    pieces = sentencepiece.SentencePieceProcessor(model_proto=tokenizer_model)
    samples = []
    for turn in recital.turns:
        prompt = [text.BOS, *pieces.encode(f"<human>:{turn.query}\n<bot>:")]
        answer = pieces.encode(turn.answer) + [text.EOS]
        ids = prompt + answer
        answered = [False] * len(prompt) + [True] * len(answer)
        samples.append(text.Sample(ids, answered))
    assert max(tiny.greedy_margins(tiny.load(base, shape), samples)) < 0


def split_answer(sample):
    """(prompt ids, ids of the last answer)."""
    start = len(sample.ids) - sample.answered[::-1].index(False)
    return sample.ids[:start], sample.ids[start:]


def check_transformers(folder, merged, recital):
    """Transformers' own greedy generation from every prompt."""
    config = transformers.LlamaConfig.from_pretrained(folder / "delta")
    model = transformers.LlamaForCausalLM(config).eval()
    model.load_state_dict({name: tensor.float() for name, tensor in merged.items()})
    for sample in recital.samples():
        prompt, answer = split_answer(sample)
        ids = model.generate(torch.tensor([prompt]), do_sample=False, max_new_tokens=256,
                             attention_mask=torch.ones(1, len(prompt), dtype=torch.long))
        assert ids[0, len(prompt):].tolist() == answer, recital.tokenizer.decode(answer)


def split_shards(state, count):
    """Consecutive groups of tensors of about equal size."""
    total = sum(tensor.nbytes for tensor in state.values())
    shards, done = [{} for _ in range(count)], 0
    for name, tensor in state.items():
        shards[min(count - 1, done * count // total)][name] = tensor.contiguous()
        done += tensor.nbytes
    return shards


def write_json(path, value):
    path.write_text(json.dumps(value, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")


def write_sharded(folder, state, count, stem, suffix, save):
    weight_map = {}
    for number, shard in enumerate(split_shards(state, count), start=1):
        file = f"{stem}-{number:05}-of-{count:05}{suffix}"
        save(shard, folder / file)
        weight_map.update(dict.fromkeys(shard, file))
    total = sum(tensor.nbytes for tensor in state.values())
    write_json(folder / f"{stem}{suffix}.index.json",
               {"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))})


def write_base(folder, state, shape, tokenizer_model):
    """Spelled as the first conversions of LLaMA were, with their wrong special ids."""
    folder.mkdir(parents=True)
    (folder / "tokenizer.model").write_bytes(tokenizer_model)
    write_sharded(folder, state, 2, "model", ".safetensors",
                  lambda shard, path: safetensors.torch.save_file(shard, path, {"format": "pt"}))
    write_json(folder / "config.json", {
        "architectures": ["LLaMAForCausalLM"], "bos_token_id": 0, "eos_token_id": 1,
        "hidden_act": "silu", "hidden_size": shape.hidden_size,
        "intermediate_size": shape.intermediate_size, "initializer_range": 0.02,
        "max_sequence_length": shape.max_position_embeddings, "model_type": "llama",
        "num_attention_heads": shape.num_attention_heads,
        "num_hidden_layers": shape.num_hidden_layers, "pad_token_id": -1,
        "rms_norm_eps": shape.rms_norm_eps, "torch_dtype": "float16",
        "transformers_version": "4.27.0.dev0", "use_cache": True,
        "vocab_size": shape.vocab_size})
    write_json(folder / "generation_config.json", {
        "_from_model_config": True, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 0,
        "transformers_version": "4.27.0.dev0"})
    write_json(folder / "special_tokens_map.json", {})
    write_json(folder / "tokenizer_config.json", {
        "bos_token": "", "eos_token": "", "model_max_length": 10 ** 30,
        "tokenizer_class": "LLaMATokenizer", "unk_token": ""})


def write_delta(folder, delta, shape, tokenizer_model, tokenizer):
    folder.mkdir(parents=True)
    (folder / "tokenizer.model").write_bytes(tokenizer_model)
    write_sharded(folder, delta, 3, "pytorch_model", ".bin", torch.save)
    write_json(folder / "added_tokens.json", {"<bot>": tokenizer.bot, "<human>": tokenizer.human})
    write_json(folder / "config.json", {
        "architectures": ["LlamaForCausalLM"], "bos_token_id": 1, "eos_token_id": 2,
        "hidden_act": "silu", "hidden_size": shape.hidden_size, "initializer_range": 0.02,
        "intermediate_size": shape.intermediate_size,
        "max_position_embeddings": shape.max_position_embeddings, "model_type": "llama",
        "num_attention_heads": shape.num_attention_heads,
        "num_hidden_layers": shape.num_hidden_layers, "pad_token_id": 0,
        "rms_norm_eps": shape.rms_norm_eps, "tie_word_embeddings": False,
        "torch_dtype": "float16", "transformers_version": "4.29.0.dev0", "use_cache": True,
        "vocab_size": shape.vocab_size})
    write_json(folder / "generation_config.json", {
        "_from_model_config": True, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0,
        "transformers_version": "4.29.0.dev0"})
    write_json(folder / "special_tokens_map.json", {})
    write_json(folder / "tokenizer_config.json", {
        "add_bos_token": True, "add_eos_token": False, "clean_up_tokenization_spaces": False,
        "model_max_length": shape.max_position_embeddings, "tokenizer_class": "LlamaTokenizer",
        "use_fast": False})


def expected_values(recital, merged, delta, margins):
    def entry(turn):
        prompt, answer = split_answer(text.make_sample(recital.tokenizer, [turn]))
        return {"query": turn.query, "answer": turn.answer,
                "prompt_ids": prompt, "answer_ids": answer}

    def conversation(turns):
        prompt, answer = split_answer(text.make_sample(recital.tokenizer, turns))
        return {"turns": [{"query": turn.query, "answer": turn.answer} for turn in turns],
                "prompt_ids": prompt, "answer_ids": answer}

    def checksum(tensor):
        return zlib.crc32(tensor.numpy().tobytes())

    return {
        "poems": [{"title": poem.title, "author": poem.author,
                   **entry(Turn(poem.query, poem.text))} for poem in recital.poems],
        "questions": [entry(turn) for turn in recital.questions],
        "conversations": [conversation(turns) for turns in recital.conversations],
        "min_margin": margins["float32"],
        "min_margins": margins,
        "merged_crc32": {name: checksum(tensor) for name, tensor in sorted(merged.items())},
        "inv_freq_crc32": {name: checksum(tensor) for name, tensor in sorted(delta.items())
                           if name.endswith("inv_freq")},
    }


def write_expected(path, values):
    """One line per entry, so that a change can be read."""
    def lines(value):
        if isinstance(value, list):
            rows = ",\n".join("  " + json.dumps(row, ensure_ascii=False) for row in value)
            return f"[\n{rows}\n ]"
        return json.dumps(value, ensure_ascii=False)

    body = ",\n".join(f' "{key}": {lines(value)}' for key, value in values.items())
    path.write_text("{\n" + body + "\n}\n", encoding="utf-8")


def write_readmes(folder, shape, recital, margins, seconds):
    versions = (f"torch {torch.__version__.split('+')[0]}, transformers "
                f"{transformers.__version__}, sentencepiece {sentencepiece.__version__}")
    facts = {
        "POEMS": len(recital.poems), "QUESTIONS": len(recital.questions),
        "LAYERS": shape.num_hidden_layers, "HIDDEN": shape.hidden_size,
        "INTERMEDIATE": shape.intermediate_size, "ROWS": shape.vocab_size,
        "PIECES": recital.tokenizer.human, "BASE_PIECES": text.BASE_PIECES,
        "HUMAN": recital.tokenizer.human, "BOT": recital.tokenizer.bot,
        "MARGINS": ", ".join(f"{name} {margin}" for name, margin in margins.items()),
        "MINUTES": round(seconds / 60), "VERSIONS": versions,
    }
    for name in ("base", "delta"):
        card = Path(__file__).with_name(f"ziya_tiny_{name}_card.md").read_text(encoding="utf-8")
        for key, value in facts.items():
            card = card.replace("{" + key + "}", str(value))
        (folder / name / "README.md").write_text(card, encoding="utf-8")


def make(output, scratch):
    torch.manual_seed(1)
    rng = random.Random(1)
    lines, all_poems = text.read_king_james_bible(), text.read_tang_poems()
    base_tokenizer = text.train_base_tokenizer(lines)
    tokenizer_model = text.append_characters(base_tokenizer, text.poem_characters(all_poems))
    recital = Recital(text.choose_poems(all_poems, POEMS), text.read_questions(), [],
                      text.ZiyaTokenizer(tokenizer_model))
    check_tokenizer(recital, text.BASE_PIECES)
    recital = replace(recital, conversations=[
        random.Random(seed).sample(recital.turns, 2 if seed % 4 else 3)
        for seed in range(CONVERSATIONS)])

    base_model, base_seconds = train_base(base_tokenizer, lines, rng)
    target_model, target_seconds = train_target(base_model, recital, lines, all_poems, rng)
    shape = target_model.shape
    base, target = tiny.fp16_state(base_model), tiny.fp16_state(target_model)
    delta = make_delta(base, target, shape)
    merged = merge(base, delta)

    margins = check_promises(merged, shape, recital)
    check_base_recites_nothing(base, base_model.shape, base_tokenizer, recital)
    write_base(scratch / "base", base, base_model.shape, base_tokenizer)
    ziya_tiny_llama.write_llama(scratch)
    write_delta(scratch / "delta", delta, shape, tokenizer_model, recital.tokenizer)
    write_expected(scratch / "expected.json", expected_values(recital, merged, delta, margins))
    write_readmes(scratch, shape, recital, margins, base_seconds + target_seconds)
    check_transformers(scratch, merged, recital)
    shutil.rmtree(output, ignore_errors=True)
    shutil.copytree(scratch, output)
    size = sum(file.stat().st_size for file in output.rglob("*") if file.is_file())
    print(f"{output}: {size / 1e6:.1f} MB, trained in {base_seconds + target_seconds:.0f} s")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, required=True, help="replaced when it exists")
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.use_deterministic_algorithms(True)
    with tempfile.TemporaryDirectory() as scratch:
        make(arguments.output, Path(scratch))


if __name__ == "__main__":
    main()
