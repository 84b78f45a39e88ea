#!/usr/bin/env python3
"""mpi_test.py LAUNCHER PROGRAM RANKS CASE: starts mpi_collectives on RANKS processes and checks what they say, how the
job ends, and that it does so in time."""

import re
import signal
import subprocess
import sys
import time


def flags_of(launcher):
    version = subprocess.run([launcher, "--version"], capture_output=True, text=True)
    if re.search("OpenRTE|Open MPI", version.stdout + version.stderr):
        return ["--oversubscribe", "--allow-run-as-root", "--mca", "mpi_yield_when_idle", "1"]
    return []


class Job:
    """A job that has ended: status, output and milliseconds."""

    def __init__(self, command):
        start = time.monotonic()
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        try:
            self.output, _ = process.communicate(timeout=60)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGTERM)
            time.sleep(1)
            process.kill()
            self.output, _ = process.communicate()
        self.status = process.returncode
        self.milliseconds = (time.monotonic() - start) * 1000

    def said(self, text):
        return len(re.findall(f"^rank [0-9]*: {text}$", self.output, re.MULTILINE))

    def check(self, right, problem):
        if not right:
            sys.exit(f"FAILED: {problem}\n{self.output}")

    def within(self, limit):
        self.check(self.milliseconds <= limit, f"the job ended after {self.milliseconds:.0f} ms, not within {limit} ms")

    def right(self, ranks):
        self.check(self.said("right") == ranks, f"{ranks} ranks were to find everything right")

    def returns(self, status):
        self.check(self.status == status, f"the launcher returned {self.status}, not {status}")

    def fails(self):
        self.check(self.status != 0, "the launcher returned 0")


def check(job, ranks, case):
    if case in ("definition", "large", "many"):
        job.right(ranks)
        job.returns(0)
    elif case in ("silence", "stop"):
        job.right(ranks - 1)
        job.fails()
        job.within(8000)
    elif case == "death":
        job.fails()
        killed = re.search("signal:? 9|exit code: 9", job.output, re.IGNORECASE)
        job.check(killed, "the launcher did not tell of a rank that was killed")
        crashed = re.search("signal:? 11|exit code: 11", job.output, re.IGNORECASE)
        job.check(not crashed, "a rank crashed")
        job.within(5000)
    elif case == "exception":
        job.right(ranks - 1)
        job.check(job.said("rank 1 has no data") == 1, "rank 1 did not say what happened to it")
        job.fails()
    else:
        job.right(ranks)
        job.returns(75)
        job.within(8000)


def main(launcher, program, ranks, case):
    check(Job([launcher, *flags_of(launcher), "-n", ranks, program, case]), int(ranks), case)


if __name__ == "__main__":
    main(*sys.argv[1:])
