#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Writes the inputs of tests/fuzz/corpus that stand for one refusal or one branch each.

usage: make_corpus.py      (only the standard library; the other inputs are kept as a fuzzer or
torch.save wrote them)
"""
import io
import json
import pathlib
import struct
import zipfile

CORPUS = pathlib.Path(__file__).parent / "corpus"

CONFIG = {"hidden_size": 64, "intermediate_size": 172, "num_hidden_layers": 2,
          "num_attention_heads": 8, "vocab_size": 512}


def put(target, name, data):
    folder = CORPUS / target
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(data if isinstance(data, bytes) else data.encode())


def configs():
    def config(name, **fields):
        put("json", name, json.dumps({**CONFIG, **fields}))
    config("no_groups", num_key_value_heads=3)
    config("odd_head", head_dim=7)
    config("eps_zero", rms_norm_eps=0)
    config("eps_text", rms_norm_eps="small")
    config("bias_number", attention_bias=1)
    config("window", sliding_window=4096)
    config("partial", partial_rotary_factor=0.5)
    config("rope_list", rope_scaling=[1])
    config("rope_type_number", rope_scaling={"type": 3})
    config("rope_yarn", rope_scaling={"type": "yarn", "factor": 2})
    config("rope_no_factor", rope_scaling={"type": "linear"})
    config("rope_trained_zero",
           rope_scaling={"type": "dynamic", "factor": 2, "original_max_position_embeddings": 0})
    config("rope_llama3_order",
           rope_parameters={"rope_type": "llama3", "factor": 8, "low_freq_factor": 4,
                            "high_freq_factor": 1, "original_max_position_embeddings": 8192})
    put("json", "list", "[1, 2.5, true, null, \"a\"]")
    put("json", "many_values", "[" + "0," * 5000 + "0]")
    put("json", "surrogate", b'{"\xed\xa0\x80": 1}')


def safetensors():
    def file(name, header, data=b""):
        text = header if isinstance(header, bytes) else json.dumps(header).encode()
        put("safetensors", name, struct.pack("<Q", len(text)) + text + data)
    one = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}
    file("no_list", {"a": {"dtype": "F32", "data_offsets": [0, 8]}}, bytes(8))
    file("size_text", {"a": {**one, "shape": ["2"]}}, bytes(8))
    file("size_negative", {"a": {**one, "shape": [-2]}}, bytes(8))
    file("wrong_bytes", {"a": {**one, "data_offsets": [0, 4]}}, bytes(4))
    file("metadata_list", {"__metadata__": [], "a": one}, bytes(8))
    file("metadata_number", {"__metadata__": {"k": 1}, "a": one}, bytes(8))
    file("behind", {"a": one}, bytes(12))
    file("empty_object", b"{}")
    file("length_one", b"{")


def pickles():
    def pickle(name, body, protocol=2):
        put("pickle", name, bytes([0x80, protocol]) + body + b".")
    text = lambda word: b"X" + struct.pack("<I", len(word)) + word.encode()
    pickle("int32", b"J\xff\xff\xff\xff")
    pickle("long", b"\x8a\x02\x00\x80")
    pickle("long_large", b"\x8a\x09" + bytes(9))
    pickle("text64", b"\x8d" + struct.pack("<Q", 1) + b"a", 4)
    pickle("bytes", b"B\x01\x00\x00\x00aC\x01a\x8e\x01\0\0\0\0\0\0\0a\x87", 4)
    pickle("list_append", b"]K\x01a")
    pickle("memo32", b"K\x01r\x01\x00\x00\x00j\x01\x00\x00\x00\x86")
    pickle("opcode_inst", b"(ios\nsystem\n")
    pickle("opcode_unknown", b"\xf0")
    pickle("protocol_9", b"N", 9)
    pickle("append_to_dict", b"}K\x01a")
    pickle("global_system", b"cos\nsystem\n")
    pickle("global_control", b"co\x01s\nsystem\n")
    pickle("stacked_numbers", b"K\x01K\x01\x93", 4)
    pickle("call_number", b"K\x01)R")
    pickle("call_arguments", b"ccollections\nOrderedDict\nK\x01\x85R")
    pickle("long_tuple", b"ctorch._utils\n_rebuild_tensor_v2\n(" + b"K\x01" * 9 + b"tR")
    pickle("state_of_number", b"K\x01}b")
    storage = (b"(" + text("storage") + b"ctorch\nFloatStorage\n" + text("0") + text("cpu") +
               b"K\x04tQ")
    rebuild = b"ctorch._utils\n_rebuild_tensor_v2\n"
    pickle("tensor_of_number", rebuild + b"(K\x01K\x00K\x04\x85K\x01\x85tR")
    pickle("tensor_of_texts", rebuild + b"(" + storage + b"K\x00" + text("4") + b"\x85K\x01\x85tR")
    pickle("storage_of_number", b"K\x01Q")
    pickle("storage_of_dict", b"(" + text("storage") + b"ccollections\nOrderedDict\n" + text("0") +
           text("cpu") + b"K\x04tQ")
    pickle("popped_mark", b"t")
    pickle("no_memo", b"h\x05")
    pickle("empty_stack", b"")


def archives():
    def archive(name, entries, compression=zipfile.ZIP_STORED, change=lambda data: data, force64=False):
        out = io.BytesIO()
        with zipfile.ZipFile(out, "w", compression) as target:
            for entry, data in entries:
                with target.open(zipfile.ZipInfo(entry, (1980, 1, 1, 0, 0, 0)), "w",
                                 force_zip64=force64) as file:
                    file.write(data)
        put("pytorch", name, change(out.getvalue()))
    empty = b"\x80\x02}."
    member = [("a/data.pkl", empty), ("a/version", b"3\n")]
    archive("zip_plain", member)
    archive("zip_zip64", member, force64=True)
    archive("zip_no_pickle", [("a/version", b"3\n")])
    archive("zip_twice", member + [("a/version", b"3\n")])
    end = b"PK\x05\x06"

    def patched(data, back, value):  # bytes from the start of the end record
        at = data.rindex(end) + back
        return data[:at] + value + data[at + len(value):]
    archive("zip_parts", member, change=lambda data: patched(data, 4, b"\1\0\0\0"))
    archive("zip_wrong_count", member, change=lambda data: patched(data, 10, b"\7\0"))
    archive("zip_large_directory", member,
            change=lambda data: patched(data, 12, struct.pack("<I", 1 << 30)))
    archive("zip_directory_outside", member,
            change=lambda data: patched(data, 16, struct.pack("<I", 1 << 30)))

    def in_directory(data, offset, value):  # bytes from the start of the first directory record
        at = data.index(b"PK\x01\x02") + offset
        return data[:at] + value + data[at + len(value):]
    archive("zip_bad_record", member, change=lambda data: in_directory(data, 0, b"XX"))
    archive("zip_compressed", member, change=lambda data: in_directory(data, 10, b"\x08\0"))
    archive("zip_encrypted", member, change=lambda data: in_directory(data, 8, b"\1\0"))
    archive("zip_long_name", member, change=lambda data: in_directory(data, 28, b"\xff\xff"))
    archive("zip_entry_outside", member,
            change=lambda data: in_directory(data, 42, struct.pack("<I", len(data) - 40)))
    sizes64 = struct.pack("<HHQQQ", 1, 24, 4, 4, 1 << 63)

    def with_zip64_field(data):
        at = data.index(b"PK\x01\x02")
        record = bytearray(data[at:])
        record[20:28] = b"\xff" * 8
        record[42:46] = b"\xff" * 4
        name = struct.unpack("<H", record[28:30])[0]
        record[30:32] = struct.pack("<H", len(sizes64) + 8)
        record[46 + name:46 + name] = struct.pack("<HHI", 0x9999, 4, 0) + sizes64
        grown = bytes(record)
        size_at = grown.rindex(end) + 12
        size = struct.unpack("<I", grown[size_at:size_at + 4])[0] + len(sizes64) + 8
        return data[:at] + grown[:size_at] + struct.pack("<I", size) + grown[size_at + 4:]
    archive("zip_zip64_offset", member, change=with_zip64_field)
    text = lambda word: b"X" + struct.pack("<I", len(word)) + word.encode()
    tensor = (b"\x80\x02}" + text("w") + b"ctorch._utils\n_rebuild_tensor_v2\n((" + text("storage") +
              b"ctorch\nFloatStorage\n" + text("7") + text("cpu") + b"K\x04tQK\x00K\x04\x85K\x01\x85"
              b"\x89ccollections\nOrderedDict\n)RtRs.")
    archive("zip_no_storage", [("a/data.pkl", tensor)])
    archive("zip_good", [("a/data.pkl", tensor), ("a/data/7", bytes(16))])
    archive("zip_list", [("a/data.pkl", b"\x80\x02].")])
    archive("zip_big_endian", [("a/byteorder", b"big"), ("a/data.pkl", tensor), ("a/data/7", bytes(16))])
    legacy = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
    put("pytorch", "legacy_protocol", legacy + b"\x80\x02M\xe8\x03.")
    put("pytorch", "legacy_big_endian", legacy + b"\x80\x02M\xe9\x03." + b"\x80\x02}" +
        text("little_endian") + b"\x89s.")


if __name__ == "__main__":
    configs()
    safetensors()
    pickles()
    archives()
