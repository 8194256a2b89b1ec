#!/usr/bin/env python3
"""Holds `smelt bench` against an outside clock, against itself, and against a wait that is planted between steps.

    check_bench.py SMELT CONFIG OUT [options of smelt bench]

CONFIG is a folder with a config.json; weights are random. Prints what was found, writes OUT/check-bench.json, and ends with
1 where a bound is passed.
"""
import json
import statistics
import subprocess
import sys
import time

smelt, config, out, *more = sys.argv[1:]
line = [smelt, "bench", config, "--weights", "dummy", "--input-len", "512", "--output-len", "128", "--ceilings", "table", *more]


def bench(name, *options):
    """Runs the line; returns its exit code, its report, and the seconds of the whole process."""
    file = f"{out}/{name}.json"
    start = time.monotonic()
    done = subprocess.run([*line, "--json", file, *options], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    seconds = time.monotonic() - start
    if done.returncode not in (0, 8):
        sys.exit(f"{name}: exit code {done.returncode}\n{done.stderr}")
    with open(file) as report:
        return done.returncode, json.load(report), seconds


bench("cached", "--num-runs", "1")

# the same process with more runs takes longer by just these runs
few, many = 10, 60
_, _, short = bench("short", "--num-runs", str(few), "--warmup-runs", "0")
_, report, long = bench("long", "--num-runs", str(many), "--warmup-runs", "0")
tokens = 128 * (many - few)
outside = tokens / (long - short)
inside = report["results"][0]["tokens_per_s"]
clock = abs(inside / outside - 1)

repeats = [bench(f"repeat-{index}", "--num-runs", "10")[1]["results"][0] for index in range(10)]
figures = {
    name: [of(row) for row in repeats]
    for name, of in {
        "ttft_p50": lambda row: row["ttft_ms"]["p50"],
        "tpot_p50": lambda row: row["tpot_ms"]["p50"],
        "decode_tokens_per_s": lambda row: row["decode_tokens_per_s"],
    }.items()
}
spread = {name: (max(values) - min(values)) / statistics.median(values) for name, values in figures.items()}

gate = ["--compare", f"{out}/repeat-0.json", "--fail-if", "tpot_p50>+3%", "--num-runs", "10"]
same, _, _ = bench("same", *gate)
# the next step runs while the host waits: only a wait that is longer than a step is seen, here by 5 %
pause = max(1, round(statistics.median(figures["tpot_p50"]) * 1050))
slower, report, _ = bench("slower", *gate, "--pause", str(pause))
change = next(change for change in report["comparison"] if change["metric"] == "tpot_p50")

found = {
    "outside_clock": {"outside_tokens_per_s": outside, "inside_tokens_per_s": inside, "difference": clock},
    "ten_repeats": {"spread": spread, **figures},
    "gate": {"same": same, "pause_us": pause, "slower": slower, "change": change},
}
with open(f"{out}/check-bench.json", "w") as file:
    json.dump(found, file, indent=1)
print(json.dumps({"outside_clock": found["outside_clock"], "spread": spread, "gate": found["gate"]}, indent=1))
good = clock < 0.02 and all(value < 0.015 for value in spread.values()) and (same, slower) == (0, 8)
sys.exit(0 if good else 1)
