# SPDX-License-Identifier: Apache-2.0
"""Files that torch.save writes, small and awkward, with the values they hold.

Writes tests/data/torch/*.bin and expected.safetensors, whose tensors are named `file:tensor`.
Made with torch 2.15.0 and safetensors 0.8.0 (requirements.txt). Running it again gives the same
bytes, but for the names of the storages inside legacy.bin, which are addresses of memory.
"""
import collections
import io
import pathlib
import zipfile

import torch
from safetensors.torch import save_file

OUT = pathlib.Path(__file__).resolve().parent.parent / "data" / "torch"


class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.a = torch.nn.Linear(3, 2)
        self.b = torch.nn.Linear(2, 2, bias=False)


def contents():
    whole = torch.arange(24, dtype=torch.float32)
    cube = torch.arange(2 * 3 * 4 * 5, dtype=torch.float32).reshape(2, 3, 4, 5)
    yield "module", Net().state_dict(), {}  # an OrderedDict with attributes
    yield "dtypes", {
        name: torch.arange(-3, 4).to(dtype)
        for name, dtype in (("f64", torch.float64), ("f32", torch.float32), ("f16", torch.float16),
                            ("bf16", torch.bfloat16), ("i64", torch.int64), ("i32", torch.int32),
                            ("i16", torch.int16), ("i8", torch.int8), ("u8", torch.uint8),
                            ("bool", torch.bool))
    }, {}
    yield "views", {
        "whole": whole, "tail": whole[20:], "transposed": whole.reshape(4, 6).t(),
        "strided": whole[::5], "permuted": cube.permute(3, 0, 2, 1), "inner": cube[:, 1:, ::2, 3],
        "expanded": torch.tensor([7.0]).expand(4), "scalar": torch.tensor(2.5),
        "empty": torch.zeros(0, 3), "one": torch.zeros(1, 1, 1),
        "wide": torch.arange(60 * 50, dtype=torch.int16).reshape(60, 50)[:, :9].t(),
    }, {}
    yield "wrapped", {"state_dict": collections.OrderedDict(x=whole[:3]), "epoch": 3, "lr": 1e-4,
                      "names": ["a", ("b", None, True)], "huge": 1 << 90}, {}
    yield "parameter", {"p": torch.nn.Parameter(whole.reshape(2, 12)[:, 3:])}, {}
    yield "protocol4", {"x": whole[:5], "size": torch.Size([3, 4])}, {"pickle_protocol": 4}
    yield "legacy", collections.OrderedDict(a=whole[2:7], b=whole.reshape(6, 4).t(),
                                            c=torch.arange(4).bfloat16()), {
        "_use_new_zipfile_serialization": False}


def main():
    torch.manual_seed(0)
    OUT.mkdir(parents=True, exist_ok=True)
    expected = {}
    for name, value, options in contents():
        path = OUT / f"{name}.bin"
        with open(path, "wb") as file:  # by file object: the archive is then called "archive"
            torch.save(value, file, **options)
        for key, tensor in value.get("state_dict", value).items():
            if isinstance(tensor, torch.Tensor):
                expected[f"{name}:{key}"] = tensor.detach().clone().contiguous()
    save_file(expected, OUT / "expected.safetensors")

    # The same archive as a big-endian machine would mark it.
    buffer = io.BytesIO((OUT / "protocol4.bin").read_bytes())
    with zipfile.ZipFile(buffer) as source, zipfile.ZipFile(OUT / "big_endian.bin", "w") as target:
        for item in source.infolist():
            data = source.read(item)
            entry = zipfile.ZipInfo(item.filename)  # with the date of no particular day
            target.writestr(entry, b"big" if item.filename.endswith("/byteorder") else data)


if __name__ == "__main__":
    main()
