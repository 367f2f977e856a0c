# SPDX-License-Identifier: Apache-2.0
"""Merges and conversions ended at random points: killed, terminated, with a bad byte in what is done.

usage: interrupted_merge.py PROGRAM EXAMPLES [--points N] [--seed S]

Two pairs: ziya-tiny, and a synthetic one of 24 shards. They are merged to safetensors, to .bin and
to quantised and plain GGUF files, from Meta's layout too, a delta is made, an adapter merged, and
ziya-tiny's base is converted and quantised: every kind of output. Whatever happens,
nothing is under the target's name before it is whole, an earlier target and the inputs keep their
bytes, and a run with --resume, on any number of threads, gives the bytes of a run that nobody
disturbed.
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
    if folder.is_file():
        return {"": hashlib.sha256(folder.read_bytes()).hexdigest()}
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


def write_adapter(folder, config):
    """A low-rank update of every layer's values."""
    width, layers = config["hidden_size"], config["num_hidden_layers"]
    folder.mkdir()
    write_safetensors(folder / "adapter_model.safetensors", {
        f"base_model.model.model.layers.{i}.self_attn.v_proj.lora_{part}.weight": (
            shape, struct.pack("<e", 0.125) * width)
        for i in range(layers) for part, shape in [("A", [1, width]), ("B", [width, 1])]})
    (folder / "adapter_config.json").write_text(
        json.dumps({"peft_type": "LORA", "r": 1, "lora_alpha": 1, "target_modules": ["v_proj"]}))


def remove(path):
    shutil.rmtree(path) if path.is_dir() else path.unlink()


class Case:
    def __init__(self, rng, inputs, target, *command):
        self.rng, self.target, self.partial = rng, target, pathlib.Path(f"{target}.partial")
        target.parent.mkdir(exist_ok=True)
        self.command = [*command, target]
        self.inputs = [(path, tree(path)) for path in inputs]
        self.went_on = 0
        begin = time.monotonic()
        self.run()
        self.seconds = time.monotonic() - begin
        self.expected = tree(self.target)
        remove(self.target)

    def run(self, *options):
        subprocess.run([*self.command, *options], stdout=subprocess.DEVNULL,
                       stderr=subprocess.PIPE, text=True, check=True)

    def end_at_random(self, how, *options):
        """Ends a merge somewhere; True when it was quicker than that."""
        process = subprocess.Popen([*self.command, *options], stdout=subprocess.DEVNULL,
                                   stderr=subprocess.DEVNULL)
        time.sleep(self.rng.uniform(0, self.seconds * 1.1))
        process.send_signal(how)
        return process.wait() == 0

    def check(self):
        for path, before in self.inputs:
            assert tree(path) == before, f"{path} has changed"
        left = set(self.target.parent.iterdir())
        assert left <= {self.target, self.partial}, left

    def point(self, how):
        overwrite = self.rng.random() < 0.3
        options = ["--overwrite"] if overwrite else []
        if overwrite:  # an earlier target, which must stay whole until it is replaced
            self.run()
            if self.target.is_dir():
                (self.target / "README.md").write_text("the earlier one")
            else:
                self.target.write_bytes(b"the earlier one")
            earlier = tree(self.target)
        options += ["--threads", str(self.rng.randint(1, 5))]
        while not self.end_at_random(how, *options, "--resume"):
            if overwrite and tree(self.target) not in (earlier, self.expected):
                raise AssertionError("the earlier target has changed")
            assert overwrite or not self.target.exists() or tree(self.target) == self.expected
            self.check()
            damaged = self.damage() if self.rng.random() < 0.3 else False
            if self.rng.random() < 0.5 or damaged:
                if self.target.exists() and tree(self.target) == self.expected:
                    break
                self.went_on += self.partial.exists() and len(list(self.partial.iterdir())) > 1
                self.run(*options, "--resume")
                break
        assert tree(self.target) == self.expected, "the bytes differ after resuming"
        self.check()
        remove(self.target)
        shutil.rmtree(self.partial, ignore_errors=True)

    def damage(self):
        """Flips a byte in the middle of a file that is finished, or of the one file that grows."""
        shards = sorted(path for ending in ("safetensors", "bin", "gguf")
                        for path in self.partial.glob(f"*.{ending}") if path.stat().st_size > 4)
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
    parser.add_argument("--points", type=int, default=13)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    rng = random.Random(options.seed)
    with tempfile.TemporaryDirectory(prefix="ziya-interrupted-") as name:
        folder = pathlib.Path(name)
        synthetic(folder, rng)
        source, made = options.examples / "ziya-tiny", (folder / "base", folder / "delta")
        tiny = (source / "base", source / "delta")
        meta, merged, adapter = source / "llama/3M", folder / "merged", folder / "adapter"
        write_adapter(adapter, json.loads((tiny[0] / "config.json").read_text()))
        subprocess.run([options.program, "merge-delta", "--no-check", "--base", tiny[0], "--delta",
                        tiny[1], "--target", merged], stderr=subprocess.DEVNULL, check=True)

        def case(inputs, target, *command):
            return Case(rng, inputs, folder / target / target, options.program, *command)

        def merge(pair, target, *more):
            return case(pair, target, "merge-delta", "--base", pair[0], "--delta", pair[1],
                        "--no-check", *more, "--target")
        cases = [merge(tiny, "tiny", "--max-shard-size", "1MB"),
                 merge(made, "made", "--max-shard-size", "1MB"),
                 merge(tiny, "tiny.gguf", "--type", "f16"),
                 merge(made, "bin", "--max-shard-size", "1MB", "--format", "bin"),
                 merge(tiny, "tiny-q4.gguf", "--type", "q4_k_m"),
                 case(tiny[:1], "quantised.gguf", "quantize", tiny[0], "--type", "q6_k",
                      "--output"),
                 case(tiny[:1], "converted", "convert", "--input", tiny[0], "--type", "f32",
                      "--max-shard-size", "1MB", "--output"),
                 case(tiny[:1], "converted.gguf", "convert", "--input", tiny[0], "--type", "f32",
                      "--output"),
                 case(tiny[:1], "fengshen", "convert", "--input", tiny[0], "--to", "fengshen",
                      "--parts", "2", "--max-shard-size", "1MB", "--output"),
                 merge((meta, tiny[1]), "meta-q8.gguf", "--type", "q8_0"),
                 case((meta,), "hf", "convert", "--input", meta, "--max-shard-size", "1MB",
                      "--output"),
                 case((tiny[0], merged), "made-delta", "make-delta", "--base", tiny[0], "--target",
                      merged, "--max-shard-size", "1MB", "--delta"),
                 case((tiny[0], adapter), "adapted", "merge-lora", "--base", tiny[0], "--adapter",
                      adapter, "--max-shard-size", "1MB", "--output")]
        print("files:", [len(c.expected) for c in cases])
        for i in range(options.points):
            how = rng.choice([signal.SIGKILL, signal.SIGKILL, signal.SIGTERM])
            cases[i % len(cases)].point(how)
        print(options.points, "points passed,", sum(c.went_on for c in cases),
              "times with something to go on from")


if __name__ == "__main__":
    main()
