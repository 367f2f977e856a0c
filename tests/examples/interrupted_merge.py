# SPDX-License-Identifier: Apache-2.0
"""Merges that are ended at random points: killed, terminated, with a bad byte in a finished shard.

usage: interrupted_merge.py PROGRAM EXAMPLES [--points N] [--seed S]

Two pairs: ziya-tiny, and a synthetic one of 24 shards. Whatever happens, nothing is under the
target's name before it is whole, an earlier target and the inputs keep their bytes, and a run with
--resume gives the bytes of a run that nobody disturbed.
"""
import argparse
import hashlib
import json
import pathlib
import random
import shutil
import signal
import struct
import subprocess
import tempfile
import time


def tree(folder):
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest()
            for p in sorted(folder.rglob("*")) if p.is_file()}


def write_safetensors(path, tensors):
    header, offset = {}, 0
    for name, (shape, data) in tensors.items():
        header[name] = {"dtype": "F16", "shape": shape, "data_offsets": [offset, offset + len(data)]}
        offset += len(data)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(struct.pack("<Q", len(text)) + text + b"".join(d for _, d in tensors.values()))


def synthetic(folder, rng, layers=46, hidden=512):
    """A base and a delta of random halves of small exponents, in one file each."""
    def halves(count, exponent):
        bits = rng.randbytes(2 * count)
        return bytes(b if i % 2 == 0 else (b & 0x83) | exponent << 2 for i, b in enumerate(bits))
    matrix = halves(hidden * hidden, 9)
    small = halves(hidden * hidden, 3)
    one = struct.pack("<e", 1.5) * hidden
    zero = struct.pack("<e", 0.001) * hidden
    for name, data, norm in [("base", matrix, one), ("delta", small, zero)]:
        (folder / name).mkdir()
        tensors = {"model.embed_tokens.weight": ([hidden, hidden], matrix)}
        for i in range(layers):
            shift = 64 * i
            tensors[f"model.layers.{i}.mlp.up_proj.weight"] = (
                [hidden, hidden], data[shift:] + data[:shift])
        tensors["model.norm.weight"] = ([hidden], norm)
        write_safetensors(folder / name / "model.safetensors", tensors)
        (folder / name / "config.json").write_text("{}")


class Case:
    def __init__(self, program, base, delta, folder, shard, rng):
        self.program, self.rng, self.folder = program, rng, folder
        self.target = folder / "target"
        self.command = [program, "merge-delta", "--base", base, "--delta", delta, "--target",
                        self.target, "--max-shard-size", shard, "--no-check"]
        self.inputs = [(path, tree(path)) for path in (base, delta)]
        begin = time.monotonic()
        self.run()
        self.seconds = time.monotonic() - begin
        self.expected = tree(self.target)
        shutil.rmtree(self.target)

    def run(self, *options, check=True):
        return subprocess.run([*self.command, *options], stderr=subprocess.PIPE, text=True,
                              check=check)

    def end_at_random(self, how, *options):
        """Ends a merge somewhere; True when it was quicker than that."""
        process = subprocess.Popen([*self.command, *options], stderr=subprocess.DEVNULL)
        time.sleep(self.rng.uniform(0, self.seconds * 1.1))
        process.send_signal(how)
        return process.wait() == 0

    def check(self):
        for path, before in self.inputs:
            assert tree(path) == before, f"{path} has changed"
        left = {p.name for p in self.folder.iterdir()}
        assert left <= {"target", "target.partial", "base", "delta"}, left

    def point(self, how):
        overwrite = self.rng.random() < 0.3
        options = ["--overwrite"] if overwrite else []
        if overwrite:  # an earlier target, which must stay whole until it is replaced
            self.run()
            (self.target / "README.md").write_text("the earlier one")
            earlier = tree(self.target)
        while not self.end_at_random(how, *options, "--resume"):
            if overwrite and tree(self.target) not in (earlier, self.expected):
                raise AssertionError("the earlier target has changed")
            assert overwrite or not self.target.exists() or tree(self.target) == self.expected
            self.check()
            damaged = self.damage() if self.rng.random() < 0.3 else False
            if self.rng.random() < 0.5 or damaged:
                if self.target.exists() and tree(self.target) == self.expected:
                    break
                self.run(*options, "--resume")
                break
        assert tree(self.target) == self.expected, "the bytes differ after resuming"
        self.check()
        shutil.rmtree(self.target)
        shutil.rmtree(self.folder / "target.partial", ignore_errors=True)

    def damage(self):
        """Flips a byte in the middle of a shard that is finished."""
        shards = sorted((self.folder / "target.partial").glob("*.safetensors"))
        if not shards:
            return False
        shard = self.rng.choice(shards)
        data = bytearray(shard.read_bytes())
        data[len(data) * 3 // 4] ^= 0x40
        shard.write_bytes(data)
        return True


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("program", type=pathlib.Path)
    parser.add_argument("examples", type=pathlib.Path)
    parser.add_argument("--points", type=int, default=6)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    rng = random.Random(options.seed)
    with tempfile.TemporaryDirectory(prefix="ziya-interrupted-") as name:
        folder = pathlib.Path(name)
        tiny, made = folder / "tiny", folder / "made"
        tiny.mkdir(), made.mkdir()
        synthetic(made, rng)
        source = options.examples / "ziya-tiny"
        cases = [Case(options.program, source / "base", source / "delta", tiny, "1MB", rng),
                 Case(options.program, made / "base", made / "delta", made, "1MB", rng)]
        print("shards:", [sum(f.endswith(".safetensors") for f in c.expected) for c in cases])
        for i in range(options.points):
            how = [signal.SIGKILL, signal.SIGKILL, signal.SIGTERM][i % 3]
            cases[i % 2].point(how)
        print(options.points, "points passed")


if __name__ == "__main__":
    main()
