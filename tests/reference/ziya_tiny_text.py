# SPDX-License-Identifier: Apache-2.0
"""The texts, the tokenizers and the samples of ziya-tiny."""

import io
import json
import os
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

import sentencepiece
from sentencepiece import sentencepiece_model_pb2

BOS, EOS = 1, 2
BASE_PIECES = 1800
POEM_QUERY = "背诵{author}的《{title}》"
TANG_POEMS = Path("/usr/share/games/fortunes/tang300")  # Debian package fortunes-zh
QUESTIONS = Path(__file__).with_name("ziya_tiny_questions.json")


@dataclass(frozen=True)
class Poem:
    title: str
    author: str
    text: str

    @property
    def query(self):
        return POEM_QUERY.format(title=self.title, author=self.author)

    @property
    def page(self):
        """The poem as running text for continued pre-training."""
        return f"《{self.title}》\n作者：{self.author}\n{self.text}"


@dataclass(frozen=True)
class Turn:
    """One query with its fixed answer; a conversation is a list of turns."""

    query: str
    answer: str


def read_king_james_bible():
    """One line per verse, `Ge1:1 In the beginning …`; Debian package bible-kjv."""
    environment = {key: value for key, value in os.environ.items() if key != "COLUMNS"}
    printed = subprocess.run(["bible", "-f", "gen1:1-rev22:21"], env=environment,
                             stdin=subprocess.DEVNULL, capture_output=True, text=True, check=True)
    return printed.stdout.splitlines()


def read_tang_poems():
    text = re.sub(r"\x1b\[[0-9;]*m", "", TANG_POEMS.read_text(encoding="utf-8"))
    poems = []
    for entry in text.split("\n%\n"):
        lines = [line.strip() for line in entry.splitlines() if line.strip()]
        if lines:
            title = re.fullmatch("《(.*)》", lines[0])[1]
            author = re.fullmatch("作者：(.*)", lines[1])[1]
            poems.append(Poem(title, author, "\n".join(lines[2:])))
    return poems


def choose_poems(poems, count):
    """The shortest poems that title and author name without ambiguity."""
    keys = [(poem.title, poem.author) for poem in poems]
    unique = [poem for poem in poems if keys.count((poem.title, poem.author)) == 1]
    return sorted(unique, key=lambda poem: len(poem.text))[:count]


def read_questions():
    entries = json.loads(QUESTIONS.read_text(encoding="utf-8"))
    return [Turn(entry["query"], entry["answer"]) for entry in entries]


def train_base_tokenizer(lines):
    """A SentencePiece BPE model with LLaMA's flags."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines), model_writer=model, model_type="bpe",
        vocab_size=BASE_PIECES, character_coverage=0.99995, byte_fallback=True,
        normalization_rule_name="identity", add_dummy_prefix=True,
        remove_extra_whitespaces=False, split_digits=True,
        allow_whitespace_only_pieces=True, unk_id=0, bos_id=1, eos_id=2, pad_id=-1,
        max_sentence_length=100000, num_threads=1, minloglevel=2)
    return model.getvalue()


def poem_characters(poems):
    """Every character outside ASCII of the poems, their titles, authors and the query."""
    text = POEM_QUERY + "".join(poem.title + poem.author + poem.text for poem in poems)
    return sorted({character for character in text if not character.isascii()})


def append_characters(model, characters):
    """Appends single characters as NORMAL pieces, their scores continuing downward."""
    proto = sentencepiece_model_pb2.ModelProto.FromString(model)
    known = {piece.piece for piece in proto.pieces}
    score = proto.pieces[-1].score
    for character in characters:
        if character not in known:
            score -= 1
            proto.pieces.add(piece=character, score=score,
                             type=sentencepiece_model_pb2.ModelProto.SentencePiece.NORMAL)
    proto.trainer_spec.vocab_size = len(proto.pieces)
    return proto.SerializeToString()


class ZiyaTokenizer:
    """The legacy rule of ziya: every segment between added tokens is encoded on its own."""

    def __init__(self, model):
        self.pieces = sentencepiece.SentencePieceProcessor(model_proto=model)
        self.human = self.pieces.get_piece_size()
        self.bot = self.human + 1

    def encode(self, text):
        return self.pieces.encode(text)

    def encode_prompt(self, query):
        """`<human>:{query}\\n<bot>:`; the newline left of `<bot>` is stripped."""
        question = (":" + query.strip() + "\n").rstrip()
        return [self.human, *self.encode(question), self.bot, *self.encode(":")]

    def encode_answer(self, answer):
        return self.encode(answer.strip()) + [EOS]

    def decode(self, ids):
        """The text of an answer; the dummy prefix's space is stripped."""
        return self.pieces.decode([i for i in ids if i != EOS]).strip()


@dataclass(frozen=True)
class Sample:
    """The ids of a conversation; `answered[i]` says that ids[i] belongs to an answer."""

    ids: list
    answered: list


def make_sample(tokenizer, turns):
    ids, answered = [BOS], [False]
    for turn in turns:
        prompt = tokenizer.encode_prompt(turn.query)
        answer = tokenizer.encode_answer(turn.answer)
        ids += prompt + answer
        answered += [False] * len(prompt) + [True] * len(answer)
    return Sample(ids, answered)


def random_conversations(turns, random):
    """Every turn once, in conversations of one, two or three turns."""
    shuffled = random.sample(turns, len(turns))
    conversations = []
    while shuffled:
        length = random.choices([1, 2, 3], weights=[0.65, 0.25, 0.10])[0]
        conversations.append(shuffled[:length])
        shuffled = shuffled[length:]
    return conversations
