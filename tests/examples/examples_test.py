#!/usr/bin/env python3
"""examples_test.py FOLDER CASE: runs the examples and programs in FOLDER as their pages say, on a small data set."""

import pathlib
import re
import subprocess
import sys
import tempfile

import files

programs = pathlib.Path(sys.argv[1]).resolve()


def run(folder, name, *arguments):
    """Its output; the program must succeed and say nothing on standard error."""
    done = subprocess.run([programs / name, *arguments], cwd=folder, capture_output=True, text=True)
    if done.returncode != 0 or done.stderr:
        sys.exit(f"{name} {' '.join(arguments)}: exit status {done.returncode}\n{done.stdout}{done.stderr}")
    return done.stdout


def require(what, output):
    if not re.search(what, output):
        sys.exit(f"the output lacks '{what}':\n{output}")


short = ["--data", "data", "--batch-size", "16", "--epochs", "1", "--warmup-epochs", "0", "--threads", "1"]


def train(folder):
    require(r"step   50  loss \d.*\nk-NN accuracy 0\.\d+", run(folder, "10_train", "data", "50"))


def attention_policy(folder):
    require(r"loss of a step: \d", run(folder, "20_attention_policy"))


def objective_and_encoder(folder):
    require("report.html", run(folder, "30_objective", *short, "--temperature", "0.3", "--out", "run"))
    require(r"5 images, 96 features", run(folder, "50_encoder", "run/checkpoint.safetensors"))


def dataset(folder):
    require(r"step  32  loss \d", run(folder, "40_dataset"))


def objectives(folder):
    for objective in ("moco_v3", "simclr", "supervised", "mae"):
        out = f"run_{objective}"
        require("k-NN accuracy", run(folder, "pretrain", "--objective", objective, *short, "--metrics-every", "1", "--out", out))
        losses = [row["loss"] for row in files.metrics(folder / out / "metrics.jsonl") if "loss" in row]
        if len(losses) != 7 or not all(isinstance(loss, float) for loss in losses):
            sys.exit(f"{objective}: the losses of 7 steps are {losses}")


def probe(folder):
    run(folder, "pretrain", *short, "--out", "run")
    output = run(folder, "probe", "--data", "data", "--checkpoint", "run/checkpoint.safetensors", "--epochs", "2")
    require(r"k-NN, k = 20 +top-1 0\.\d+  top-5 0\.\d+", output)
    require(r"linear probe: best top-1 0\.\d+, 2 epochs", output)


with tempfile.TemporaryDirectory() as name:
    files.data(f"{name}/data")
    globals()[sys.argv[2]](pathlib.Path(name))
