#!/usr/bin/env bash
# What is too long for every change; called by tests/run.sh --full.
set -euo pipefail
cd "$(dirname "$0")/.."

# The other compiler, all tests; every header by itself.
cmake --preset clang -DZIYA_TESTS_EACH_HEADER=ON >/dev/null
cmake --build --preset clang
ctest --test-dir build/clang --output-on-failure --no-tests=error -j2

# Every header by itself with g++ too.
(cd include && find . -name '*.hpp') | xargs -P "$(nproc)" -I{} sh -c 'echo "#include \"$0\"" |
  g++ -std=c++20 -fsyntax-only -Wall -Wextra -Werror -x c++ -Iinclude -isystem /usr/include/eigen3 -' {}

# The benchmarks build, and decode reads what the memory gives.
cmake --preset benchmarks >/dev/null
cmake --build --preset benchmarks
build/benchmarks/benchmarks/decode_share 0.8

# All unit tests under the address and undefined-behaviour sanitizers.
cmake --build --preset asan
ctest --test-dir build/asan -L 'unit|sanitize' --output-on-failure --no-tests=error -j2

# Every kernel for every GPU that is supported, where nvcc is.
if command -v nvcc >/dev/null || [ -x /usr/local/cuda/bin/nvcc ]; then
  cmake -S . -B build/architectures -G Ninja -DCMAKE_BUILD_TYPE=Release -DZIYA_BUILD_CUDA=ON \
    -DZIYA_BUILD_EXAMPLES=OFF -DCMAKE_CUDA_ARCHITECTURES="80-real;86-real;89-real;90-real" >/dev/null
  cmake --build build/architectures --target ziya_cuda
fi

# Fuzzing, a minute for each parser.
cmake --preset fuzz >/dev/null
cmake --build --preset fuzz --target fuzzers
ctest --test-dir build/fuzz -L fuzz --output-on-failure --no-tests=error -j2

# What the corpora reach of each parser.
bash tests/fuzz/coverage.sh

# Everything below text/ on aarch64, under emulation.
bash tests/aarch64/run.sh

# Merges killed and terminated at fifty random points.
python3 tests/examples/interrupted_merge.py build/clang/ziya examples --points 50
