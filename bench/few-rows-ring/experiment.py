#!/usr/bin/env python3
"""Compiles and measures variants of the prototype: experiment.py PROGRAM KERNELS CONFIGS [OUT.json].

Needs a GPU, NVRTC (SMELT_CUDA_HOME), and a program built with prototype.patch. Prints tok/s of each variant and batch.
"""
import concurrent.futures
import json
import os
import subprocess
import sys
import tempfile

FORMATS = {"bf16": [], "fp8": ["--precision", "fp8"], "int4": ["--precision", "int4"]}
LIMITS = ["--max-batch-size", "32", "--max-seq-len", "2048", "--max-num-tokens", "512"]


def variants():
    for name, options in FORMATS.items():
        yield f"{name}-base", options, {}
        yield f"{name}-timeline", options, {"SMELT_X_DEFINES": "TIMELINE=1"}
        for stages in (2, 3, 4):
            defines = "RING=1,ATT_SIGNAL=1,RINGPAD=102400,RINGBLOCKS=2"
            ring = {"SMELT_X_CFG": f"*:8/1/{stages}/264", "SMELT_X_PAD": "102400", "SMELT_X_CARVEOUT": "100"}
            yield f"{name}-ring-{stages}", options, {"SMELT_X_DEFINES": defines, **ring}


def main():
    program, kernels, configs = sys.argv[1:4]
    scratch = tempfile.mkdtemp()
    common = {**os.environ, "SMELT_X_KERNELS": kernels, "XDG_CACHE_HOME": scratch}
    listed = list(variants())

    def compile_one(variant):
        name, options, env = variant
        command = [program, "compile", f"{configs}/llama-3.1-8b", "-o", f"{scratch}/{name}.plan", "--weights", "dummy"]
        command += ["--dtype", "bf16", "--target", "sm_90a", *LIMITS, *options]
        subprocess.run(command, env={**common, **env}, check=True, capture_output=True)

    with concurrent.futures.ThreadPoolExecutor(6) as pool:
        list(pool.map(compile_one, listed))
    results = []
    for name, _, env in listed:
        for batch in (1, 8):
            timeline = {"SMELT_X_TIMELINE": f"{scratch}/{name}-{batch}.txt"} if "timeline" in name else {}
            command = [program, "bench", f"{scratch}/{name}.plan", "--batch", str(batch), "--prompt-len", "512"]
            command += ["--tokens", "96", "--repeat", "3", "--json"]
            done = subprocess.run(command, env={**common, **env, **timeline}, check=True, capture_output=True)
            report = json.loads(done.stdout)
            results.append({"variant": name, "batch": batch, **report})
            print(f"{name:24} batch {batch}: {report['decode_tokens_per_s']:8.1f} tok/s", flush=True)
    if len(sys.argv) > 4:
        with open(sys.argv[4], "w") as out:
            json.dump(results, out, indent=2)


main()
