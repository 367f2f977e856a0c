#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Golden ids and texts of tokenizers, from SentencePiece and three versions of Transformers.

usage: tokenizer_golden.py [--work DIR]      (writes tests/data/golden/tokenizer/)

DIR keeps one virtual environment per version (made when absent, needs PyPI). Tokenizers: the
bundled miniature, and those of ../shared/data, of which only ids are kept. Python 3.11.
"""
import argparse
import base64
import json
import pathlib
import random
import shutil
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parents[2]
SHARED = ROOT.parent / "shared/data"
OUT = ROOT / "tests/data/golden/tokenizer"
COMMON = ["sentencepiece==0.1.97", "protobuf==3.20.3"]
# legacy rule, its last version; newer rule; the version whose decoding is reproduced
VERSIONS = {"4.33.3": "t433", "4.36.2": "t436", "4.29.2": "t429"}
TOKENIZERS = {
    "ziya-tiny": ROOT / "examples/ziya-tiny/delta",
    "ziya-like": SHARED / "ziya-like",
    "llama": SHARED / "llama-tokenizer",
    "stories260K": SHARED / "stories260K-hf",
}
TOKENS = ["<human>", "<bot>", "<s>", "</s>", "<unk>"]

# ---- strings ------------------------------------------------------------------------------------
ENGLISH = ("Once upon a time there was a little girl who lived in a village near the forest. "
           "What is the capital of France? The quick brown fox jumps over the lazy dog; it didn't "
           "see 3.14159 or 2,718 of them... \"Quoted\", (bracketed), under_scored, CamelCase, "
           "https://example.org/a?b=c&d=%20 e-mail@example.org C++20 naïve café Zürich Łódź").split(" ")
CHINESE = ("帮我写一份去西安的旅游计划。床前明月光，疑是地上霜。举头望明月，低头思故乡。"
           "中华人民共和国万岁！人工智能、机器学习与自然语言处理（第二版）；“你好”，《静夜思》作者是谁？"
           "龘靐齉爩鱻麤灪龖厵纞虋驫飝亀龍")
JAPANESE = ("吾輩は猫である。名前はまだ無い。どこで生れたかとんと見当がつかぬ。カタカナとひらがな、"
            "ﾊﾝｶｸ文字、ゐゑヰヱ、々〆〇、㍿①Ⅷ")
OTHER = ["Привет, мир!", "مرحبا بالعالم", "שלום עולם", "नमस्ते दुनिया", "안녕하세요 세계", "Γειά σου Κόσμε",
         "ภาษาไทย", "Việt Nam", "𝔘𝔫𝔦𝔠𝔬𝔡𝔢", "𠮷野家𡈽", "\U0010ffff", "\ue000\uf8ff", "\ufffd", "\ufeffBOM"]
EMOJI = ["😀", "🙂👍🏽", "👨‍👩‍👧‍👦", "🇨🇳🇯🇵", "❤️", "☃", "🏴\U000e0067\U000e0062\U000e007f", "1️⃣"]
SPACES = [" ", "  ", "   ", "\t", "\n", "\r\n", "\n\n", "\v", "\f", "\u00a0", "\u3000", "\u2003", "\u2028",
          "\u0085", "\x1c", "\u200b", "\u2581", "\u2581\u2581", " " * 17, "\u1680", "\u202f"]
COMBINING = ["e\u0301", "n\u0303o", "a\u0300\u0316\u0327", "\u0301", "Z̸̢a̷l̶g̵o̷", "क्ष", "각"]
ZERO_WIDTH = ["\u200b", "a\u200db", "\u200e\u200f", "\u2060x", "soft\u00adhyphen", "\x00", "a\x00b", "\x7f", "\x1b[0m"]
NEAR_TOKENS = ["<human", "human>", "<bot>>", "<<bot", "< bot>", "</ s>", "<S>", "</s", "<s", "<unk", "<0x0A>",
               "<0xFF>", "<pad>", "[INST]", "<|im_start|>", "<human>", "<HUMAN>", "<bo t>"]


def strings():
    """1,000 different texts."""
    rng = random.Random(20230517)
    result = ["", *SPACES, *EMOJI, *OTHER, *COMBINING, *ZERO_WIDTH, *NEAR_TOKENS, *TOKENS, CHINESE, JAPANESE,
              " ".join(ENGLISH), "<human>:你好\n<bot>:", "<human>:帮我写一份去西安的旅游计划\n<bot>:",
              "<human>:q\n<bot>:a</s><human>:q\n<bot>:a</s>", "<human>: spaced \n\n <bot> : ",
              " <human> ", "\n<bot>\n", "<s><s>", "<s> <s>", "</s></s> ", "<human><bot>", "<human> <bot>",
              "<human>\n\n<bot>", "<s>a<s>", " <s> a </s> b <unk> c ", "a\u3000<bot>\u3000b", "a\u200b<bot>\u200bb",
              "a\u0085<human>\x1cb", "x\t<unk>\ty", "Hello world " * 60, "长" * 400, "a" * 700, "0123456789" * 40,
              " " * 300, "\n" * 200, "<bot>" * 100, "😀" * 100, "ABC中文 " * 80]

    def words():
        return " ".join(rng.choice(ENGLISH) for _ in range(rng.randint(1, 8)))

    def cut(text, longest):
        begin = rng.randrange(len(text))
        return text[begin:begin + rng.randint(1, longest)]

    def atom():
        kind = rng.randrange(12)
        if kind < 3:
            return words()
        if kind < 5:
            return cut(CHINESE, 12)
        if kind == 5:
            return cut(JAPANESE, 10)
        if kind == 6:
            return rng.choice(EMOJI + OTHER)
        if kind == 7:
            return rng.choice(COMBINING + ZERO_WIDTH)
        if kind == 8:
            return str(rng.randrange(10 ** rng.randint(1, 12)))
        if kind == 9:
            return rng.choice(NEAR_TOKENS)
        if kind == 10:
            return "".join(chr(rng.randint(33, 126)) for _ in range(rng.randint(1, 12)))
        return chr(rng.choice([rng.randint(0xa1, 0x17f), rng.randint(0x400, 0x4ff), rng.randint(0x3041, 0x30ff),
                               rng.randint(0x4e00, 0x9fff), rng.randint(0x1f300, 0x1faff)]))

    while len(set(result)) < 1000:
        with_tokens = len(result) % 2 == 0
        parts = []
        for _ in range(rng.randint(1, 5)):
            parts.append(atom())
            if rng.random() < 0.5:
                parts.append(rng.choice(SPACES))
            if with_tokens and rng.random() < 0.7:
                parts.append(rng.choice(TOKENS))
                if rng.random() < 0.5:
                    parts.append(rng.choice(SPACES + TOKENS))
        if rng.random() < 0.2:
            parts.reverse()
        result.append("".join(parts))
    return list(dict.fromkeys(result))[:1000]


def broken_strings():
    """Bytes that are not UTF-8."""
    rng = random.Random(7)
    result = [b"\xff", b"\xc3", b"\xe4\xbd", b"\xf0\x9f\x98", b"\x80\x80", b"\xc0\xaf", b"\xed\xa0\x80",
              b"\xf4\x90\x80\x80", b"a\xffb", b"\xe4\xbd a", "你好".encode()[:-1], "你好".encode()[1:],
              b"\xe3\x80 \xe3\x80\x80", b"<s>\xff</s>", b"\xff<bot>\xfe"]
    while len(result) < 60:
        text = bytearray((rng.choice(ENGLISH) + rng.choice(EMOJI) + CHINESE[rng.randrange(60):][:6]).encode())
        for _ in range(rng.randint(1, 4)):
            text[rng.randrange(len(text))] = rng.randrange(256)
        if rng.random() < 0.5:
            del text[rng.randrange(len(text))]
        try:
            text.decode()
        except UnicodeDecodeError:
            result.append(bytes(text))
    return result


# ---- other folders: the same pieces, other JSON files -------------------------------------------
def token(content, **flags):
    return {"content": content, "lstrip": False, "normalized": True, "rstrip": False, "single_word": False, **flags}


def variants(pieces):
    """Folders whose JSON files spell tokens in the ways that are about, for the bundled pieces.
    Each is {file: document}; `both` says which rules can load it."""
    added = {"<bot>": pieces + 1, "<human>": pieces}
    typed = {"__type": "AddedToken"}
    decoder = {str(i): {**token(t), "special": True, "normalized": False}
               for i, t in enumerate(["<unk>", "<s>", "</s>"])}
    return {
        "no-json": {},
        "plain-strings": {"added_tokens.json": added,
                          "special_tokens_map.json": {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}},
        "objects": {"added_tokens.json": added,
                    "special_tokens_map.json": {"bos_token": token("<s>", rstrip=True), "unk_token": "<unk>",
                                                "eos_token": token("</s>", lstrip=True)}},
        "typed-config": {"added_tokens.json": added,
                         "tokenizer_config.json": {"tokenizer_class": "LlamaTokenizer", "add_eos_token": True,
                                                   "bos_token": {**typed, **token("<s>", lstrip=True, rstrip=True)},
                                                   "eos_token": {**typed, **token("</s>")}, "pad_token": None,
                                                   "unk_token": {**typed, **token("<unk>", rstrip=True)}}},
        "shared-pad": {"added_tokens.json": added,
                       "special_tokens_map.json": {"eos_token": token("</s>", rstrip=True), "pad_token": "</s>"}},
        "pad-added": {"added_tokens.json": {**added, "[PAD]": pieces + 2},
                      "special_tokens_map.json": {"pad_token": "[PAD]"}},
        "pad-unnumbered": {"added_tokens.json": added, "tokenizer_config.json": {
            "tokenizer_class": "LlamaTokenizer", "pad_token": "[PAD]"}},
        "additional": {"added_tokens.json": added, "special_tokens_map.json": {
            "additional_special_tokens": ["<bot>", token("<human>", lstrip=True)]}},
        "additional-unnumbered": {"special_tokens_map.json": {"additional_special_tokens": ["<bot>", "<human>"]}},
        "no-bos": {"added_tokens.json": added, "tokenizer_config.json": {
            "tokenizer_class": "LlamaTokenizer", "add_bos_token": False, "add_eos_token": True,
            "clean_up_tokenization_spaces": True}},
        "decoder": {"added_tokens.json": added, "tokenizer_config.json": {
            "tokenizer_class": "LlamaTokenizer", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>",
            "added_tokens_decoder": {**decoder, str(pieces): {**token("<human>", rstrip=True), "special": False},
                                     str(pieces + 1): {**token("<bot>", single_word=True), "special": False}}}},
        "decoder-special": {"added_tokens.json": added, "tokenizer_config.json": {
            "tokenizer_class": "LlamaTokenizer", "additional_special_tokens": ["<bot>", "<human>"],
            "added_tokens_decoder": {**decoder, str(pieces): {**token("<human>", lstrip=True), "special": True},
                                     str(pieces + 1): {**token("<bot>"), "special": True}}}},
    }


# Of these variants one rule is not defined by the reference: 4.33 does not know the decoder's flags.
ONLY_NEWER = {"decoder-special"}
VARIANT_STRINGS = [
    "", "a", "<human>:你好\n<bot>:", "<human>: a b \n <bot> : c ", "a <s> b", "a\n</s>\nb", " <unk> ", "a<unk>b",
    "<s><s>", "<s> </s>", " <s>  </s> ", "[PAD]a [PAD] b", "\u3000<bot>\u3000", "<bot><human>", "x <bot>", "<bot> x",
    "x<bot> y", "x <bot>y", "x <bot> y", "x<bot>y", "<bot>", "a </s><bot> </s> <human> b", "it 's , not . ok ?"]


# ---- the worker: runs in one version's environment ----------------------------------------------
def work(request):
    import sentencepiece
    import transformers
    from transformers import LlamaTokenizer
    transformers.logging.set_verbosity_error()
    reply = {"version": transformers.__version__}
    if "bytes" in request:
        sp = sentencepiece.SentencePieceProcessor()
        sp.Load(request["folder"] + "/tokenizer.model")
        reply["pieces"] = sp.get_piece_size()
        reply["ids"] = [sp.encode(base64.b64decode(b)) for b in request["bytes"]]
        return reply
    folder = request["folder"]
    tokenizer = LlamaTokenizer.from_pretrained(folder, **({"legacy": True} if request["legacy"] else {}))
    reply["bos"] = tokenizer.bos_token_id
    if "texts" in request:
        reply["ids"] = [tokenizer(t).input_ids for t in request["texts"]]
    if "decode" in request:
        reply["texts"] = [tokenizer.batch_decode([i])[0] for i in request["decode"]]
        reply["skipped"] = [tokenizer.batch_decode([i], skip_special_tokens=True)[0] for i in request["decode"]]
    return reply


class Workers:
    def __init__(self, directory):
        self.directory = directory

    def ask(self, version, **request):
        home = self.directory / VERSIONS[version]
        if not home.exists():
            subprocess.run([sys.executable, "-m", "venv", home], check=True)
            subprocess.run([home / "bin/pip", "install", "-q", f"transformers=={version}", *COMMON], check=True)
        request = {"legacy": version != "4.29.2", **request, "folder": str(request["folder"])}
        run = subprocess.run([home / "bin/python", __file__, "--worker"], input=json.dumps(request),
                             capture_output=True, text=True)
        if run.returncode != 0:
            sys.exit(f"{version}: {run.stderr}")
        reply = json.loads(run.stdout)
        assert reply["version"] == version, reply["version"]
        return reply


def encode_bytes(texts):
    return [base64.b64encode(t if isinstance(t, bytes) else t.encode()).decode() for t in texts]


def random_ids(rng, pieces, size):
    """Id sequences as a model might produce them: anything."""
    result = []
    for _ in range(120):
        special = [0, 1, 2, pieces, size - 1] if size > pieces else [0, 1, 2]
        result.append([rng.choice(special) if rng.random() < 0.25 else
                       rng.randint(3, 258) if rng.random() < 0.15 else rng.randrange(259, size)
                       for _ in range(rng.randint(1, 10))])
    return result


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=pathlib.Path, default=pathlib.Path(tempfile.gettempdir()) / "ziya-golden")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        json.dump(work(json.load(sys.stdin)), sys.stdout)
        return
    workers = Workers(options.work)
    texts, broken = strings(), broken_strings()
    assert len(texts) == 1000
    OUT.mkdir(parents=True, exist_ok=True)

    def write(name, document):
        path = OUT / name
        path.write_text(json.dumps(document, ensure_ascii=False, separators=(",", ":")) + "\n", encoding="utf-8")
        print(f"{path.relative_to(ROOT)}: {path.stat().st_size} bytes")

    write("strings.json", {"made_by": "tests/reference/tokenizer_golden.py", "texts": texts,
                           "broken": [b.hex() for b in broken]})
    for name, folder in TOKENIZERS.items():
        pure = workers.ask("4.29.2", folder=folder, bytes=encode_bytes(texts + broken))
        oldest = workers.ask("4.29.2", folder=folder, texts=texts)
        legacy = workers.ask("4.33.3", folder=folder, texts=texts)
        newer = workers.ask("4.36.2", folder=folder, texts=texts)
        assert oldest["ids"] == legacy["ids"], "4.29 and 4.33 disagree"
        pieces, size = pure["pieces"], pure["pieces"] + 2 * (folder / "added_tokens.json").exists()
        rng = random.Random(name)
        sequences = random_ids(rng, pieces, size)
        chosen = [i for i in range(1000) if any(t in texts[i] for t in TOKENS)][:150]
        decoded = workers.ask("4.29.2", folder=folder, decode=sequences + [legacy["ids"][i] for i in chosen])
        later = workers.ask("4.33.3", folder=folder, decode=sequences + [legacy["ids"][i] for i in chosen])
        differ = sum(a != b for a, b in zip(decoded["texts"], later["texts"]))
        print(f"{name}: 4.33 decodes {differ} of {len(decoded['texts'])} differently")
        n = len(texts)
        bos = [legacy["bos"]]
        write(f"{name}.json", {
            "versions": {"sentencepiece": "0.1.97", "legacy": "4.33.3", "newer": "4.36.2", "decode": "4.29.2"},
            "pieces": pieces, "model_bytes": (folder / "tokenizer.model").stat().st_size,
            "plain": pure["ids"][:n], "broken": pure["ids"][n:],
            # by index, where they differ from bos + plain, and from legacy
            "legacy": {str(i): ids for i, ids in enumerate(legacy["ids"]) if ids != bos + pure["ids"][i]},
            "newer": {str(i): ids for i, ids in enumerate(newer["ids"]) if ids != legacy["ids"][i]},
            "decode": {"ids": sequences, "strings": chosen, "texts": decoded["texts"],
                       "skipped": {str(i): t for i, t in enumerate(decoded["skipped"])
                                   if t != decoded["texts"][i]}}})

    tiny = TOKENIZERS["ziya-tiny"]
    pieces = json.loads((OUT / "ziya-tiny.json").read_text())["pieces"]
    cases = []
    for name, files in variants(pieces).items():
        with tempfile.TemporaryDirectory() as scratch:
            folder = pathlib.Path(scratch) / "llama"
            folder.mkdir()
            shutil.copy(tiny / "tokenizer.model", folder)
            for file, document in files.items():
                (folder / file).write_text(json.dumps(document))
            case = {"name": name, "files": files}
            if name not in ONLY_NEWER:
                case["legacy"] = workers.ask("4.33.3", folder=folder, texts=VARIANT_STRINGS)["ids"]
                case["decoded"] = workers.ask("4.29.2", folder=folder, decode=case["legacy"])["texts"]
            case["newer"] = workers.ask("4.36.2", folder=folder, texts=VARIANT_STRINGS)["ids"]
            cases.append(case)
    write("variants.json", {"texts": VARIANT_STRINGS, "cases": cases})


if __name__ == "__main__":
    main()
