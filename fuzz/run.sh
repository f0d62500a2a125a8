#!/bin/sh
# Runs one fuzz target: sh fuzz/run.sh TARGET SECONDS PROGRAM. Shows a line every ten seconds. Ends with
# another status than 0 when an input breaks a promise, shows how, and says where the input is.
set -eu
target=$1 seconds=$2 program=$3
found=target/fuzz/found/$target
log=target/fuzz/$target.log
mkdir -p "$found"
printf '%s: %s s\n' "$target" "$seconds"
"$program" -max_total_time="$seconds" -timeout=10 -max_len=4096 -rss_limit_mb=2048 \
  -dict="fuzz/dictionaries/$target.dict" -artifact_prefix="target/fuzz/$target-" \
  "$found" "fuzz/corpus/$target" >"$log" 2>&1 &
running=$!
trap 'kill "$running" 2>/dev/null || true' EXIT INT TERM
waited=0
while kill -0 "$running" 2>/dev/null; do
  sleep 1
  waited=$((waited + 1))
  [ $((waited % 10)) -ne 0 ] || { grep -a '^#' "$log" | tail -n 1; }
done
trap - EXIT INT TERM
if wait "$running"; then
  grep -a '^Done' "$log" | sed "s/^/$target: /"
else
  grep -a -v '^#' "$log" | tail -n 40 >&2
  printf '%s: an input breaks a promise. The whole story is in %s.\n' "$target" "$log" >&2
  printf 'Once it is mended, keep the input: mv target/fuzz/%s-crash-... fuzz/corpus/%s/\n' "$target" "$target" >&2
  exit 1
fi
