#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The `ziya` program on a GPU: every command that runs a model says what it says on the CPU.

Skipped, visibly, by a program without CUDA and where there is no GPU; with ZIYA_REQUIRE_GPU set
that is a failure.

usage: ZIYA_PROGRAM=… ZIYA_TINY=… ZIYA_SOURCE=… gpu_test.py [TestClass[.test]]…
"""
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import unittest

PROGRAM = os.path.abspath(os.environ["ZIYA_PROGRAM"])
TINY = pathlib.Path(os.environ["ZIYA_TINY"]).resolve()
SOURCE = pathlib.Path(os.environ["ZIYA_SOURCE"]).resolve()
EXPECTED = json.loads((SOURCE / "examples/ziya-tiny/expected.json").read_text(encoding="utf-8"))
POEM = EXPECTED["poems"][1]


def ziya(*arguments, status=0, stdin=""):
    run = subprocess.run([PROGRAM, *map(str, arguments)], input=stdin.encode(), stdout=subprocess.PIPE,
                         stderr=subprocess.PIPE, timeout=120)
    run.out, run.err = run.stdout.decode(errors="replace"), run.stderr.decode()
    assert run.returncode == status, run.err
    return run


def gpu_is_missing():
    run = subprocess.run([PROGRAM, "generate", str(TINY), "--device", "cuda", "--greedy", "-p", "x", "--max-new-tokens", "1"],
                         stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=120)
    error = run.stderr.decode()
    return error.strip().splitlines()[-1] if "[ZIYA-702]" in error or "[ZIYA-151]" in error else ""


MISSING = gpu_is_missing()
if MISSING and not os.environ.get("ZIYA_REQUIRE_GPU"):
    print("SKIPPED: " + MISSING)  # by which ctest knows


class OnGpu(unittest.TestCase):
    def setUp(self):
        if MISSING:
            if os.environ.get("ZIYA_REQUIRE_GPU"):
                self.fail(MISSING)
            self.skipTest(MISSING)
        folder = tempfile.TemporaryDirectory(prefix="ziya-gpu-")
        self.addCleanup(folder.cleanup)
        self.folder = pathlib.Path(folder.name)

    def ids(self, *options):
        run = ziya("generate", TINY, "--ids", "--greedy", "-p", POEM["query"], *options)
        return json.loads(run.out)["generated_ids"], run.err

    def used(self, *options):
        """Bytes of GPU 0 that are taken while a conversation waits for more, and what was said of the plan."""
        with subprocess.Popen([PROGRAM, "chat", TINY, "--greedy", "--device", "cuda", *options], stdin=subprocess.PIPE,
                              stdout=subprocess.PIPE, stderr=open(self.folder / "said", "w+b")) as run:
            run.stdin.write((POEM["query"] + "\n").encode())
            run.stdin.flush()
            answer = POEM["answer"].strip().encode()
            out = b""
            while answer not in out:
                byte = run.stdout.read1()
                self.assertTrue(byte, (out, (self.folder / "said").read_text()))
                out += byte
            found = subprocess.run(["nvidia-smi", "--id=0", "--query-gpu=memory.used", "--format=csv,noheader,nounits"],
                                   stdout=subprocess.PIPE, check=True)
            run.stdin.close()
        return int(found.stdout) << 20, (self.folder / "said").read_text()

    def both(self, command, *arguments, gpu=("--dtype", "f32")):
        """What the CPU and the GPU say."""
        return [json.loads(ziya(command, *arguments, "--json", "--device", "cpu").out),
                json.loads(ziya(command, *arguments, "--json", "--device", "cuda", *gpu).out)]

    def test_layers_on_the_gpu_do_not_change_greedy_ids(self):
        expected, _ = self.ids("--device", "cpu")
        for dtype in ["f32", "f16"]:
            for layers in ["0", "1", "2", "3", "all", "auto"]:
                ids, err = self.ids("--device", "cuda", "--gpu-layers", layers, "--dtype", dtype)
                self.assertEqual(ids, expected, (dtype, layers))
                parts = re.findall(r"^plan: (CPU|GPU \d+): layers? (\S+)", err, re.M)
                self.assertEqual([part for part, _ in parts],
                                 {"0": ["CPU"], "1": ["CPU", "GPU 0"], "2": ["CPU", "GPU 0"]}.get(layers, ["GPU 0"]), err)

    def test_a_capped_budget(self):
        expected, _ = self.ids("--device", "cpu")
        seen = set()
        for limit in ["140MB", "150MB", "160MB", "170MB", "180MB", "40GB"]:
            ids, err = self.ids("--device", "cuda", "--max-memory", limit, "--dtype", "f32")
            self.assertEqual(ids, expected, limit)
            seen.add(tuple(re.findall(r"^plan: (CPU|GPU \d+)", err, re.M)))
        self.assertIn(("GPU 0",), seen)
        self.assertTrue(seen & {("CPU",), ("CPU", "GPU 0")}, seen)
        err = ziya("generate", TINY, "--greedy", "-p", "x", "--device", "cuda", "--gpu-layers", "all", "--max-memory",
                   "150MB", "--dtype", "f32", status=1).err
        self.assertRegex(err, r"what would fit: .*(--gpu-layers \d|--dtype q|keys and values of \d+ tokens)")
        self.assertRegex(err.splitlines()[-1], r"error: .*layers need \d+ MiB .*free for it are \d+ MiB.*\[ZIYA-156\]$")
        self.assertNotRegex(err, r"(?m)^device: |^plan: ")  # nothing was loaded

    @unittest.skipUnless(shutil.which("nvidia-smi"), "there is no nvidia-smi")
    def test_no_more_is_taken_than_a_budget(self):
        nothing, _ = self.used("--gpu-layers", "0")  # what the driver keeps for a process
        for dtype in ["f32", "bf16", "f16"]:
            for limit in [150, 170, 400]:
                taken, said = self.used("--max-memory", f"{limit}MB", "--dtype", dtype)
                self.assertLessEqual(taken - nothing, limit * 10**6, (dtype, said))
                for line in re.findall(r"^plan: GPU 0: .*", said, re.M):
                    parts = [float(number) * {"kB": 1e3, "MB": 1e6, "GB": 1e9}[unit] for number, unit in
                             re.findall(r"(?:weights|keys and values|scratch) ([\d.]+) (\wB)", line)]
                    self.assertEqual(len(parts), 3, line)
                    self.assertLessEqual(sum(parts), limit * 1.01e6, line)

    def test_bf16_on_both(self):
        expected, _ = self.ids("--device", "cpu", "--dtype", "bf16")
        wanted = {}
        for layers in ["1", "2", "all"]:
            ids, err = self.ids("--device", "cuda", "--gpu-layers", layers, "--dtype", "bf16")
            self.assertEqual(ids, expected, layers)
            wanted[layers] = re.search(r"^plan: GPU 0: .*keys and values (\S+ \S+),", err, re.M)[1]
        _, err = self.ids("--device", "cuda", "--gpu-layers", "1", "--dtype", "f16")
        self.assertIn(f"keys and values {wanted['1']},", err)  # two bytes each

    def test_a_draft_model_is_planned_for(self):
        scratch = [float(re.search(r"^plan: GPU 0: .*scratch ([\d.]+) MB", self.ids("--device", "cuda", *options)[1], re.M)[1])
                   for options in ([], ["--draft", TINY])]
        self.assertGreater(scratch[1], scratch[0])

    def test_auto_takes_the_gpu(self):
        expected, _ = self.ids("--device", "cpu", "--dtype", "f32")
        ids, err = self.ids("--device", "auto", "--dtype", "f32")
        self.assertEqual(ids, expected)
        self.assertRegex(err, r"(?m)^device: GPU 0, activations in f32$")
        for dtype, config in [("bf16", "bf16"), ("q4_k", "f16")]:
            self.assertIn(f"activations in {config}", self.ids("--device", "auto", "--dtype", dtype)[1])

    def test_layers_on_two_gpus(self):
        gpus = []
        if shutil.which("nvidia-smi"):
            gpus = subprocess.run(["nvidia-smi", "-L"], stdout=subprocess.PIPE).stdout.splitlines()
        if len(gpus) < 2:
            self.skipTest("there is one NVIDIA GPU")
        expected, _ = self.ids("--device", "cpu")
        seen = set()
        for limit in range(130, 185, 5):
            ids, err = self.ids("--device", "cuda", "--max-memory", f"{limit}MB,40GB", "--dtype", "f32")
            self.assertEqual(ids, expected, limit)
            seen.add(tuple(sorted(re.findall(r"^plan: (CPU|GPU \d+)", err, re.M))))
        self.assertIn(("GPU 0", "GPU 1"), seen)
        self.assertIn(("GPU 1",), seen)

    def test_searches(self):
        for options in [["--num-beams", "3"], ["--penalty-alpha", "0.4", "--top-k", "4"]]:
            expected, _ = self.ids("--device", "cpu", *options)
            for layers in ["all", "1"]:
                ids, _ = self.ids("--device", "cuda", "--gpu-layers", layers, "--dtype", "f32", *options)
                self.assertEqual(ids, expected, (options, layers))

    def test_guesses_constraints_and_penalties(self):
        schema = '{"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}'
        for options in [["--prompt-lookup", "8"], ["--draft", TINY], ["--json-schema", schema, "--max-new-tokens", "30"],
                        ["--repetition-penalty", "1.3", "--no-repeat-ngram-size", "3", "--dry-multiplier", "0.8",
                         "--presence-penalty", "0.2", "--max-new-tokens", "30"],
                        ["--bad-words", POEM["answer"][0], "--min-new-tokens", "20", "--max-new-tokens", "30"]]:
            expected, _ = self.ids("--device", "cpu", *options)
            ids, _ = self.ids("--device", "cuda", "--dtype", "f32", *options)
            self.assertEqual(ids, expected, options)

    def test_the_same_seed_draws_the_same(self):
        for options in [[], ["--min-p", "0.02", "--typical-p", "0.9", "--xtc-probability", "0.3"], ["--mirostat", "2"],
                        ["--preset", "llama.cpp"], ["--preset", "visual"]]:
            first, again = [ziya("generate", TINY, "--device", "cuda", "--seed", "3", "--temperature", "2",
                                 "--max-new-tokens", "30", "-p", POEM["query"], *options).out for _ in range(2)]
            self.assertEqual(first, again, options)

    def test_many_prompts(self):
        file = self.folder / "prompts.txt"
        file.write_text("".join(poem["query"] + "\n" for poem in EXPECTED["poems"][:8]), encoding="utf-8")
        cpu, gpu = [ziya("generate", TINY, "--greedy", "--prompts-file", file, "--parallel", "3", "--device", *device).out
                    for device in (["cpu"], ["cuda", "--dtype", "f32"])]
        self.assertEqual(cpu, gpu)

    def test_a_model_quantised_while_it_loads(self):
        for dtype in ["q8_0", "q4_k"]:
            expected, _ = self.ids("--device", "cpu", "--dtype", dtype)
            ids, err = self.ids("--device", "cuda", "--dtype", dtype)
            self.assertEqual(ids, expected, dtype)
            self.assertIn("activations in f16", err)

    def test_perplexity(self):
        text = self.folder / "text.txt"
        text.write_text("\n".join(poem["answer"] for poem in EXPECTED["poems"]), encoding="utf-8")
        arguments = [TINY, "--file", text, "--context", "64", "--windows", "4"]
        for extra in [[], ["--method", "strided"], ["--against", TINY]]:
            for placed in [[], ["--gpu-layers", "1"]]:
                cpu, gpu = self.both("perplexity", *arguments, *extra, gpu=["--dtype", "f32", *placed])
                self.assertEqual((cpu["tokens"], cpu["windows"]), (gpu["tokens"], gpu["windows"]))
                self.assertAlmostEqual(gpu["perplexity"] / cpu["perplexity"], 1, delta=1e-4)
                if extra == ["--against", TINY]:
                    self.assertLess(gpu["against"]["mean_kl_divergence"], 1e-6)
        _, half = self.both("perplexity", *arguments, gpu=[])
        self.assertAlmostEqual(half["perplexity"] / cpu["perplexity"], 1, delta=2e-2)

    def test_eval(self):
        golden = SOURCE / "tests/data/golden/scoring"
        for placed in [[], ["--gpu-layers", "1"]]:
            cpu, gpu = self.both("eval", TINY, "--file", golden / "mmlu.csv", gpu=["--dtype", "f32", *placed])
            self.assertEqual(cpu["correct"], gpu["correct"])
            for a, b in zip(cpu["files"][0]["results"], gpu["files"][0]["results"], strict=True):
                self.assertEqual(a["chosen"], b["chosen"])
                for x, y in zip(a["scores"], b["scores"], strict=True):
                    self.assertAlmostEqual(x, y, delta=1e-3)

    def test_embed(self):
        for placed in [[], ["--gpu-layers", "1"]]:
            cpu, gpu = self.both("embed", TINY, POEM["answer"], gpu=["--dtype", "f32", *placed])
            self.assertEqual(cpu["tokens"], gpu["tokens"])
            self.assertAlmostEqual(sum(a * b for a, b in zip(cpu["embedding"], gpu["embedding"], strict=True)), 1, places=5)

    def test_bench(self):
        for arguments in [[TINY], ["--random-weights", "tiny", "--type", "q4_k"], ["--random-weights", "tiny", "-b", "8"]]:
            cpu, gpu = self.both("bench", *arguments, "-p", "32", "-n", "8", "-r", "2", gpu=[])
            self.assertEqual([sorted(test) for test in cpu], [sorted(test) for test in gpu])
            for test in gpu:
                self.assertRegex(test["isa"], r"^sm_\d+$")
                for key in ["avg_ts", "read_bandwidth_share", "arithmetic_share", "read_bandwidth", "arithmetic_rate"]:
                    self.assertGreater(test[key], 0)
        self.assertRegex(ziya("bench", TINY, "-p", "8", "-n", "4", "-r", "1", "--device", "cuda").out, r"products \d+ TFLOP/s; GPU 0")
        ziya("bench", "--random-weights", "tiny", "--type", "int8", "--device", "cuda", status=2)

    def test_conversation(self):
        placed = [["cpu"], ["cuda"], ["cuda", "--gpu-layers", "1"], ["cuda", "--gpu-layers", "1", "--dtype", "bf16"]]
        expected, *said = [ziya("chat", TINY, "--greedy", "--device", *device,
                                stdin=f"{POEM['query']}\nWhat is 2 + 2?\n").out for device in placed]
        self.assertEqual(said, [expected] * len(said))


if __name__ == "__main__":
    unittest.main(argv=[sys.argv[0], *sys.argv[1:]])
