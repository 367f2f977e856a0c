#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Widens ziya-tiny with intermediate columns of zeros: the same function, any size.

    python3 tests/reference/widen_ziya_tiny.py --model examples/ziya-tiny --output DIR \\
        --gigabytes 1.1 --dtype f16

Reads the published base and delta (merging them by the reference rule) or a merged directory.
Needs numpy (1.24 or later) only.
"""

import argparse
import json
import math
import pickle
import shutil
import zipfile
from pathlib import Path

import numpy

NUMPY_TYPES = {"F32": numpy.dtype("<f4"), "F16": numpy.dtype("<f2"), "BF16": numpy.dtype("<u2")}
TORCH_DTYPES = {"f32": "float32", "f16": "float16", "bf16": "bfloat16"}
COPIED = ("embed_tokens", "lm_head.weight")
STEP = 256  # every quantised format divides rows of this many columns
COMPANIONS = ("tokenizer.model", "added_tokens.json", "tokenizer_config.json",
              "special_tokens_map.json", "generation_config.json")


def bf16_to_f32(bits):
    return (bits.astype(numpy.uint32) << 16).view(numpy.float32)


def f32_to_bf16(values):
    """Rounded to nearest even; the weights are finite."""
    bits = values.astype(numpy.float32).view(numpy.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(numpy.uint16)


def read_safetensors(path):
    content = path.read_bytes()
    length = int.from_bytes(content[:8], "little")
    header, data = json.loads(content[8:8 + length]), content[8 + length:]
    tensors = {}
    for name, entry in header.items():
        if name != "__metadata__":
            begin, end = entry["data_offsets"]
            array = numpy.frombuffer(data[begin:end], NUMPY_TYPES[entry["dtype"]])
            array = bf16_to_f32(array) if entry["dtype"] == "BF16" else array
            tensors[name] = array.reshape(entry["shape"])
    return tensors


class TensorUnpickler(pickle.Unpickler):
    """Reads torch.save's zip format: contiguous half and float tensors, nothing else."""

    def __init__(self, archive, root):
        super().__init__(archive.open(f"{root}/data.pkl"))
        self.archive, self.root = archive, root

    def find_class(self, module, name):
        known = {("collections", "OrderedDict"): dict,
                 ("torch", "HalfStorage"): NUMPY_TYPES["F16"],
                 ("torch", "FloatStorage"): NUMPY_TYPES["F32"],
                 ("torch._utils", "_rebuild_tensor_v2"): self.rebuild}
        if (module, name) not in known:
            raise pickle.UnpicklingError(f"{module}.{name} is not a tensor")
        return known[module, name]

    def persistent_load(self, identity):
        _, dtype, key, _, _ = identity
        return numpy.frombuffer(self.archive.read(f"{self.root}/data/{key}"), dtype)

    @staticmethod
    def rebuild(storage, offset, shape, stride, *_):
        count = math.prod(shape)
        strides = [step * storage.itemsize for step in stride]
        array = storage[offset:offset + count].reshape(shape)
        if list(array.strides) != strides:
            raise pickle.UnpicklingError("a tensor is not contiguous")
        return array


def read_pytorch(path):
    with zipfile.ZipFile(path) as archive:
        root = archive.namelist()[0].split("/")[0]
        return TensorUnpickler(archive, root).load()


def read_weights(folder):
    tensors = {}
    for path in sorted(folder.glob("*.safetensors")):
        tensors.update(read_safetensors(path))
    for path in sorted(folder.glob("*.bin")):
        tensors.update(read_pytorch(path))
    if not tensors:
        raise SystemExit(f"{folder}: no weights found (*.safetensors or *.bin)")
    return {name: tensor for name, tensor in tensors.items() if not name.endswith("inv_freq")}


def merge(base, delta):
    """target = base + delta, rounded once to fp16; embedding and head are the delta's."""
    return {name: tensor if any(part in name for part in COPIED)
            else (base[name].astype(numpy.float32) + tensor.astype(numpy.float32))
            .astype(numpy.float16)
            for name, tensor in delta.items()}


def read_model(folder):
    """(weights, folder of tokenizer and configs)"""
    if (folder / "delta").is_dir():
        merged = merge(read_weights(folder / "base"), read_weights(folder / "delta"))
        return merged, folder / "delta"
    return read_weights(folder), folder


def intermediate_size_for(weights, layers, gigabytes, item_size):
    """The smallest multiple of STEP that makes the checkpoint at least so large."""
    others = sum(tensor.size for name, tensor in weights.items() if ".mlp." not in name)
    hidden = weights["model.norm.weight"].size
    missing = gigabytes * 1e9 / item_size - others
    return max(STEP, STEP * math.ceil(missing / (3 * layers * hidden * STEP)))


def widen(name, tensor, intermediate):
    """Rows of zeros below gate and up, columns of zeros right of down."""
    missing = intermediate - tensor.shape[1 if "down_proj" in name else 0]
    if "gate_proj" in name or "up_proj" in name:
        return numpy.pad(tensor, ((0, missing), (0, 0)))
    if "down_proj" in name:
        return numpy.pad(tensor, ((0, 0), (0, missing)))
    return tensor


def stored(tensor, dtype):
    if dtype == "bf16":
        return f32_to_bf16(tensor)
    return tensor.astype(NUMPY_TYPES[dtype.upper()])


def write_safetensors(path, shapes, make_tensor, dtype):
    """Writes tensor by tensor, so that one tensor at a time is in memory."""
    item_size, offset = NUMPY_TYPES[dtype.upper()].itemsize, 0
    header = {"__metadata__": {"format": "pt"}}
    for name, shape in shapes.items():
        end = offset + math.prod(shape) * item_size
        header[name] = {"dtype": dtype.upper(), "shape": shape, "data_offsets": [offset, end]}
        offset = end
    encoded = json.dumps(header).encode()
    encoded += b" " * (-len(encoded) % 8)
    partial = path.with_suffix(".partial")
    with partial.open("wb") as file:
        file.write(len(encoded).to_bytes(8, "little") + encoded)
        for name in shapes:
            file.write(numpy.ascontiguousarray(make_tensor(name)).tobytes())
    partial.rename(path)
    return offset


def write_model(output, weights, companions, intermediate, dtype):
    output.mkdir(parents=True, exist_ok=True)
    for name in COMPANIONS:
        if (companions / name).exists():
            shutil.copyfile(companions / name, output / name)
    config = json.loads((companions / "config.json").read_text(encoding="utf-8"))
    config.update(intermediate_size=intermediate, torch_dtype=TORCH_DTYPES[dtype])
    (output / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")

    def shape(name, tensor):
        width = {"gate_proj": [intermediate, tensor.shape[-1]],
                 "up_proj": [intermediate, tensor.shape[-1]],
                 "down_proj": [tensor.shape[0], intermediate]}
        return next((s for part, s in width.items() if part in name), list(tensor.shape))

    return write_safetensors(
        output / "model.safetensors", {name: shape(name, t) for name, t in weights.items()},
        lambda name: widen(name, stored(weights[name], dtype), intermediate), dtype)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, default=Path("examples/ziya-tiny"),
                        help="a merged directory, or one with base/ and delta/")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--gigabytes", type=float, default=1.1,
                        help="at least this size, in 10^9 bytes")
    parser.add_argument("--dtype", choices=TORCH_DTYPES, default="f16")
    arguments = parser.parse_args()

    weights, companions = read_model(arguments.model)
    layers = sum(name.endswith("mlp.gate_proj.weight") for name in weights)
    present = weights["model.layers.0.mlp.gate_proj.weight"].shape[0]
    item_size = NUMPY_TYPES[arguments.dtype.upper()].itemsize
    wanted = intermediate_size_for(weights, layers, arguments.gigabytes, item_size)
    intermediate = max(present, wanted)
    size = write_model(arguments.output, weights, companions, intermediate, arguments.dtype)
    print(f"{arguments.output}: intermediate size {intermediate}, "
          f"{size / 1e9:.3f} GB {arguments.dtype}")


if __name__ == "__main__":
    main()
