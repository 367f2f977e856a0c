#!/usr/bin/env bash
# Line coverage that the committed corpora give each parser, measured with clang; fails below 90 %.
# usage: bash tests/fuzz/coverage.sh [report]   `report` prints the missed lines too
set -euo pipefail
cd "$(dirname "$0")/../.."
required=90
build=build/coverage

# One target's corpus is held to the headers that it is for.
declare -A headers=(
  [safetensors]="io/safetensors.hpp"
  [pickle]="io/pickle.hpp io/pickle_value.hpp"
  [pytorch]="io/pytorch.hpp io/zip.hpp"
  [gguf]="io/gguf.hpp io/gguf_metadata.hpp io/gguf_names.hpp text/gguf_vocabulary.hpp model/gguf_config.hpp"
  [session]="generate/session_file.hpp"
  [template]="text/prompt_template.hpp"
  [json]="io/json.hpp model/llama_config.hpp"
  [tokenizer_json]="text/tokenizer_config.hpp text/tokenizer_documents.hpp text/added_tokens.hpp"
  [adapter_config]="model/lora_config.hpp model/name_pattern.hpp"
  [grammar]="generate/grammar.hpp generate/grammar_parser.hpp generate/grammar_matcher.hpp generate/number_table.hpp"
  [schema]="generate/json_schema.hpp"
  [tokenizer_model]="text/sentencepiece_model.hpp text/protobuf.hpp"
)

cmake --preset coverage >/dev/null
cmake --build --preset coverage --target fuzz_replays
low=0
for name in $(printf '%s\n' "${!headers[@]}" | sort); do
  program=$build/tests/fuzz/fuzz_replay_$name
  LLVM_PROFILE_FILE=$build/$name.profraw "$program" "tests/fuzz/corpus/$name" >/dev/null
  llvm-profdata merge -sparse "$build/$name.profraw" -o "$build/$name.profdata"
  for header in ${headers[$name]}; do
    file=$PWD/include/ziya/$header
    lines=$(llvm-cov export "$program" -instr-profile="$build/$name.profdata" -summary-only "$file" |
            python3 -c 'import json, sys
files = json.load(sys.stdin)["data"][0]["files"]
print("%.1f" % files[0]["summary"]["lines"]["percent"] if files else "0.0")')
    printf '%-16s %-36s %5s %%\n' "$name" "$header" "$lines"
    if [ "${lines%.*}" -lt $required ]; then low=1; fi
    if [ "${1:-}" = report ]; then
      llvm-cov show "$program" -instr-profile="$build/$name.profdata" "$file" | grep -E '^ +[0-9]+\| +0\|' || true
    fi
  done
done
exit $low
