#!/usr/bin/env bash
# Builds the tests of everything below text/ for aarch64 and runs them under emulation.
set -euo pipefail
cd "$(dirname "$0")/../.."

build=build/aarch64
mkdir -p $build/include
# Only the header-only libraries: the rest of /usr/include belongs to the host.
for library in catch2 nlohmann eigen3; do ln -sfn /usr/include/$library $build/include/$library; done

flags=(-std=c++20 -O1 -Iinclude -Itests -isystem $build/include -isystem $build/include/eigen3
       -DCATCH_CONFIG_NO_POSIX_SIGNALS -DZIYA_TEST_DATA=\"$PWD/tests/data\"
       -DZIYA_EXAMPLES=\"$PWD/examples\" -DZIYA_SHARED_DATA=\"$PWD/../shared/data\")
sources=(tests/support/main.cpp tests/{core,io,backend,backend/quantize,ops,nn}/*_test.cpp)
printf '%s\n' "${sources[@]}" | xargs -P "$(nproc)" -I{} sh -c '
  out=$1/$(echo "$2" | tr / _).o; shift 2
  aarch64-linux-gnu-g++ "$@" -c "$0" -o "$out"' {} $build {} "${flags[@]}"
aarch64-linux-gnu-g++ -static $build/*.o -o $build/tests -lpthread
qemu-aarch64-static $build/tests
