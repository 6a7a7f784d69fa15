#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-or-later
# Builds the fuzz target with clang and fuzzes for some seconds: run.sh CLANG FOLDER SECONDS SEED
# What it finds stays in FOLDER/corpus for the next run; a crash is written to FOLDER. SEED 0 is another one each time.
set -eu

clang=$1 folder=$2 seconds=$3 seed=$4
mkdir -p "$folder/corpus" "$folder/objects"
folder=$(cd "$folder" && pwd)
cd "$(dirname "$0")/.."

rooms='-Iinclude -Isrc/ring -Isrc/engine -Isrc/seam -Isrc/sim -Isrc/sim/broker -Isrc/xen'
rm -f "$folder"/objects/*.o
compile() { # SANITIZERS SOURCE
    "$clang" -std=gnu11 -D_GNU_SOURCE= -g -O1 -Wall -Wextra -Werror -fsanitize="$1" -fno-sanitize-recover=all \
        -fno-omit-frame-pointer $rooms -Itests -Ifuzz -c "$2" -o "$folder/objects/$(basename "$2" .c).o"
}
# What the inputs are to reach is the engine: no more is instrumented, which is twice as fast, too.
for source in src/*/*.c src/sim/broker/*.c tests/rig.c tests/rig_view.c fuzz/*.c; do
    case $source in
    src/engine/worker*.c) compile address,undefined "$source" ;;
    src/engine/*) compile fuzzer-no-link,address,undefined "$source" ;;
    *) compile address,undefined "$source" ;;
    esac
done
"$clang" -fsanitize=fuzzer,address,undefined "$folder"/objects/*.o -lpthread -ldl -o "$folder/fuzz_chain"
python3 fuzz/make_seeds.py "$folder/seeds"
"$folder/fuzz_chain" -seed="$seed" -max_total_time="$seconds" -max_len=1024 -len_control=0 -print_final_stats=1 \
    -verbosity=0 -artifact_prefix="$folder/" "$folder/corpus" "$folder/seeds"
