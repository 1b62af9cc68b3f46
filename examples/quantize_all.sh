#!/usr/bin/env bash
# All types of a model with their sizes as tab-separated values:
#     examples/quantize_all.sh ./model out/ q8_0 q4_k_m iq4_xs
set -euo pipefail
model=$1 out=$2
shift 2
mkdir -p "$out"
for type in "$@"; do
  qconvert quantize "$model" -t "$type" -o "$out/$type.gguf" --quiet --json |
    python3 -c 'import json, sys; r = json.load(sys.stdin); print(r["file_type"], r["bytes"], r["bits_per_weight"], r["seconds"], sep="\t")'
done
