#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""What llama.cpp's own quantisers leave as mean squared error, per type and data:
tests/data/golden/quantise/mse.json.

    python quantise_golden.py SHARED_DATA      with llama-cpp-python 0.3.36, numpy 2.4.6,
                                               safetensors 0.8.0, gguf 0.17.1

Made-up data: 2^20 values for each of four distributions from the library's own Philox streams
(ziya::Random, seed 7), written out below so that the test makes the same ones. Real data: the
matrices of ziya-tiny's base and of stories260K, in the order of their names, as one row.
"""
import ctypes
import json
import pathlib
import sys

import gguf
import llama_cpp
import numpy as np
from safetensors.numpy import load_file

HERE = pathlib.Path(__file__).resolve().parent
COUNT = 1 << 20
TYPES = ["Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "IQ4_NL"]


def uniforms(first, count, seed=7):
    """ziya::Random{seed, first}: uniform() `count` times."""
    position = np.arange(first, first + count, dtype=np.uint64)
    mask = np.uint64(0xFFFFFFFF)
    counter = [position & mask, position >> np.uint64(32), np.zeros_like(position), np.zeros_like(position)]
    key = [np.uint64(seed & 0xFFFFFFFF), np.uint64(seed >> 32)]
    for _ in range(10):
        a = np.uint64(0xD2511F53) * counter[0]
        b = np.uint64(0xCD9E8D57) * counter[2]
        counter = [(b >> np.uint64(32)) ^ counter[1] ^ key[0], b & mask,
                   (a >> np.uint64(32)) ^ counter[3] ^ key[1], a & mask]
        key = [(key[0] + np.uint64(0x9E3779B9)) & mask, (key[1] + np.uint64(0xBB67AE85)) & mask]
    bits = counter[0] | counter[1] << np.uint64(32)
    return (bits >> np.uint64(11)).astype(np.float64) * 2.0**-53


def made_up():
    """Value i uses uniforms 3i, 3i + 1, 3i + 2."""
    u, v, s = uniforms(0, 3 * COUNT).reshape(COUNT, 3).T
    normal = np.sqrt(-2 * np.log(1 - u)) * np.cos(2 * np.pi * v)
    values = {
        "normal": normal,
        "laplace": np.where(v < 0.5, 1, -1) * -np.log(1 - u),
        "uniform": 2 * u - 1,
        "outliers": normal * np.where(s < 0.01, 10, 1),  # one value in a hundred is ten times as wide
    }
    return {name: (0.02 * x).astype(np.float32) for name, x in values.items()}


def flat(tensors):
    matrices = [tensors[name].astype(np.float32).ravel() for name in sorted(tensors) if tensors[name].ndim == 2]
    joined = np.concatenate(matrices)
    return joined[:joined.size // 256 * 256]


def real(shared):
    base = {}
    for file in sorted((HERE.parents[1] / "examples/ziya-tiny/base").glob("*.safetensors")):
        base.update(load_file(file))
    return {"ziya-tiny": flat(base), "stories260K": flat(load_file(shared / "stories260K-hf/model.safetensors"))}


def main():
    library = ctypes.CDLL(str(pathlib.Path(llama_cpp.__file__).parent / "lib/libggml-base.so"))
    library.ggml_quantize_chunk.restype = ctypes.c_size_t
    library.ggml_quantize_chunk.argtypes = [ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64,
                                            ctypes.c_int64, ctypes.c_int64, ctypes.c_void_p]
    result = {"llama-cpp-python": llama_cpp.__version__, "mse": {}}
    for data, x in {**made_up(), **real(pathlib.Path(sys.argv[1]))}.items():
        rows = x.reshape(-1, 256)
        for name in TYPES:
            kind = gguf.GGMLQuantizationType[name]
            elements, size = gguf.GGML_QUANT_SIZES[kind]
            blocks = np.zeros((len(rows), 256 // elements * size), np.uint8)
            library.ggml_quantize_chunk(int(kind), rows.ctypes.data, blocks.ctypes.data, 0, len(rows), 256, None)
            error = gguf.dequantize(blocks, kind).astype(np.float64) - rows
            result["mse"].setdefault(data, {})[name.lower()] = float(np.mean(error**2))
    out = HERE.parent / "data/golden/quantise"
    out.mkdir(parents=True, exist_ok=True)
    (out / "mse.json").write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
