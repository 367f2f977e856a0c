#!/usr/bin/env bash
# Installs what is missing, builds the tests and runs them; --full adds what is too long for every
# change (clang, all tests under the sanitizers, fuzzing, the aarch64 build, the Python references).
set -euo pipefail
cd "$(dirname "$0")/.."

full=no
[ "${1:-}" = --full ] && full=yes

bash cmake/packages.sh "$([ $full = yes ] && echo full || echo test)"

# The labelled subset under address, undefined-behaviour and thread sanitizers.
for preset in asan tsan; do
  cmake --preset $preset >/dev/null
  cmake --build --preset $preset --target sanitize
  ctest --test-dir build/$preset -L sanitize --output-on-failure --no-tests=error -j2
done

if [ $full = yes ]; then
  bash tests/full.sh
fi

cmake --preset tests >/dev/null
cmake --build --preset tests
ctest --test-dir build/tests --output-on-failure --no-tests=error -j2
