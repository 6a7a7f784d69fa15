#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-or-later
# Builds the fuzz target with clang and fuzzes for some seconds: run.sh CLANG FOLDER SECONDS
# What it finds stays in FOLDER/corpus for the next run; a crash is written to FOLDER.
set -eu

clang=$1 folder=$2 seconds=$3
here=$(cd "$(dirname "$0")/.." && pwd)

mkdir -p "$folder/corpus"
"$clang" -std=gnu11 -D_GNU_SOURCE= -g -O1 -Wall -Wextra -Werror -fsanitize=fuzzer,address,undefined \
    -fno-sanitize-recover=all -fno-omit-frame-pointer -I"$here/include" -I"$here/src" -I"$here/tests" -I"$here/fuzz" \
    "$here"/src/*.c "$here/tests/rig.c" "$here/tests/rig_view.c" "$here"/fuzz/*.c -lpthread -ldl -o "$folder/fuzz_chain"
python3 "$here/fuzz/make_seeds.py" "$folder/seeds"
"$folder/fuzz_chain" -max_total_time="$seconds" -max_len=1024 -len_control=0 -print_final_stats=1 -verbosity=0 \
    -artifact_prefix="$folder/" "$folder/corpus" "$folder/seeds"
