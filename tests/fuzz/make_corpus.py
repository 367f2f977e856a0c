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


def ggufs():
    u32, u64 = (lambda n: struct.pack("<I", n)), (lambda n: struct.pack("<Q", n))
    text = lambda t: u64(len(t.encode())) + t.encode()
    number = lambda key, n: text(key) + u32(4) + u32(n)
    real = lambda key, x: text(key) + u32(6) + struct.pack("<f", x)
    flag = lambda key, b: text(key) + u32(7) + bytes([b])
    word = lambda key, t: text(key) + u32(8) + text(t)
    array = lambda key, kind, parts: text(key) + u32(9) + u32(kind) + u64(len(parts)) + b"".join(parts)

    def tensor(name, dims, kind=0, offset=0):
        return text(name) + u32(len(dims)) + b"".join(map(u64, dims)) + u32(kind) + u64(offset)

    def file(name, keys=(), tensors=(), data=b"", version=3, alignment=32):
        head = b"GGUF" + u32(version) + u64(len(tensors)) + u64(len(keys))
        head += b"".join(keys) + b"".join(tensors)
        put("gguf", name, head + bytes(-len(head) % alignment) + data)

    def shape(**changes):
        sizes = {"context_length": 64, "embedding_length": 8, "block_count": 1,
                 "feed_forward_length": 12, "attention.head_count": 2, **changes}
        return [word("general.architecture", "llama")] + [
            (real if isinstance(value, float) else word if isinstance(value, str) else number)(
                "llama." + key.replace("__", "."), value) for key, value in sizes.items()
            if value is not None]

    def vocabulary(tokens, types, model="llama", scores=None, more=()):
        return [word("tokenizer.ggml.model", model),
                array("tokenizer.ggml.tokens", 8, [text(token) for token in tokens]),
                array("tokenizer.ggml.scores", 6, [struct.pack("<f", -i) for i in range(
                    len(tokens) if scores is None else scores)]),
                array("tokenizer.ggml.token_type", 5, [u32(kind) for kind in types]), *more]
    tokens, types = ["<unk>", "<s>", "</s>", "\u2581", "a", "ab", "<bot>", "<end>", "[PAD8]"], \
        [2, 3, 3, 1, 1, 1, 4, 3, 5]
    table = tensor("token_embd.weight", [8, 9])
    rows = bytes(8 * 9 * 4)
    ids = [number(f"tokenizer.ggml.{name}_token_id", n)
           for name, n in (("bos", 1), ("eos", 2), ("unknown", 0), ("padding", 7), ("eot", 6))]
    file("model", shape() + vocabulary(tokens, types, more=ids), [table], rows)
    file("model_v2", shape() + vocabulary(tokens, types), [table], rows, version=2)
    kinds = [text("k%d" % kind) + u32(kind) + bytes(size)
             for kind, size in ((0, 1), (1, 1), (2, 2), (3, 2), (5, 4), (10, 8), (11, 8), (12, 8))]
    file("kinds", kinds + [array("nested", 9, [u32(8) + u64(1) + text("x"), u32(0) + u64(0)])])
    # What the reader of shapes and vocabularies looks at, in every width of integer.
    for kind, size in ((0, 1), (1, 1), (2, 2), (3, 2), (5, 4), (10, 8), (11, 8), (12, 8)):
        key = text("llama.block_count") + u32(kind) + b"\1" + bytes(size - 1)
        file("width_%d" % kind, shape(block_count=None) + [key], [table], rows)
    file("width_huge", shape(block_count=None) + [text("llama.block_count") + u32(10) + b"\xff" * 8],
         [table], rows)
    file("scaling_f64", shape() + [text("llama.rope.freq_base") + u32(12) + struct.pack("<d", 1e4)],
         [table], rows)
    # The header.
    file("version_1", version=1)
    file("big_endian", version=3 << 24)
    put("gguf", "no_file", b"GGML" + bytes(60))
    put("gguf", "many_tensors", b"GGUF" + u32(3) + u64(1 << 40) + u64(0))
    put("gguf", "many_keys", b"GGUF" + u32(3) + u64(0) + u64(1 << 40))
    file("key_twice", [number("a", 1), number("a", 2)])
    file("key_long", [u64(1 << 20)])
    file("type_unknown", [text("a") + u32(13) + bytes(8)])
    file("text_outside", [text("a") + u32(8) + u64(1 << 20)])
    file("array_outside", [text("a") + u32(9) + u32(12) + u64(1 << 61)])
    file("array_deep", [text("a") + u32(9) + (u32(9) + u64(1)) * 6 + u32(0) + u64(0)])
    file("array_long", [array("a", 6, [struct.pack("<f", i) for i in range(17000)])])
    file("alignment_64", [number("general.alignment", 64)], [table], rows, alignment=64)
    file("alignment_24", [number("general.alignment", 24)])
    # Tensors.
    for name, entry in {
            "rank_5": tensor("w", [1] * 5), "extent": tensor("w", [1 << 63]),
            "elements": tensor("w", [1 << 31, 1 << 31, 4]), "type_known": tensor("w", [256], 23),
            "type_number": tensor("w", [8], 99), "no_blocks": tensor("w", [33], 8),
            "offset": tensor("w", [8], 0, 1 << 40), "unaligned": tensor("w", [8], 0, 4),
            "beyond": tensor("w", [80], 0, 64), "scalar": tensor("w", [])}.items():
        file("tensor_" + name, tensors=[entry], data=rows)
    file("tensor_twice", tensors=[table, table], data=rows)
    file("tensor_overlap", tensors=[table, tensor("output.weight", [8], 0, 32)], data=rows)
    file("tensor_both", tensors=[tensor("output.weight", [8]), tensor("lm_head.weight", [8], 0, 32)],
         data=rows)
    names = ["blk.0.attn_q.weight", "blk.12.ffn_gate.bias", "blk.01.attn_q.weight", "blk.x.y.weight",
             "blk..weight", "blk.0.other.weight", "w.scale", "w"]
    file("tensor_names", tensors=[tensor(name, [8], 0, 32 * i) for i, name in enumerate(names)],
         data=bytes(256))
    sizes = {2: (32, 18), 8: (32, 34), 14: (256, 210), 20: (32, 18)}
    for kind, (elements, size) in sizes.items():
        file("blocks_%d" % kind, tensors=[tensor("output.weight", [elements, 3], kind)],
             data=bytes(range(256)) * 3)
    # Shapes.
    for name, changes in {
            "missing": {"context_length": None}, "kind": {"context_length": "64"},
            "rope": {"rope.dimension_count": 2}, "experts": {"expert_count": 4},
            "scale": {"logit_scale": 0.5}, "yarn": {"rope.scaling.type": "yarn"},
            "linear": {"rope.scaling.type": "linear", "rope.scaling.factor": 2.0},
            "old_linear": {"rope.scale_linear": 4.0}, "head_dim": {"attention.key_length": 6},
            "nan": {"rope.freq_base": float("nan")}}.items():
        file("shape_" + name, shape(**changes), [table], rows)
    file("shape_not_causal", shape() + [flag("llama.attention.causal", 0)], [table], rows)
    file("shape_qwen", [word("general.architecture", "qwen2")], [table], rows)
    file("shape_no_table", shape(vocab_size=9))
    file("shape_no_vocabulary", shape())
    file("generation", shape() + [word("ziya.generation_config.json", '{"top_k": 5}')], [table], rows)
    file("generation_list", shape() + [word("ziya.generation_config.json", "[]")], [table], rows)
    two = [table, tensor("rope_freqs.weight", [2], 0, 288)]
    for name, factors in (("factors", (1.0, 1.0)), ("factors_odd", (1.0, 3.0))):
        file("shape_" + name, shape(), two, rows + struct.pack("<2f", *factors))
    llama3 = [real("ziya.rope.factor", 4.0), real("ziya.rope.low_freq_factor", 1.0),
              real("ziya.rope.high_freq_factor", 4.0),
              number("llama.rope.scaling.original_context_length", 8)]
    file("shape_llama3", shape() + llama3, two, rows + struct.pack("<2f", 2.6893613, 4.0))
    file("shape_factors_f16", shape(), [table, tensor("rope_freqs.weight", [2], 1, 288)], rows + bytes(4))
    # Vocabularies.
    file("words_gpt2", vocabulary(tokens, types, model="gpt2"))
    file("words_no_scores", vocabulary(tokens, types)[:2])
    file("words_scores", vocabulary(tokens, types, scores=3))
    file("words_type", vocabulary(tokens, [9] * 9))
    file("words_no_pieces", vocabulary(tokens, [3] * 9))
    file("words_twice", vocabulary(tokens[:7] + ["<bot>", "x"], types[:7] + [4, 3]))
    file("words_id", vocabulary(tokens, types, more=[number("tokenizer.ggml.bos_token_id", 8)]))
    file("words_kind", [word("tokenizer.ggml.model", "llama"), number("tokenizer.ggml.tokens", 1)])
    file("words_element", [word("tokenizer.ggml.model", "llama"),
                           array("tokenizer.ggml.tokens", 4, [u32(1)])])
    file("words_scores_kind", vocabulary(tokens, types)[:2] +
         [array("tokenizer.ggml.scores", 5, [u32(1)])])
    file("words_types_kind", vocabulary(tokens, types)[:3] +
         [array("tokenizer.ggml.token_type", 6, [u32(1)])])
    file("words_flags", vocabulary(tokens, types, more=[
        flag("tokenizer.ggml.add_space_prefix", 0), flag("tokenizer.ggml.add_bos_token", 0),
        flag("tokenizer.ggml.add_eos_token", 1), number("tokenizer.ggml.eos_token_id", 2)]))
    file("words_flag_kind", vocabulary(tokens, types, more=[number("tokenizer.ggml.add_space_prefix", 0)]))
    rules = "tokenizer.ggml.precompiled_charsmap"
    file("words_rules", vocabulary(tokens, types, more=[array(rules, 0, [b"j", b"k"])]))
    file("words_rules_kind", vocabulary(tokens, types, more=[array(rules, 4, [u32(1)])]))
    own = [number("ziya.tokenizer.pieces", 6), array("ziya.tokenizer.sentencepiece", 0, []),
           word("ziya.tokenizer.added_tokens.json", '{"<bot>": 6}')]
    file("words_own", vocabulary(tokens, types, more=own))
    file("words_own_pieces", vocabulary(tokens, types, more=[number("ziya.tokenizer.pieces", 10)]))
    broken = [b"\x01\0\0\0\0\0\0\0\xff"]  # a text that is not UTF-8
    file("words_added_bytes", vocabulary(tokens, types)[:1] + [
        array("tokenizer.ggml.tokens", 8, [text(t) for t in tokens[:7]] + broken + [text("[PAD8]")])] +
        vocabulary(tokens, types)[2:])
    file("words_bos_bytes", vocabulary(tokens, types)[:1] + [
        array("tokenizer.ggml.tokens", 8, [text("<unk>")] + broken + [text(t) for t in tokens[2:]])] +
        vocabulary(tokens, types)[2:] + ids)
def grammars():
    def grammar(name, rules, text=""):
        put("grammar", name, rules + "\n%%\n" + text)
    grammar("plain", 'root ::= "ab" | [x-z]+ # comment\n', "xyz")
    grammar("negated", "root ::= [^a-c\\]\\-]* .", "xyz中")
    grammar("escapes", r'root ::= "\x41\u4e2d\U0001F600\n\r\t\"\\\[\]\^\-"', "A中😀\n\r\t\"\\[]^-")
    grammar("repeats", 'root ::= "a"{2,4} "b"{1,} "c"{2} ("d" | "e")? "f"+ "g"* ""*', "aabccff")
    grammar("nested", 'root ::= "(" root ")" | ""', "((()))")
    grammar("lists", 'root ::= item ("," item)*\nitem ::= [0-9]+', "1,22,333")
    grammar("wide", 'root ::= a*\na ::= b | b\nb ::= c | c\nc ::= "x"', "x" * 40)
    grammar("utf8", "root ::= [中-龥é😀]*", "中é😀龥")
    grammar("dead", 'root ::= "a"', "b")
    for name, rules in {
            "empty": "", "no_name": "=", "no_sign": "root", "no_rule": "root ::= x",
            "left": 'root ::= root "a" | "b"', "hidden_left": 'root ::= x root | "a"\nx ::= ""',
            "endless": 'root ::= "a" root', "open_literal": 'root ::= "a', "open_class": "root ::= [a",
            "backwards": "root ::= [z-a]", "bad_escape": r'root ::= "\q"', "no_escape": '"\\',
            "surrogate": r'root ::= "\ud800"', "short_escape": r'root ::= "\u12"',
            "cut_escape": 'root ::= "\\', "open_group": 'root ::= ("a"', "no_group": 'root ::= "a")',
            "open_repeat": 'root ::= "a"{2', "repeat_order": 'root ::= "a"{3,2}',
            "repeat_text": 'root ::= "a"{x}', "repeat_large": 'root ::= "a"{99999}',
            "twice": 'root ::= "a"\nroot ::= "b"', "line": 'root ::= "a\n"', "star": "root ::= *",
            "deep": "root ::= " + "(" * 100, "large": 'root ::= "a"' + "{4000}" * 100,
            "symbols": "root ::= " + '"aaaaaaaa"{4000} ' * 70}.items():
        put("grammar", name, rules)
    put("grammar", "bytes", b"root ::= \xff")
    put("grammar", "invalid_text", b"root ::= .*\n%%\n\xed\xa0\x80")


def schemas():
    def schema(name, value):
        put("schema", name, value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))
    schema("person", {"type": "object", "required": ["name"], "properties": {
        "name": {"type": "string", "minLength": 1, "maxLength": 3}, "age": {"type": "integer"}}})
    schema("more", {"properties": {"ab": {"type": "null"}, "a\"c": True, "": {}, "中": {}},
                    "additionalProperties": {"type": "integer"}, "required": ["x"]})
    schema("tree", {"$ref": "#/$defs/node", "$defs": {"node": {
        "type": "object", "properties": {"next": {"$ref": "#/$defs/node"},
                                         "value": {"type": ["number", "null"]}}}}})
    schema("root", {"type": "array", "items": {"$ref": "#"}, "maxItems": 3})
    schema("values", {"anyOf": [{"enum": ["a\"\\\n", 3, None, {"x": [1.5]}, True]}, {"const": "b"},
                                {"enum": [1, "a"], "type": ["integer", "boolean"]}]})
    schema("all", {})
    schema("array", {"minItems": 1, "items": {"type": "boolean"}})
    schema("none", {"type": "array", "maxItems": 0})
    schema("text", {"maxLength": 5, "title": "t", "description": "d"})
    schema("object", {"type": "object"})
    schema("required", {"required": ["a", "b"]})
    for name, value in {
            "false": False, "number": 3, "pattern": {"pattern": "a"}, "type": {"type": "text"},
            "type_number": {"type": 3}, "type_empty": {"type": []}, "enum_empty": {"enum": []},
            "enum_type": {"enum": [1], "type": "string"}, "beside": {"enum": ["a"], "maxLength": 3},
            "ref_number": {"$ref": 1}, "ref_file": {"$ref": "a.json"}, "ref_lost": {"$ref": "#/a"},
            "ref_itself": {"$ref": "#"}, "bounds": {"minItems": 3, "maxItems": 2},
            "bound_text": {"maxLength": "a"}, "bound_large": {"maxLength": 10**6},
            "forbidden": {"required": ["a"], "additionalProperties": False},
            "properties_list": {"properties": [1]}, "required_text": {"required": "a"},
            "required_number": {"required": [1]}}.items():
        schema(name, value)
    schema("open", "{")


def sessions():
    good = {"format": "ziya-session", "version": 1, "model": "0123456789abcdef", "seed": 7,
            "conversation": {"template": "ziya", "start": [1], "turns": [[285, 5, 2], [], [7] * 20],
                             "system": "s"}}
    put("session", "good", json.dumps(good))
    put("session", "format", json.dumps({**good, "format": "other"}))
    put("session", "version", json.dumps({**good, "version": 2}))
    for name, change in {"template": {"template": "vicuna"}, "id_large": {"turns": [[287]]}, "id_negative": {"start": [-1]},
                         "id_text": {"turns": [["a"]]}, "turn_number": {"turns": [1]}, "no_turns": {"turns": None},
                         "system_number": {"system": 1}}.items():
        put("session", name, json.dumps({**good, "conversation": {**good["conversation"], **change}}))
    put("session", "no_conversation", json.dumps({**good, "conversation": [1]}))
    put("session", "seed_negative", json.dumps({**good, "seed": -1}))
    put("session", "seed_largest", json.dumps({**good, "seed": 2**64 - 1}))
    put("session", "deep", json.dumps({**good, "conversation": {"a": [[[[[[[[1]]]]]]]]}}))
    put("session", "list", "[]")
    put("session", "cut", json.dumps(good)[:80])
    put("session", "surrogate", json.dumps(good)[:-1].encode() + b', "x": "\\ud800"}')


def templates():
    good = {"name": "n", "bos": False, "strip": True, "before_system": "a", "after_system": "b",
            "system": "s", "system_first": True, "before_query": "<human>:", "after_query": "x",
            "closing": "</s>", "tokens": ["<human>", "</s>"], "strip_around": ["<human>"],
            "stop": ["#"]}
    put("template", "good", json.dumps(good))
    put("template", "empty", "{}")
    put("template", "list", "[]")
    put("template", "unknown", json.dumps({**good, "colour": 1}))
    put("template", "tokens_text", json.dumps({**good, "tokens": "x"}))
    put("template", "token_empty", json.dumps({**good, "tokens": [""]}))
    put("template", "token_number", json.dumps({**good, "tokens": [3]}))
    put("template", "many_tokens", json.dumps({**good, "stop": ["x"] * 65}))
    put("template", "bos_number", json.dumps({**good, "bos": 1}))


if __name__ == "__main__":
    grammars()
    schemas()
    sessions()
    templates()
    configs()
    safetensors()
    pickles()
    archives()
    ggufs()
