#!/usr/bin/env bash
# Runs the GPU tests of smelt on a machine with an NVIDIA driver and CUDA 13, and no Rust.
#
#   run.sh                all GPU tests; then the demo model on CPU and GPU
#   run.sh --bench        the same, then figures: OUT/gpu.json, to be kept as bench/gpu.json
#   run.sh --sanitize     the kernel tests under compute-sanitizer: memcheck, then racecheck
#
# NVRTC comes from SMELT_CUDA_HOME, CUDA_HOME, /usr/local/cuda, or Python's nvidia packages. Logs go to OUT [./out].
set -uo pipefail
cd "$(dirname "$0")"
export SMELT_TESTS_DIR="$PWD/tests" SMELT_REQUIRE_GPU=1
if [ -z "${SMELT_CUDA_HOME:-}" ]; then
  nvrtc=$(python3 -c 'import glob, sys
print(next((f for p in sys.path for f in sorted(glob.glob(p + "/nvidia/*/lib/libnvrtc.so.13"))), ""))' 2>/dev/null)
  [ -n "$nvrtc" ] && export SMELT_CUDA_HOME="${nvrtc%/*}"
fi
out="${OUT:-$PWD/out}"
mkdir -p "$out"
failed=0

if [ "${1:-}" = --sanitize ]; then
  # racecheck is slow, and loses track of launches from several threads
  for tool in memcheck racecheck; do
    echo "== compute-sanitizer $tool"
    [ $tool = racecheck ] && export RAYON_NUM_THREADS=1 SMELT_KERNEL_CASES="${SMELT_KERNEL_CASES:-60}"
    # the end of a kernel's parameters is found by asking for one more: no error
    compute-sanitizer --tool "$tool" --report-api-errors no --error-exitcode 9 --print-limit 20 \
      ./gpu-tests --nocapture --test-threads 1 every_kernel filetests >"$out/$tool.log" 2>&1 || failed=1
    grep -E "kernels:|filetests:|test result|ERROR SUMMARY|RACECHECK SUMMARY" "$out/$tool.log"
  done
  [ $failed = 0 ] && echo "== all clean" || echo "== FAILED"
  exit $failed
fi

./smelt doctor || true
echo "== GPU tests"
./gpu-tests --nocapture 2>&1 | tee "$out/gpu-tests.log" || failed=1

echo "== models/demo, f32, on the CPU and on the GPU"
for target in cpu sm_90a; do
  ./smelt generate models/demo --target "$target" --dtype f32 --no-cache --prompt "This function returns" \
    --max-tokens 200 >"$out/demo-$target.txt" || failed=1
done
if cmp "$out/demo-cpu.txt" "$out/demo-sm_90a.txt"; then echo "equal:"; cat "$out/demo-sm_90a.txt"; else failed=1; fi

# The value of a key in a file of JSON.
value() { grep -E "^ *\"$2\":" "$1" | head -n 1 | sed 's/.*: *//; s/,$//'; }

if [ "${1:-}" = --bench ]; then
  echo "== Llama-3.1-8B shape, bf16"
  scratch=$(mktemp -d) || exit 1
  shape="--dtype bf16 --target sm_90a --max-batch-size 32 --max-seq-len 2048 --max-num-tokens 512"
  # shellcheck disable=SC2086
  XDG_CACHE_HOME="$scratch" taskset -c 0,1 ./smelt compile bench/configs/llama-3.1-8b -o "$scratch/8b.plan" \
    --weights dummy $shape --json >"$out/compile.json" || failed=1
  runs=
  for batch in 1 4 8 16 32; do
    ./smelt bench "$scratch/8b.plan" --batch $batch --prompt-len 512 --tokens 128 --json >"$out/bench-$batch.json" || failed=1
    echo "batch $batch: $(grep -E '"(ttft_ms|decode_tokens_per_s)"' "$out/bench-$batch.json" | tr -d '\n')"
    runs="$runs${runs:+,}$(cat "$out/bench-$batch.json")"
  done

  echo "== the same, with kernels chosen by timings"
  # shellcheck disable=SC2086
  ./smelt compile bench/configs/llama-3.1-8b -o "$scratch/8b-timed.plan" --weights dummy $shape --cache-dir "$scratch" \
    --timing-cache "$out/timings.json" --emit kernels --dump-dir "$out" || failed=1
  for batch in 1 4 8 16 32; do
    ./smelt bench "$scratch/8b-timed.plan" --batch $batch --prompt-len 512 --tokens 128 --json >"$out/timed-$batch.json" || failed=1
    echo "batch $batch: $(grep -E '"(ttft_ms|decode_tokens_per_s)"' "$out/timed-$batch.json" | tr -d '\n')"
  done

  echo "== a checkpoint of 16 GB"
  files=/tmp
  [ "$(df --output=avail -BG /dev/shm 2>/dev/null | tail -n 1 | tr -dc 0-9)" -gt 40 ] 2>/dev/null && files=/dev/shm
  files=$(mktemp -d -p "$files") || exit 1
  python3 make_checkpoint.py bench/configs/llama-3.1-8b "$files/8b" || failed=1
  # shellcheck disable=SC2086
  ./smelt compile "$files/8b" -o "$files/8b.plan" $shape --json >"$out/compile-16gb.json" || failed=1
  rm -rf "$files/8b"
  cat "$files/8b.plan" >/dev/null
  ./smelt bench "$files/8b.plan" --batch 1 --prompt-len 512 --tokens 32 --repeat 1 --json >"$out/load.json" || failed=1
  bytes=$(value "$out/compile-16gb.json" stored_weight_bytes)
  load=$(value "$out/load.json" load_ms)
  rm -rf "$files" "$scratch"
  device=$(nvidia-smi --query-gpu=name,driver_version --format=csv,noheader | sed 's/, /, driver /')
  awk -v device="$device" -v compile="$(value "$out/compile.json" total_ms)" -v bytes="$bytes" -v load="$load" \
    -v written="$(value "$out/compile-16gb.json" total_ms)" -v plan="$(value "$out/compile.json" plan_bytes)" \
    -v runs="$runs" 'BEGIN {
      printf "{\"schema_version\": 1, \"device\": \"%s\", \"compile_s\": %.3f, \"plan_bytes\": %d,\n", device, compile / 1e3, plan
      printf "\"compile_16gb_s\": %.2f,\n", written / 1e3
      printf "\"load\": {\"weight_gb\": %.3f, \"s\": %.3f, \"gb_s\": %.3f},\n", bytes / 1e9, load / 1e3, bytes / 1e6 / load
      printf "\"runs\": [%s]}\n", runs
    }' >"$out/gpu.json"
  head -n 3 "$out/gpu.json"
fi
[ $failed = 0 ] && echo "== all green" || echo "== FAILED"
exit $failed
