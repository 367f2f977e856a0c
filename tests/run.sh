#!/usr/bin/env bash
# Installs what is missing, builds the tests and runs them; --full adds what is too long for every
# change (clang, all tests under the sanitizers, fuzzing, the aarch64 build, the Python references).
set -euo pipefail
cd "$(dirname "$0")/.."

full=no
[ "${1:-}" = --full ] && full=yes

bash cmake/packages.sh "$([ $full = yes ] && echo full || echo test)"

# The labelled subset under the address and undefined-behaviour sanitizers, and what has threads of
# its own under the thread sanitizer.
cmake --preset asan >/dev/null
cmake --build --preset asan --target sanitize
ctest --test-dir build/asan -L sanitize --output-on-failure --no-tests=error -j2
cmake --preset tsan >/dev/null
cmake --build --preset tsan --target test_backend test_threads
ctest --test-dir build/tsan -R '^test_(backend|threads)' --output-on-failure --no-tests=error -j2

if [ $full = yes ]; then
  bash tests/full.sh
fi

cmake --preset tests >/dev/null
cmake --build --preset tests
ctest --test-dir build/tests --output-on-failure --no-tests=error -j2
