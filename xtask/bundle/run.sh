#!/usr/bin/env bash
# Runs the GPU tests of smelt on a machine with an NVIDIA driver and CUDA 13, and no Rust.
#
#   run.sh                all GPU tests; then the demo model on CPU and GPU
#   run.sh --bench        figures: reports of `smelt bench` in OUT/h200, to be kept in bench/h200, and OUT/gpu.json (compile
#                         and load), to be kept as bench/gpu.json
#   run.sh --bench NAME   the reports whose whole names match NAME, an extended regular expression
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

# The value of a key in a file of JSON.
value() { grep -E "^ *\"$2\":" "$1" | head -n 1 | sed 's/.*: *//; s/,$//'; }

if [ "${1:-}" = --bench ]; then
  scratch=$(mktemp -d) || exit 1
  export SMELT_CACHE_DIR="$scratch/cache"
  mkdir -p "$out/h200"
  ln -sfn "$out/h200" reports

  # A report: its name, the configuration, and options. Weights are random.
  report() {
    local name=$1 config=$2
    shift 2
    [[ $name =~ ^($wanted)$ ]] || return
    echo "== $name"
    # reports have the command line in them, and no path of this machine
    ./smelt bench "bench/configs/$config" --weights dummy --dtype bf16 --target sm_90a --json "reports/$name.json" \
      --markdown "$@" || failed=1
  }
  wanted=${2:-.*}
  line="--input-len 512 --output-len 128"
  hundred="--num-runs 100 --warmup-runs 10"
  ten="--num-runs 10 --warmup-runs 2"
  small="--batch-sizes 1 4 8 --max-batch-size 8 --max-seq-len 2048 --max-num-tokens 512"
  large="--batch-sizes 16 32 64 128 --max-batch-size 128 --max-seq-len 2048 --max-num-tokens 8192"
  fp8="--precision fp8 --lm-head-precision fp8"
  int4="--precision int4 --lm-head-precision fp8"
  # shellcheck disable=SC2086
  {
    report llama-3.1-8b-bf16 llama-3.1-8b $line $hundred $small
    report llama-3.1-8b-fp8 llama-3.1-8b $line $hundred $small $fp8
    report llama-3.1-8b-int4 llama-3.1-8b $line $hundred $small $int4
    report llama-3.1-8b-bf16-large llama-3.1-8b $line $ten $large
    report llama-3.1-8b-fp8-large llama-3.1-8b $line $ten $large $fp8
    report llama-3.1-8b-int4-large llama-3.1-8b $line $ten $large $int4
    report llama-3.2-1b-bf16 llama-3.2-1b $line $hundred $small
    report llama-3.2-1b-bf16-large llama-3.2-1b $line $ten $large
    report qwen3-8b-bf16 qwen3-8b $line $ten $small
    for length in 4096 16384 32768; do
      # 32 sequences of the shortest
      case $length in 4096) sizes="1 32" most=32 ;; *) sizes=1 most=1 ;; esac
      report llama-3.1-8b-bf16-long-$length llama-3.1-8b --input-len $length --output-len 128 --num-runs 5 --warmup-runs 1 \
        --batch-sizes $sizes --max-batch-size $most --max-seq-len $((length + 128)) --max-num-tokens 8192
    done
  }
  [ "$wanted" != '.*' ] && { rm -rf "$scratch"; exit $failed; }

  echo "== compile and load: Llama-3.1-8B shape, bf16, a checkpoint of 16 GB"
  shape="--dtype bf16 --target sm_90a --max-batch-size 32 --max-seq-len 2048 --max-num-tokens 512"
  # shellcheck disable=SC2086
  SMELT_CACHE_DIR="$scratch/fresh" taskset -c 0,1 ./smelt compile bench/configs/llama-3.1-8b -o "$scratch/8b.plan" \
    --weights dummy $shape --json >"$out/compile.json" || failed=1
  files=/tmp
  [ "$(df --output=avail -BG /dev/shm 2>/dev/null | tail -n 1 | tr -dc 0-9)" -gt 40 ] 2>/dev/null && files=/dev/shm
  files=$(mktemp -d -p "$files") || exit 1
  python3 make_checkpoint.py bench/configs/llama-3.1-8b "$files/8b" || failed=1
  # shellcheck disable=SC2086
  ./smelt compile "$files/8b" -o "$files/8b.plan" $shape --json >"$out/compile-16gb.json" || failed=1
  rm -rf "$files/8b"
  cat "$files/8b.plan" >/dev/null
  ./smelt bench "$files/8b.plan" --output-len 32 --num-runs 1 --json "$out/load.json" || failed=1
  bytes=$(value "$out/compile-16gb.json" stored_weight_bytes)
  load=$(value "$out/load.json" load_ms)
  rm -rf "$files" "$scratch"
  device=$(nvidia-smi --query-gpu=name,driver_version --format=csv,noheader | sed 's/, /, driver /')
  awk -v device="$device" -v compile="$(value "$out/compile.json" total_ms)" -v bytes="$bytes" -v load="$load" \
    -v written="$(value "$out/compile-16gb.json" total_ms)" -v plan="$(value "$out/compile.json" plan_bytes)" 'BEGIN {
      printf "{\"schema_version\": 1, \"device\": \"%s\", \"compile_s\": %.3f, \"plan_bytes\": %d,\n", device, compile / 1e3, plan
      printf "\"compile_16gb_s\": %.2f,\n", written / 1e3
      printf "\"load\": {\"weight_gb\": %.3f, \"s\": %.3f, \"gb_s\": %.3f}}\n", bytes / 1e9, load / 1e3, bytes / 1e6 / load
    }' >"$out/gpu.json"
  cat "$out/gpu.json"
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
[ $failed = 0 ] && echo "== all green" || echo "== FAILED"
exit $failed
