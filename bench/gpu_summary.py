#!/usr/bin/env python3
"""results.json, and on standard output the tables of results.md, from the folder that bench/gpu.sh fills."""
import json
import pathlib
import re
import sys

CACHE = 100e6  # bytes: an operation on fewer works in the device's cache, and the copy's rate does not bound it
BARS = {"vit_base_16": {"speed": 1.3, "share": 0.50}, "vit_small_16": {"speed": 1.5}, "vit_large_16": {"share": 0.55}}
COPY_SHARE, MEMORY = 0.85, 0.02

out = pathlib.Path(sys.argv[1])
logs = out / "logs"


def lines_of(name):
    file = logs / name
    return file.read_text(errors="replace").splitlines() if file.exists() else []


def json_lines(name):
    found = []
    for line in lines_of(name):
        if line.startswith("{"):
            try:
                found.append(json.loads(line))
            except json.JSONDecodeError:
                pass  # a line that a time limit cut off
    return found


def benchmarks(name):
    """Of a Google Benchmark file, by name. The file of a program that was stopped ends in the middle."""
    text = "\n".join(lines_of(name))
    start, found = text.find('"benchmarks": ['), {}
    for entry in re.findall(r"\{[^{}]*\}", text[start:]) if start >= 0 else []:
        try:
            one = json.loads(entry)
        except json.JSONDecodeError:
            continue
        found[re.sub(r"/iterations:1/manual_time$", "", one["name"])] = one
    return found


def table(*columns):
    print("\n| " + " | ".join(columns) + " |")
    print("| " + " | ".join("---" for _ in columns) + " |")


def row(*cells):
    print("| " + " | ".join(str(cell) for cell in cells) + " |")


def number(value, form=".1f"):
    return "-" if value is None else format(value, form)


def verdict(value, bar):
    return "-" if value is None or bar is None else ("yes" if value >= bar else "**no**") + f" ({bar:g})"


def ratio(value, of):
    return value / of if value and of else None


checks = []  # what the bars say, for results.json


def check(what, value, bar, holds=None):
    if value is not None and bar is not None:
        checks.append({"what": what, "value": value, "bar": bar, "holds": value >= bar if holds is None else holds})


def all_benchmarks(*stages):
    """Of all parts of the stages; of two with one name, the later stage's."""
    found = {}
    for stage in stages:
        for file in sorted(logs.glob(stage + ".*.json")):
            found |= benchmarks(file.name)
    return found


ceilings, kernels = all_benchmarks("ceilings"), all_benchmarks("kernels", "products", "attention")
# Ratios to the peer count if both were measured on one card, in one call.
steps = all_benchmarks("step_most", "step_large", "step", "step_peer")
peers = [one for stage in ("peer", "compiled", "tuned") for one in json_lines(stage + ".log")]
stages = [one for file in sorted(logs.glob("stages.*.jsonl")) for one in json_lines(file.name)]
product = ceilings.get("ceiling/product_8192", {}).get("TFLOP/s")
copy = ceilings.get("ceiling/copy_2GiB", {}).get("GB/s")
smi = [line for line in lines_of("machine.txt") if re.match(r"^NVIDIA .*,.*,", line)]

print("# The CUDA backend, measured")
print("\n" + (smi[0] if smi else "The machine did not say what it is.") + "; " + "".join(lines_of("machine.txt")[:1]))
table("stage", "status", "seconds")
for stage in stages:
    row(stage["stage"], stage["status"], stage["seconds"])

print("\n## Correctness\n")
for name in ("tests", "memcheck", "racecheck"):
    lines = lines_of(name + ".log")
    passed = sum(int(n) for line in lines for n in re.findall(r"\[  PASSED  \] (\d+) test", line))
    told = [line.strip("= ") for line in lines if re.search(r"\[  (FAILED|SKIPPED) |SUMMARY: [^0]*[1-9]", line)]
    print(f"- {name}: " + "; ".join([f"{passed} tests passed", *told[:12]] if lines else ["was not run"]))

print(f"\n## Ceilings\n\nbf16 product of 8192 cubed: {number(product)} TFLOP/s. Copy, read and written: {number(copy)} GB/s.")

problems = {name: one["error_message"] for found in (ceilings, kernels, steps) for name, one in found.items()
            if one.get("error_occurred")}
if problems:
    print("\n## Not measured\n")
    for name, problem in problems.items():
        print(f"- {name}: {problem}")

by_bytes = {name: one for name, one in kernels.items() if "GB/s" in one}
if by_bytes:
    print("\n## Operations that memory bounds")
    table("operation", "MB", "ms", "GB/s", "share of the copy", f"at least {COPY_SHARE:.0%}")
    for name, one in by_bytes.items():
        share, cached = ratio(one["GB/s"], copy), one["bytes"] < CACHE
        row(name, number(one["bytes"] / 1e6), number(one["real_time"], ".4f"), number(one["GB/s"]), number(share, ".0%"),
            "in cache" if cached else verdict(share, COPY_SHARE))
        if not cached:
            check(name, share, COPY_SHARE)

by_flops = {name: one for name, one in kernels.items() if "TFLOP/s" in one and not name.startswith("attention")}
if by_flops:
    print("\n## Products")
    table("operation", "ms", "TFLOP/s", "share of the product")
    for name, one in by_flops.items():
        row(name, number(one["real_time"], ".4f"), number(one["TFLOP/s"]), number(ratio(one["TFLOP/s"], product), ".0%"))
for name, one in kernels.items():
    if "items/s" in one:
        print(f"\n{name}: {one['items/s']:.0f} views/s.")

shapes = [name.removeprefix("attention_forward/") for name in kernels if name.startswith("attention_forward/")]
if shapes:
    print("\n## Attention\n\nTFLOP/s; images x tokens x heads x width of a head. Both: forward and backward together.")
    table("shape", "forward", "backward", "both", "flash forward", "flash backward", "both", "ratio", "cuDNN, both")
    for shape in shapes:
        ours = [kernels.get(f"attention_{way}/{shape}", {}) for way in ("forward", "backward")]
        ours_ms = [one.get("real_time") for one in ours]
        flops = (ours[0].get("TFLOP/s") or 0) * (ours_ms[0] or 0)

        def both(forward_ms, backward_ms):
            return 3.5 * flops / (forward_ms + backward_ms) if forward_ms and backward_ms else None

        theirs = {one.get("backend"): one for one in peers if one["name"] == "attention/" + shape and "error" not in one}
        flash, cudnn = theirs.get("flash", {}), theirs.get("cudnn", {})
        mine = both(*ours_ms) if all("TFLOP/s" in one for one in ours) else None
        flash_both = both(flash.get("forward_ms"), flash.get("backward_ms"))
        cudnn_both = both(cudnn.get("forward_ms"), cudnn.get("backward_ms"))
        row(shape, *(number(one.get("TFLOP/s")) for one in ours), number(mine), number(flash.get("forward_TFLOP/s")),
            number(flash.get("backward_TFLOP/s")), number(flash_both), number(ratio(mine, flash_both), ".2f"),
            number(cudnn_both))
        check("attention " + shape + " over flash", ratio(mine, flash_both), 1)


def mode(one):
    return f"{one['mode']}, {'stacked' if one['stacked'] else 'separate'}, residual {one['residual']}"


if steps:
    print("\n## Training steps\n\nThe peer is the fastest of PyTorch's modes that were measured on as large a batch, or on "
          "the largest that it fits.")
    table("model", "batch", "images/s", "ms", "TFLOP/s", "share of the product", "holds", "planned GiB", "peak GiB",
          "off", "PyTorch", "its batch", "its images/s", "ratio", "holds", "its peak GiB")
    for name, one in steps.items():
        model, asked = re.fullmatch(r"step_(\w+)/(\w+)", name).groups()
        if "images/s" not in one:
            row(model, asked, *(["-"] * 14))
            continue
        plain = model.removesuffix("_recomputed")
        bars = BARS.get(model, {})
        share = ratio(one["TFLOP/s"], product)
        off = one["peak_bytes"] / one["planned_bytes"] - 1
        rivals = [p for p in peers if p["name"] == "step_" + plain and "images/s" in p and str(p["asked"]) == asked]
        best = max(rivals, key=lambda p: p["images/s"], default=None)
        speed = ratio(one["images/s"], best and best["images/s"])
        row(model, f"{one['batch']:.0f}", number(one["images/s"]), number(one["real_time"]), number(one["TFLOP/s"]),
            number(share, ".0%"), verdict(share, bars.get("share")), number(one["planned_bytes"] / 2**30, ".2f"),
            number(one["peak_bytes"] / 2**30, ".2f"), f"{off:+.1%}" + ("" if abs(off) <= MEMORY else " **no**"),
            mode(best) if best else "-", best["batch"] if best else "-", number(best and best["images/s"]),
            number(speed, ".2f"), verdict(speed, bars.get("speed")),
            number(best and "peak_bytes" in best and best["peak_bytes"] / 2**30 or None, ".2f"))
        check(f"{name} share of the product", share, bars.get("share"))
        check(f"{name} over PyTorch", speed, bars.get("speed"))
        check(f"{name} peak memory over the plan", off, MEMORY, abs(off) <= MEMORY)

rivals = [p for p in peers if p["name"].startswith("step_")]
if rivals:
    print(f"\n### Every mode of PyTorch {rivals[0]['torch']}")
    table("model", "batch", "mode", "images/s", "ms", "peak GiB", "warm-up s")
    for p in rivals:
        model = p["name"].removeprefix("step_")
        if "error" in p:
            row(model, p["asked"], mode(p), p["error"], *(["-"] * 3))
        else:
            peak = p["peak_bytes"] / 2**30 if "peak_bytes" in p else None
            row(model, p["batch"], mode(p), number(p["images/s"]), number(p["ms"]), number(peak, ".2f"),
                number(p["warm_up_s"]))
for p in peers:
    if p["name"].startswith("product") and "TFLOP/s" in p:
        print(f"\nPyTorch's {p['name']}: {p['TFLOP/s']:.1f} TFLOP/s.")

runs = {}
for stage in ("pretrain", "longer"):
    metrics = json_lines(f"{stage}/metrics.jsonl")
    accuracies, rates = [m for m in metrics if "knn" in m], [m for m in metrics if m.get("images_per_second")]
    took = next((s["seconds"] for s in stages if s["stage"] == stage), None)
    if accuracies and rates:
        runs[stage] = {"knn": accuracies[-1]["knn"], "epochs": accuracies[-1]["epoch"], "seconds": took,
                       "images_per_second": rates[-1]["images_per_second"], "data_wait": rates[-1].get("data_wait")}
if runs:
    print("\n## Fashion-MNIST from files")
    table("run", "epochs", "k-NN accuracy", "images/s", "share spent waiting for data", "seconds, everything")
    for stage, one in runs.items():
        row(stage, number(one["epochs"]), number(one["knn"], ".4f"), number(one["images_per_second"], ".0f"),
            number(one["data_wait"], ".0%"), one["seconds"])

if checks:
    missed = [c for c in checks if not c["holds"]]
    print(f"\n## Bars\n\n{len(checks) - len(missed)} of {len(checks)} hold." + (" Missed:\n" if missed else ""))
    for c in missed:
        print(f"- {c['what']}: {c['value']:.3f}, bar {c['bar']:g}")

(out / "results.json").write_text(json.dumps(
    {"machine": lines_of("machine.txt"), "stages": stages, "ceilings": ceilings, "kernels": kernels, "steps": steps,
     "peer": peers, "pretraining": runs, "checks": checks}, indent=1))
