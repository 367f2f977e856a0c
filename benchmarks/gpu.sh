#!/usr/bin/env bash
# Builds, checks and times the CUDA backend on this machine's GPU; a short table last.
# usage: bash benchmarks/gpu.sh [decode|prefill|batch|kernels …]
set -euo pipefail
cd "$(dirname "$0")/.."

cmake -S . -B build/gpu -G Ninja -DCMAKE_BUILD_TYPE=Release -DCMAKE_CXX_FLAGS_RELEASE=-O2 \
  -DZIYA_BUILD_CUDA=ON -DZIYA_BUILD_TESTS=ON -DZIYA_BUILD_BENCHMARKS=ON -DZIYA_TESTS_UNIT_ONLY=ON >/dev/null
cmake --build build/gpu --target test_cuda gpu_benchmark
ZIYA_REQUIRE_GPU=1 build/gpu/tests/test_cuda
if command -v compute-sanitizer >/dev/null; then
  check() { compute-sanitizer --tool "$1" --report-api-errors no --error-exitcode 1 build/gpu/tests/test_cuda "$2"; }
  check memcheck "[small]"
  check initcheck "[small]~[library]"  # it does not see the stores of the library's large kernels
  check racecheck "[race]"  # a hundred times slower
fi
nvidia-smi --query-gpu=name,driver_version --format=csv,noheader
build/gpu/benchmarks/gpu_benchmark "${*:-all}"
