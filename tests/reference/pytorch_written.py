# SPDX-License-Identifier: Apache-2.0
"""torch.load reads what ziya's PyTorch writer writes.

tests/data/torch/written.bin is the file of the first case of tests/io/pytorch_writer_test.cpp, which
compares its bytes with those of this one. When the writer changes, put the new file there and run
this script. Last run with torch 2.15.0 (requirements.txt).
"""
import pathlib
import sys
import zipfile

import torch

WRITTEN = pathlib.Path(__file__).resolve().parent.parent / "data" / "torch" / "written.bin"
TENSORS = {
    "f16": (torch.float16, (3, 5)), "none": (torch.float16, (0, 4)), "bf16": (torch.bfloat16, (2, 7)),
    "f32": (torch.float32, (5,)), "f64": (torch.float64, (1, 2, 3)), "i64": (torch.int64, (2, 2)),
    "i32": (torch.int32, (3,)), "i16": (torch.int16, (3,)), "i8": (torch.int8, (3,)),
    "u8": (torch.uint8, (3,)), "scalar": (torch.bool, ()), "wide": (torch.float16, (7, 100)),
}


def contents(dtype, shape):
    count = torch.Size(shape).numel()
    if dtype == torch.bool:
        return torch.ones(shape, dtype=torch.bool)
    if count == 0:
        return torch.empty(shape, dtype=dtype)
    data = bytes((i * 7 + 3) % 61 for i in range(count * dtype.itemsize))
    return torch.frombuffer(bytearray(data), dtype=dtype).reshape(shape)


def main():
    path = pathlib.Path(sys.argv[1]) if len(sys.argv) > 1 else WRITTEN
    assert zipfile.ZipFile(path).testzip() is None
    for options in ({}, {"weights_only": True}, {"weights_only": True, "mmap": True},
                    {"weights_only": False}):
        loaded = torch.load(path, map_location="cpu", **options)
        assert list(loaded) == list(TENSORS)
        for name, (dtype, shape) in TENSORS.items():
            expected, tensor = contents(dtype, shape), loaded[name]
            assert tensor.dtype == dtype and tensor.shape == expected.shape, name
            assert tensor.is_contiguous() and torch.equal(
                tensor.reshape(-1).view(torch.uint8), expected.reshape(-1).view(torch.uint8)), name
            assert tensor.numel() == 0 or "mmap" not in options or tensor.data_ptr() % 64 == 0, name
    print(f"{path.name}: {len(TENSORS)} tensors, read in four ways")


if __name__ == "__main__":
    main()
