# SPDX-License-Identifier: Apache-2.0
"""A merge of real bytes in the layout of LLaMA-13B: time, memory, plain copies and the reference way.

usage: merge_compare.py PROGRAM FOLDER [--layers N] [--merges N] [--reference PYTHON] [--sparse] [--check]
       merge_compare.py PROGRAM FOLDER --prepare [--layers N]    writes the inputs for a later run

Writes a base and a delta of N layers (635 MB each, and 655 MB of embedding and head) of random
halves into FOLDER, merges them under prlimit --data=536870912 with a cold page cache (every file is
dropped from it with posix_fadvise), samples the process's anonymous memory (smaps_rollup) at least 10
times a second, and compares with plain reads of both inputs and a write of the target with fsync,
buffers of 8 MB. Plain copies and merges take turns, --merges of them and plain copies before and
after each, because a shared machine's disk changes within a minute; each merge is compared with the
mean of its two neighbours.
With --sparse the files are holes of the full 40 layers: for memory.
With --reference, PYTHON (which has torch) loads both, adds and saves, as the reference does.
Everything is removed in the end.
"""
import argparse
import json
import os
import pathlib
import random
import shutil
import statistics
import struct
import subprocess
import sys
import threading
import time

from llama_tensors import beginning, bytes_of, tensors

BUFFER = 8 << 20
REFERENCE = """
import json, pathlib, sys, torch
from safetensors.torch import load_file, save_file
base, delta, target = map(pathlib.Path, sys.argv[1:])
target.mkdir()
def load(folder):
    tensors = {}
    for file in sorted(folder.glob("*.safetensors")):
        tensors.update(load_file(file))
    return tensors
a, b = load(base), load(delta)
for name in b:
    if not any(part in name for part in ("embed_tokens", "lm_head.weight", "inv_freq")):
        b[name] += a[name]
shard, size, number = {}, 0, 0
def flush():
    global shard, size, number
    number += 1
    save_file(shard, target / f"model-{number:05}.safetensors")
    shard, size = {}, 0
for name, tensor in b.items():
    if size + tensor.nbytes > 4e9: flush()
    shard[name] = tensor
    size += tensor.nbytes
flush()
import os
for file in target.glob("*"):
    with open(file) as opened: os.fsync(opened.fileno())
"""


def random_halves(exponent, size=64 << 20):
    """Bytes of halves of random signs and fractions, from 2^(exponent - 15) to twice that."""
    block = bytearray(random.Random(exponent).randbytes(size))
    block[1::2] = bytes(b & 0x83 | exponent << 2 for b in block[1::2])
    return block


HIDDEN, INTERMEDIATE = 5120, 13824
TOKENIZER = pathlib.Path(__file__).resolve().parent.parent / "examples/ziya-tiny/delta"
WHOLE = 9  # exponent of a base's weights, and of the embedding and head that a delta holds whole


def write_model(folder, layers, vocabulary, norm, exponent, sparse, shard_bytes=4_000_000_000):
    """Random halves, the same in every embedding and head; holes when sparse."""
    folder.mkdir()
    whole, block = random_halves(WHOLE), random_halves(exponent)
    shards, filled = [{}], 0
    for name, shape in tensors(layers, HIDDEN, INTERMEDIATE, vocabulary):
        if filled + bytes_of(shape) > shard_bytes:
            shards.append({})
            filled = 0
        shards[-1][name] = shape
        filled += bytes_of(shape)
    weight_map = {}
    for number, shard in enumerate(shards, 1):
        file = f"model-{number:05}-of-{len(shards):05}.safetensors"
        with open(folder / file, "wb") as out:
            out.write(beginning(shard))
            for name, shape in shard.items():
                weight_map[name] = file
                count = bytes_of(shape)
                if len(shape) == 1:
                    out.write(struct.pack("<e", norm) * shape[0])
                elif sparse:
                    out.seek(count, os.SEEK_CUR)
                else:
                    halves = block if ".layers." in name else whole
                    for begin in range(0, count, len(halves)):
                        out.write(halves[:min(len(halves), count - begin)])
            out.truncate()
            out.flush()
            os.fsync(out.fileno())
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    # Every id of the miniature's tokenizer is one of this vocabulary too: enough for a forward pass.
    for name in ("tokenizer.model", "tokenizer_config.json", "added_tokens.json"):
        shutil.copy(TOKENIZER / name, folder)
    (folder / "config.json").write_text(json.dumps({
        "model_type": "llama", "hidden_size": HIDDEN, "intermediate_size": INTERMEDIATE,
        "num_attention_heads": 40, "rms_norm_eps": 1e-6, "vocab_size": 39424,
        "num_hidden_layers": layers}))


def files(folder):
    return sorted(folder.glob("*.safetensors"))


def drop_cache(*folders):
    for folder in folders:
        for file in files(folder):
            with open(file, "rb") as opened:
                os.fsync(opened.fileno())
                os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def read(folder):
    begin, total, buffer = time.monotonic(), 0, bytearray(BUFFER)
    for file in files(folder):
        with open(file, "rb", buffering=0) as opened:
            while count := opened.readinto(buffer):
                total += count
    return total, time.monotonic() - begin


def write(path, total):
    data = random.Random(0).randbytes(BUFFER)
    begin = time.monotonic()
    with open(path, "wb", buffering=0) as out:
        for at in range(0, total, BUFFER):
            out.write(data[:min(BUFFER, total - at)])
        os.fsync(out.fileno())
    seconds = time.monotonic() - begin
    path.unlink()
    return seconds


def plain(base, delta, folder, size):
    """Seconds of reading both inputs from a cold cache and writing as much as the target."""
    drop_cache(base, delta)
    total, seconds = 0, 0.0
    for source in (base, delta):
        count, part = read(source)
        total, seconds = total + count, seconds + part
    written = write(folder / "plain", size)
    print(f"plain: reads of {total / 1e9:.2f} GB {seconds:.1f} s, write with fsync of "
          f"{size / 1e9:.2f} GB {written:.1f} s", flush=True)
    return seconds + written


def run(command):
    """Seconds, and the largest anonymous and private memory of the process, in bytes."""
    begin = time.monotonic()
    process = subprocess.Popen([str(word) for word in command])
    peak, samples = 0, 0

    def sample():
        nonlocal peak, samples
        while process.poll() is None:
            try:
                text = pathlib.Path(f"/proc/{process.pid}/smaps_rollup").read_text()
            except OSError:
                break
            for line in text.splitlines():
                if line.startswith("Anonymous:"):
                    peak = max(peak, int(line.split()[1]) * 1024)
            samples += 1
            time.sleep(0.05)
    sampler = threading.Thread(target=sample)
    sampler.start()
    status = process.wait()
    seconds = time.monotonic() - begin
    sampler.join()
    if status != 0:
        sys.exit(f"{command[0]} failed with {status}")
    return seconds, peak, samples


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("program", type=pathlib.Path)
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("--layers", type=int, default=15)
    parser.add_argument("--merges", type=int, default=1)
    parser.add_argument("--reference", type=pathlib.Path)
    parser.add_argument("--sparse", action="store_true")
    parser.add_argument("--prepare", action="store_true", help="only write base and delta")
    parser.add_argument("--check", action="store_true", help="with the checks of merge-delta")
    options = parser.parse_args()
    layers = 40 if options.sparse else options.layers
    folder = options.folder / "merge-compare"
    base, delta, target = folder / "base", folder / "delta", folder / "target"
    if not folder.exists():
        folder.mkdir()
        write_model(base, layers, 32000, 1.0, WHOLE, options.sparse)
        write_model(delta, layers, 39424, 0.001, 3, options.sparse)
    if options.prepare:
        return
    try:
        size = sum(file.stat().st_size for file in files(delta))
        command = ["prlimit", "--data=536870912", options.program, "merge-delta", "--base", base,
                   "--delta", delta, "--target", target] + ([] if options.check else ["--no-check"])
        around, merges, peak = [], [], 0
        for _ in range(options.merges):
            if not options.sparse:
                around.append(plain(base, delta, folder, size))
            drop_cache(base, delta)
            seconds, anonymous, samples = run(command)
            merges.append(seconds)
            peak = max(peak, anonymous)
            print(f"ziya: {size / 1e9:.2f} GB in {seconds:.1f} s, anonymous memory at most "
                  f"{anonymous / 1e6:.0f} MB in {samples} samples ({samples / seconds:.0f} per second)",
                  flush=True)
            shutil.rmtree(target)
        if options.sparse:
            return
        around.append(plain(base, delta, folder, size))
        ratios = [(before + after) / 2 / merge
                  for before, merge, after in zip(around, merges, around[1:])]
        print("plain / ziya = " + ", ".join(f"{ratio:.2f}" for ratio in ratios) +
              f"; median {statistics.median(ratios):.2f}", flush=True)
        if options.reference:
            drop_cache(base, delta)
            slow, memory, _ = run([options.reference, "-c", REFERENCE, base, delta, target])
            print(f"reference: {slow:.1f} s ({slow / statistics.median(merges):.1f} times), anonymous memory "
                  f"{memory / 1e6:.0f} MB ({memory / peak:.0f} times)", flush=True)
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
