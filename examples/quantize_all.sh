#!/usr/bin/env bash
# Several types of a model, GGUF or safetensors, with their sizes as tab-separated values:
#     examples/quantize_all.sh ./model out q8_0 q4_k_m w8a8
# What is there already is left, so one more type costs that one type.
set -euo pipefail
if [ $# -lt 3 ]; then
  echo "usage: $0 MODEL FOLDER TYPE..." >&2
  exit 2
fi
model=$1 out=$2
shift 2
result=$(qconvert quantize "$model" "${@/#/-t}" -o "$out/" --quiet --json)
python3 -c '
import json, sys
for r in json.load(sys.stdin)["outputs"]:
    print(r["file_type"], r["bytes"], r["bits_per_weight"], r["path"], sep="\t")
' <<< "$result"
