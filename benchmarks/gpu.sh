#!/usr/bin/env bash
# Builds, checks and times the CUDA backend on this machine's GPU; a short table last. A check that
# fails, a tool that is missing and a value that misses what is asked of an H100 are failures.
# usage: bash benchmarks/gpu.sh [decode|prefill|batch|kernels|quantised|pages|blocks …]    all of them and loading by default
set -euo pipefail
cd "$(dirname "$0")/.."
export ZIYA_REQUIRE_GPU=1
log=build/gpu/gpu.log

command -v compute-sanitizer >/dev/null || { echo "gpu.sh: there is no compute-sanitizer" >&2; exit 1; }
cmake -S . -B build/gpu -G Ninja -DCMAKE_BUILD_TYPE=Release -DCMAKE_CXX_FLAGS_RELEASE=-O2 \
  -DZIYA_BUILD_CUDA=ON -DZIYA_BUILD_TESTS=ON -DZIYA_BUILD_BENCHMARKS=ON >/dev/null
cmake --build build/gpu --target cuda_tests gpu_benchmark

ctest --test-dir build/gpu -L cuda --output-on-failure --no-tests=error
check() { compute-sanitizer --tool "$1" --report-api-errors no --error-exitcode 1 "${@:3}" build/gpu/tests/test_cuda "$2"; }
check memcheck "~[memory]"  # all but the cases that fill the GPU
# It does not see the stores of the library's large kernels, which sum_mixed reads.
check initcheck "[small]~[library]" --kernel-name-exclude kernel_substring=sum_mixed
check racecheck "[race]"    # a hundred times slower

nvidia-smi --query-gpu=name,driver_version --format=csv,noheader | tee "$log"
build/gpu/benchmarks/gpu_benchmark "${*:-all}" | tee -a "$log"
if [ $# = 0 ]; then
  model=${ZIYA_GPU_MODEL:-build/gpu/13b}
  [ -e "$model/model.safetensors" ] || python3 benchmarks/large_model.py examples/ziya-tiny/delta "$model"
  sync
  build/gpu/benchmarks/gpu_benchmark load "$model" | tee -a "$log"
  python3 benchmarks/first_token.py build/gpu/ziya "$model" | tee -a "$log"
fi
nvidia-smi --query-gpu=temperature.gpu,power.draw --format=csv,noheader

echo
echo "| what | value | asked | |"
echo "|---|---|---|---|"
grep '^| ' "$log"
! grep -q '| missed |$' "$log"
