# SPDX-License-Identifier: Apache-2.0
"""The same model file, the same threads: `ziya bench` beside llama.cpp, in turn, ratios of pairs.

usage: compare_llama_cpp.py PROGRAM FOLDER --build [no-amx]     makes FOLDER/peer, the environment
       compare_llama_cpp.py PROGRAM FOLDER [--peer PYTHON] [--types q4_0 q4_k …] [--shape 1b]
                            [--layers N] [--files A.gguf …] [-p 512] [-n 128] [-r 5] [--threads 2]

--build installs llama-cpp-python from its source on PyPI, compiled for this machine. On a processor
with AMX that version decodes Q4_0 and Q8_0 fastest, but ends prompts of quantised types in an illegal
instruction (tileloadd); with no-amx it gets every other instruction set of the processor, by name,
and prompts run. The peer has to use AVX512_VNNI where the processor has it. Without --files
the models are random blocks, written to FOLDER and removed: a shape (1b: 2048 wide, 22 layers; 7b:
4096, 32; 13b: 5120, 40) in each type, of fewer layers with --layers. A repetition runs ziya, then
llama.cpp, each in a process of its own that runs every test once before the one that counts; 16-bit
cache on both sides. Printed per type and test: medians of tokens per second, and the median and the
range of ziya / llama.cpp over the pairs.
"""
import argparse
import json
import os
import pathlib
import statistics
import subprocess
import sys

PEER_VERSION = "0.3.36"
GGUF_VERSION = "0.17.1"

PEER = """
import ctypes, json, sys, time
import llama_cpp as l
model_file, prompt, generate, threads = sys.argv[1], *map(int, sys.argv[2:])
silent = l.llama_log_callback(lambda level, text, data: None)
l.llama_log_set(silent, ctypes.c_void_p(0))
l.llama_backend_init()
mp = l.llama_model_default_params()
mp.use_mmap = True
model = l.llama_model_load_from_file(model_file.encode(), mp)
cp = l.llama_context_default_params()
cp.n_ctx = max(prompt, generate, 64)
cp.n_batch = cp.n_ubatch = max(prompt, 1)
cp.n_threads = cp.n_threads_batch = threads
context = l.llama_init_from_model(model, cp)
def decode(ids):
    array = (l.llama_token * len(ids))(*ids)
    if l.llama_decode(context, l.llama_batch_get_one(array, len(ids))) != 0:
        sys.exit("llama_decode failed")
def clear():
    l.llama_memory_clear(l.llama_get_memory(context), True)
def timed(run):
    rates = []
    for _ in range(2):
        clear()
        begin = time.perf_counter()
        count = run()
        l.llama_synchronize(context)
        rates.append(count / (time.perf_counter() - begin))
    return rates[1]
def prefill():
    decode([(i * 7919 + 3) % 256 for i in range(prompt)])
    return prompt
def tokens():
    for i in range(generate):
        decode([(i * 7919 + 3) % 256])
    return generate
print(json.dumps({
    "pp": timed(prefill) if prompt else None, "tg": timed(tokens) if generate else None,
    "system": l.llama_print_system_info().decode(), "version": l.__version__}))
"""

WRITER = """
import sys
import gguf, numpy
path, type_name, hidden, inner, layers, heads, vocabulary = sys.argv[1], sys.argv[2], *map(int, sys.argv[3:])
kind = getattr(gguf.GGMLQuantizationType, type_name.upper())
elements, size = gguf.GGML_QUANT_SIZES[kind]
# where the 16-bit scales of a block lie, and what one is worth beside random quants
scales = {"Q4_0": [0], "Q4_1": [0, 2], "Q5_0": [0], "Q5_1": [0, 2], "Q8_0": [0], "IQ4_NL": [0],
          "Q2_K": [80, 82], "Q3_K": [108], "Q4_K": [0, 2], "Q5_K": [0, 2], "Q6_K": [208]}
worth = {"Q8_0": 3e-4, "IQ4_NL": 3e-4, "Q2_K": 1e-3, "Q3_K": 5e-4, "Q4_K": 5e-5, "Q5_K": 3e-5,
         "Q6_K": 2e-5}
random = numpy.random.default_rng(1)
def matrix(rows, columns):
    count = rows * columns // elements
    if kind in (gguf.GGMLQuantizationType.F16, gguf.GGMLQuantizationType.F32):
        dtype = numpy.float16 if kind == gguf.GGMLQuantizationType.F16 else numpy.float32
        piece = random.uniform(-0.03, 0.03, 1 << 20).astype(dtype)
        return numpy.resize(piece, (rows, columns))
    if kind == gguf.GGMLQuantizationType.BF16:  # the upper halves of 32-bit floats, as bytes
        piece = random.uniform(-0.03, 0.03, 1 << 20).astype(numpy.float32).view(numpy.uint32) >> 16
        return numpy.resize(piece.astype(numpy.uint16).view(numpy.uint8), (rows, 2 * columns))
    blocks = random.integers(0, 256, (min(count, 65537), size), dtype=numpy.uint8)
    scale = numpy.float16(worth.get(type_name.upper(), 2e-3))
    for place in scales[type_name.upper()]:
        blocks[:, place:place + 2] = numpy.frombuffer(scale.tobytes(), numpy.uint8)
    return numpy.resize(blocks, (count, size)).reshape(rows, columns // elements * size)
writer = gguf.GGUFWriter(path, "llama")
writer.add_context_length(2048)
writer.add_embedding_length(hidden)
writer.add_block_count(layers)
writer.add_feed_forward_length(inner)
writer.add_head_count(heads)
writer.add_head_count_kv(heads)
writer.add_layer_norm_rms_eps(1e-6)
writer.add_rope_dimension_count(hidden // heads)
writer.add_vocab_size(vocabulary)
tokens = ["<unk>", "<s>", "</s>"] + [f"<0x{i:02X}>" for i in range(256)]
kinds = [2, 3, 3] + [6] * 256
while len(tokens) < vocabulary:
    tokens.append(f"t{len(tokens)}")
    kinds.append(1)
writer.add_tokenizer_model("llama")
writer.add_token_list(tokens)
writer.add_token_scores([-float(i) for i in range(vocabulary)])
writer.add_token_types(kinds)
writer.add_bos_token_id(1)
writer.add_eos_token_id(2)
def add(name, rows, columns):
    plain = kind in (gguf.GGMLQuantizationType.F16, gguf.GGMLQuantizationType.F32)
    writer.add_tensor(name, matrix(rows, columns), raw_dtype=None if plain else kind)
def norm(name):
    writer.add_tensor(name, numpy.ones(hidden, numpy.float32))
add("token_embd.weight", vocabulary, hidden)
for n in range(layers):
    norm(f"blk.{n}.attn_norm.weight")
    for part in ("q", "k", "v"):
        add(f"blk.{n}.attn_{part}.weight", hidden, hidden)
    add(f"blk.{n}.attn_output.weight", hidden, hidden)
    norm(f"blk.{n}.ffn_norm.weight")
    add(f"blk.{n}.ffn_gate.weight", inner, hidden)
    add(f"blk.{n}.ffn_up.weight", inner, hidden)
    add(f"blk.{n}.ffn_down.weight", hidden, inner)
norm("output_norm.weight")
add("output.weight", vocabulary, hidden)
writer.write_header_to_file()
writer.write_kv_data_to_file()
writer.write_tensors_to_file()
writer.close()
"""

# hidden, intermediate, layers, heads, vocabulary
SHAPES = {"1b": (2048, 5632, 22, 16, 32000), "7b": (4096, 11008, 32, 32, 32000),
          "13b": (5120, 13824, 40, 40, 39424)}


def build(folder, kind):
    environment = folder / "peer"
    arguments = instructions_without_amx() if kind == "no-amx" else "-DGGML_NATIVE=ON"
    subprocess.run([sys.executable, "-m", "venv", str(environment)], check=True)
    subprocess.run(
        [str(environment / "bin/python"), "-m", "pip", "install", "--no-cache-dir", "--no-binary",
         "llama-cpp-python", f"llama-cpp-python=={PEER_VERSION}", f"gguf=={GGUF_VERSION}"],
        check=True, env={**os.environ, "CMAKE_ARGS": arguments})


def processor_has(flag):
    try:
        return flag in pathlib.Path("/proc/cpuinfo").read_text().split()
    except OSError:
        return False


def instructions_without_amx():
    sets = {"SSE42": "sse4_2", "AVX": "avx", "AVX2": "avx2", "BMI2": "bmi2", "FMA": "fma",
            "F16C": "f16c", "AVX_VNNI": "avx_vnni", "AVX512": "avx512f",
            "AVX512_VBMI": "avx512vbmi", "AVX512_VNNI": "avx512_vnni",
            "AVX512_BF16": "avx512_bf16"}
    return " ".join(["-DGGML_NATIVE=OFF"] + [f"-DGGML_{name}=ON" for name, flag in sets.items()
                                             if processor_has(flag)])


def ziya_rates(program, file, options):
    output = subprocess.run(
        [program, "bench", str(file), "-p", str(options.p), "-n", str(options.n), "-r", "1",
         "--threads", str(options.threads), "--cache-dtype", "f16", "--json"],
        check=True, capture_output=True, text=True).stdout
    return {test["test"][:2]: test for test in json.loads(output)}


def peer_rates(python, file, options):
    run = subprocess.run(
        [python, "-c", PEER, str(file), str(options.p), str(options.n), str(options.threads)],
        capture_output=True, text=True)
    if run.returncode != 0:
        sys.exit(f"llama.cpp: {run.stderr.strip().splitlines()[-1:]}")
    result = json.loads(run.stdout)
    if processor_has("avx512_vnni") and "AVX512_VNNI = 1" not in result["system"]:
        sys.exit("llama.cpp was built without AVX512_VNNI: " + result["system"])
    return result


def compare(program, python, name, file, options):
    pairs = []
    for _ in range(options.r):
        pairs.append((ziya_rates(program, file, options), peer_rates(python, file, options)))
    if not options.header_printed:
        version = subprocess.run([program, "--version"], capture_output=True, text=True).stdout
        print(f"{version.strip()}; llama-cpp-python {pairs[0][1]['version']}: "
              f"{pairs[0][1]['system'].strip()}; {options.threads} threads")
        print("| type | test | ziya, tokens/s | llama.cpp, tokens/s | ratio | from … to | "
              "share of bandwidth or arithmetic |\n|---|---|---|---|---|---|---|")
        options.header_printed = True
    for test, tokens in (("pp", options.p), ("tg", options.n)):
        if tokens == 0:
            continue
        ours = [ziya[test]["avg_ts"] for ziya, _ in pairs]
        theirs = [peer[test] for _, peer in pairs]
        ratios = sorted(a / b for a, b in zip(ours, theirs))
        share = "arithmetic_share" if test == "pp" else "read_bandwidth_share"
        shares = statistics.median(ziya[test][share] for ziya, _ in pairs)
        print(f"| {name} | {test}{tokens} | {statistics.median(ours):.2f} | "
              f"{statistics.median(theirs):.2f} | {statistics.median(ratios):.2f} | "
              f"{ratios[0]:.2f} … {ratios[-1]:.2f} | {100 * shares:.0f} % |", flush=True)


def main():
    parser = argparse.ArgumentParser(usage=__doc__)
    parser.add_argument("program")
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("--build", nargs="?", const="native", choices=["native", "no-amx"])
    parser.add_argument("--peer")
    parser.add_argument("--types", nargs="+", default=["q4_0", "q4_k", "q8_0", "f16"])
    parser.add_argument("--shape", choices=SHAPES, default="1b")
    parser.add_argument("--layers", type=int)
    parser.add_argument("--files", nargs="+", type=pathlib.Path, default=[])
    parser.add_argument("-p", type=int, default=512)
    parser.add_argument("-n", type=int, default=128)
    parser.add_argument("-r", type=int, default=5)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    options = parser.parse_args()
    options.header_printed = False
    if options.build:
        build(options.folder, options.build)
        return
    python = options.peer or str(options.folder / "peer/bin/python")
    for file in options.files:
        compare(options.program, python, file.name, file, options)
    if options.files:
        return
    hidden, inner, layers, heads, vocabulary = SHAPES[options.shape]
    layers = options.layers or layers
    for name in options.types:
        file = options.folder / f"random-{options.shape}-{name}.gguf"
        try:
            subprocess.run([python, "-c", WRITER, str(file), name,
                            *map(str, (hidden, inner, layers, heads, vocabulary))], check=True)
            compare(options.program, python, name, file, options)
        finally:
            file.unlink(missing_ok=True)


if __name__ == "__main__":
    main()
