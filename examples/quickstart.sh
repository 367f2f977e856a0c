#!/usr/bin/env bash
# From a fresh Debian 12 to text: installs the packages, builds the `ziya` program, merges the
# bundled miniature (base + delta) and asks the result two questions.
# usage: bash examples/quickstart.sh
set -euo pipefail
cd "$(dirname "$0")/.."

bash cmake/packages.sh run
cmake --preset release >/dev/null
cmake --build --preset release --target ziya_cli
ziya=build/release/ziya

"$ziya" merge-delta --overwrite --target build/ziya-tiny \
  --base examples/ziya-tiny/base --delta examples/ziya-tiny/delta

for question in "背诵李白的《静夜思》" "What is the capital of France?"; do
  printf '\n> %s\n' "$question"
  "$ziya" generate build/ziya-tiny --greedy --prompt "$question"
done
