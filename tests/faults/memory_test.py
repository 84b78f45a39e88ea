#!/usr/bin/env python3
"""memory_test.py PRETRAIN EXTRACT_FEATURES [--step 4096]: runs the programs with ever larger limits of their address
space and of their data, `step` KiB apart, from one with which they cannot be loaded to ones with which they run to the
end. Each run must succeed, or exit with 2, one line on standard error that speaks of memory or threads, and no
half-written result. Prints a table.

Runs in which the dynamic loader cannot load the program (it exits with 127) say nothing about the program."""

import argparse
import collections
import pathlib
import re
import resource
import shutil
import subprocess
import sys
import tempfile

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "examples"))
import files  # noqa: E402

# Each limit, and the smallest one in KiB: below it the kernel cannot map the program and kills it.
LIMITS = {"address space": (resource.RLIMIT_AS, 4096), "data": (resource.RLIMIT_DATA, 512)}
LARGEST = 1 << 20  # KiB: a program that needs more does not end in time
SLOWEST = 60  # seconds: a program that takes longer hangs
RESULTS = {"checkpoint.safetensors", "features.npy", "labels.npy", "metrics.jsonl", "report.html"}


class Failed(Exception):
    pass


class Sweep:
    def __init__(self, options):
        self.step = options.step
        self.folder = pathlib.Path(tempfile.mkdtemp())
        self.out = self.folder / "run"
        self.data = str(self.folder / "data")
        files.data(self.data)
        self.ends = collections.defaultdict(collections.Counter)

    def command(self, program, *arguments):
        return [str(pathlib.Path(program).resolve()), "--data", self.data, *arguments]

    def run(self, command, kind, kib):
        """The exit code, and what is said on standard error."""
        shutil.rmtree(self.out, ignore_errors=True)
        self.out.mkdir()

        def restrict():
            resource.setrlimit(LIMITS[kind][0], (kib * 1024, kib * 1024))
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))

        try:
            done = subprocess.run(
                command, preexec_fn=restrict, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=SLOWEST
            )
        except subprocess.TimeoutExpired:
            raise Failed(f"runs after {SLOWEST} s")
        return done.returncode, done.stderr

    def how_it_ended(self, code, said):
        if code == 0:
            return "ran"
        if code == 127 and "error while loading shared libraries" in said:
            return "not loaded"
        if code != 2 or said.count("\n") != 1 or not re.search("memory|thread|are free", said):
            raise Failed(f"exit code {code}: {said}")
        left = {file.name for file in self.out.iterdir()} - RESULTS
        if left:
            raise Failed(f"left {', '.join(sorted(left))}")
        return "refused"

    def sweep(self, name, command):
        """Up to the first limit with which the program runs, and a little more."""
        for kind, (_, smallest) in LIMITS.items():
            ran = 0
            for kib in range(smallest, LARGEST, self.step):
                try:
                    end = self.how_it_ended(*self.run(command, kind, kib))
                except Failed as problem:
                    raise Failed(f"{name}, {kind} of {kib} KiB: {problem}")
                self.ends[name, kind][end] += 1
                ran += end == "ran"
                if ran == 2:
                    break
            if ran == 0:
                raise Failed(f"{name}: does not run with {LARGEST} KiB of {kind}")

    def print_table(self):
        print("| program | limit | runs | not loaded | refused | ran |")
        print("| --- | --- | --- | --- | --- | --- |")
        for (name, kind), ends in self.ends.items():
            counts = " | ".join(str(ends[end]) for end in ("not loaded", "refused", "ran"))
            print(f"| {name} | {kind} | {sum(ends.values())} | {counts} |")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pretrain")
    parser.add_argument("extract_features")
    parser.add_argument("--step", type=int, default=4096)
    sweep = Sweep(options := parser.parse_args())
    try:
        brief = ("--epochs", "1", "--warmup-epochs", "0", "--out", str(sweep.out))
        for flags in "-b 16 --threads 1", "-b 16 --threads 2 --workers 4", "-b 120 --threads 8":
            sweep.sweep(f"pretrain {flags}", sweep.command(options.pretrain, *brief, *flags.split()))
        checkpoint = sweep.folder / "checkpoint.safetensors"
        shutil.copy(sweep.out / checkpoint.name, checkpoint)
        for flags in "--threads 1", "--threads 2":
            command = sweep.command(options.extract_features, "--checkpoint", str(checkpoint), *flags.split())
            sweep.sweep(f"extract_features {flags}", command + ["--out", str(sweep.out / "features.npy")])
        sweep.print_table()
    except Failed as problem:
        print(f"FAILED: {problem}")
        return 1
    finally:
        shutil.rmtree(sweep.folder, ignore_errors=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
