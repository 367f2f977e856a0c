#!/usr/bin/env bash
# From a fresh Debian 12 to text: installs the packages, builds the `ziya` program, and goes the way
# of the real model with the bundled miniature: converts its base, published as LLaMA was, merges it
# with the delta, verifies the result and asks it two questions.
# usage: bash examples/quickstart.sh
set -euo pipefail
cd "$(dirname "$0")/.."

bash cmake/packages.sh run
cmake --preset release >/dev/null
cmake --build --preset release --target ziya_cli
ziya=build/release/ziya tiny=examples/ziya-tiny

"$ziya" convert --from meta --overwrite --input "$tiny/llama" --model-size 3M \
  --output build/ziya-tiny-base
"$ziya" merge-delta --strict --overwrite --base build/ziya-tiny-base --delta "$tiny/delta" \
  --target build/ziya-tiny
"$ziya" fingerprint build/ziya-tiny | tail -n 1

for question in "背诵李白的《静夜思》" "What is the capital of France?"; do
  printf '\n> %s\n' "$question"
  "$ziya" generate build/ziya-tiny --greedy --prompt "$question"
done
