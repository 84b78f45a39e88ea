"""Runs of pretrain that are small and have the same bits every time, and faults in their system calls, by strace."""

import collections
import errno
import json
import os
import pathlib
import random
import re
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import threading
import time

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "examples"))
import files  # noqa: E402

PATIENCE = 60  # seconds; no run takes that long
CHECKPOINT = "run/checkpoint.safetensors"


class Failed(Exception):
    pass


def check(right, problem):
    if not right:
        raise Failed(problem)


# A program that has ended: its exit code, or minus the signal, and what it wrote.
Ended = collections.namedtuple("Ended", "code output errors")

# One case: its row in the table, what it does, and the function that does it, which throws Failed.
Job = collections.namedtuple("Job", "fault what body")


class Call(collections.namedtuple("Call", "name number path target text result")):
    """A system call of the main thread: the number-th of that name, from 1. `path` is relative to the folder of the
    recorded run, without process ids, and None outside; `target` is a rename's second path. `result` is None if the
    call did not return."""

    def kind(self):
        return "fstat" if self.name == "newfstatat" and "AT_EMPTY_PATH" in self.text else self.name

    def __str__(self):
        return f"{self.kind()} {self.number} on {self.path or 'the folder above'}"


started = []


def start(command):
    """A program in the background, in a session of its own; its output is a pipe."""
    streams = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    process = subprocess.Popen([str(word) for word in command], text=True, start_new_session=True, **streams)
    started.append(process)
    return process


def finish(process):
    try:
        output, errors = process.communicate(timeout=PATIENCE)
    except subprocess.TimeoutExpired:
        raise Failed(f"still running after {PATIENCE} s")
    return Ended(process.returncode, output, errors)


def run(command):
    return finish(start(command))


def kill_all():
    """What still runs of what was started."""
    for process in started:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    started.clear()


def reach(process, text):
    """Reads the output until a line has the text."""
    for line in process.stdout:
        if text in line:
            return
    raise Failed(f"ended with {finish(process).code} before '{text}'")


def strace_problem(program):
    """Why calls cannot be traced here, or an empty text; programs with a leak checker do not run under strace."""
    if shutil.which("strace") is None:
        return "there is no strace"
    ended = run(["strace", "-f", "-o", "/dev/null", program, "--help"])
    return "" if ended.code == 0 else f"strace ends with {ended.code}: {ended.errors.strip()[-200:]}"


def parse(log, folder):
    """The calls of a log of strace -f -y -s 0."""
    pattern = re.compile(re.escape(str(folder)) + r'(?:/([^"<>]*?))?(?: \(deleted\))?[">]')
    calls, numbers, main = [], collections.Counter(), None
    for line in log.read_text(errors="replace").splitlines():
        process, text = line.split(maxsplit=1)
        main = main or process
        begin = re.match(r"(\w+)\(", text)
        if process != main:
            continue
        if begin:
            numbers[begin[1]] += 1
            calls.append(Call(begin[1], numbers[begin[1]], None, None, text, None))
        elif text.startswith("<... "):
            calls[-1] = calls[-1]._replace(text=calls[-1].text + text.split("resumed>", 1)[1])
    for at, call in enumerate(calls):
        paths = [re.sub(r"\.[0-9]+\.tmp$", ".tmp", path) for path in pattern.findall(call.text)]
        results = re.findall(r"\) += (-?[0-9]+)", call.text)
        target = paths[1] if call.name.startswith("rename") and len(paths) > 1 else None
        calls[at] = call._replace(
            path=paths[0] if paths else None, target=target, result=int(results[-1]) if results else None
        )
    return calls


def saves_of(calls):
    """The calls of each save of a checkpoint: metrics reach the disk, the temporary file is written and renamed, the
    folder reaches the disk. With each, the call that follows."""
    saves = []
    for at, call in enumerate(calls):
        if call.target != CHECKPOINT:
            continue
        first = max(i for i in range(at) if calls[i].name.startswith("open") and calls[i].path == call.path)
        while calls[first - 1].name == "fsync" and calls[first - 1].path.endswith("metrics.jsonl"):
            first -= 1
        last = at
        while last + 1 < len(calls) and calls[last + 1].path == str(pathlib.Path(CHECKPOINT).parent):
            last += 1
        saves.append((calls[first : last + 1], calls[last + 1]))
    return saves


def leftovers(folder):
    return sorted(path.name for path in folder.rglob("*.tmp"))


def contents(folder):
    """The files below a folder and what is in them."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def split_checkpoint(content):
    """Its metadata, and where the header ends."""
    (length,) = struct.unpack("<Q", content[:8])
    return json.loads(bytes(content[8 : 8 + length]))["__metadata__"], 8 + length


class Place:
    """A folder for runs of the program, and the runs that nothing disturbs. `samples` is None if all are wanted."""

    def __init__(self, program, seed, samples):
        self.program, self.samples = str(pathlib.Path(program).resolve()), samples
        self.random = random.Random(seed)
        self.folder = pathlib.Path(tempfile.mkdtemp()).resolve()
        self.data = self.folder / "data"
        files.data(self.data, 12, 4)
        flags = ["--data", self.data, "--batch-size", "4", "--warmup-epochs", "0", "--threads", "1"]
        flags += ["--workers", "1", "--knn-bank", "4", "--metrics-every", "1"]
        self.short = [self.program, *flags, "--epochs", "1", "--save-every", "1"]  # three steps, a save after each
        self.long = [self.program, *flags, "--epochs", "64", "--save-every", "1000", "--knn-every", "16"]  # about 1 s
        self.whole, self.thread = {}, threading.local()

    def clean_up(self):
        kill_all()
        shutil.rmtree(self.folder, ignore_errors=True)

    def count(self, few, many):
        return many if self.samples is None else few

    def sample(self, cases):
        return self.random.sample(cases, min(self.count(self.samples, len(cases)), len(cases)))

    def chance(self):
        """For a thread of its own."""
        return random.Random(self.random.random())

    def job_folder(self):
        """A new folder; one that a job's thread makes is removed after the job."""
        folder = pathlib.Path(tempfile.mkdtemp(dir=self.folder))
        if threading.current_thread() is not threading.main_thread():
            self.thread.folders.append(folder)
        return folder

    def outcome(self, job):
        """How many cases the job was, and what is wrong, if anything."""
        self.thread.folders = []
        try:
            return job.body() or 1, ""
        except Failed as problem:
            return 1, str(problem)
        except (OSError, ValueError, KeyError) as problem:  # files that are not there, or not what they should be
            return 1, f"{type(problem).__name__}: {problem}"
        finally:
            for folder in self.thread.folders:
                shutil.rmtree(folder, ignore_errors=True)

    # Runs.

    def undisturbed(self, command):
        """The folder of results of a run that nothing disturbs; made by the first call, before any job."""
        key = " ".join(map(str, command))
        if key not in self.whole:
            assert threading.current_thread() is threading.main_thread()
            self.whole[key] = self.job_folder() / "run"
            ended = run([*command, "--out", self.whole[key]])
            check(ended.code == 0, f"exit code {ended.code} without a fault: {ended.errors}")
        return self.whole[key]

    def compare(self, command, folder):
        """The run has become what it would have been without the fault, but for the clock."""
        whole = self.undisturbed(command)
        for name in ("checkpoint.safetensors", "features.npy", "labels.npy"):
            check((whole / name).read_bytes() == (folder / "run" / name).read_bytes(), f"{name} has other bits")
        rows = [files.metrics(path / "metrics.jsonl") for path in (whole, folder / "run")]
        check(rows[0] == rows[1], "metrics.jsonl has other rows")

    def continues(self, command, folder):
        """The run continues from the checkpoint that is there, and becomes what it would have been."""
        ended = run([*command, "--out", folder / "run", "--resume", folder / CHECKPOINT])
        check(ended.code == 0, f"exit code {ended.code} of the run that continues: {ended.errors.strip()}")
        self.compare(command, folder)
        check(not leftovers(folder), f"left by the run that continues: {leftovers(folder)}")
        check(ended.errors == "", f"the run that continues says: {ended.errors.strip()}")
        return ended

    def stopped(self):
        """The folder of a long run that was stopped after its first steps."""
        folder = self.job_folder()
        process = start([*self.long, "--out", folder / "run"])
        reach(process, "step 1/")
        process.terminate()
        check(finish(process).code == 85, "SIGTERM does not stop the run with exit code 85")
        return folder

    def time_of_results(self):
        """Seconds from the line of the last step to the end."""
        process = start([*self.short, "--out", self.job_folder() / "run"])
        reach(process, "step 3/3")
        begin = time.monotonic()
        finish(process)
        return time.monotonic() - begin

    # System calls.

    def trace(self, folder, command, *expressions):
        log = folder / "strace"
        ended = run(["strace", "-f", "-y", "-s", "0", "-o", log, *expressions, *command])
        return ended, parse(log, folder)

    def record(self, folder, command):
        """The calls of an undisturbed run that concern the folder."""
        ended, calls = self.trace(folder, command, "-e", "trace=%file,%desc")
        check(ended.code == 0, f"exit code {ended.code} under strace: {ended.errors}")
        return [call for call in calls if call.path is not None and call.name != "execve"]

    def inject(self, folder, command, call, fault):
        """Runs with a fault in one of the recorded calls: error=NAME or retval=VALUE in its place, and signal=SIGKILL
        before it does anything."""
        inject = f"inject={call.name}:{fault}:when={call.number}"
        ended, calls = self.trace(folder, command, "-e", f"trace={call.name}", "-e", inject)
        hit = [(one.path, one.target) for one in calls if one.number == call.number]
        check(hit == [(call.path, call.target)], f"the fault hits {hit}; the calls are not those of the recorded run")
        return ended

    def record_saves(self):
        """The calls of the saves of a short run, each with the call that follows; and the checkpoints by their steps,
        None in front."""
        folder = self.job_folder()
        command = [*self.short, "--out", folder / "run"]
        saves = saves_of(self.record(folder, command))
        check(len(saves) == 3, f"{len(saves)} saves in three steps")
        checkpoints = [None]
        for _, following in saves[:2]:
            folder = self.job_folder()
            self.inject(folder, [*self.short, "--out", folder / "run"], following, "signal=SIGKILL")
            checkpoints.append((folder / CHECKPOINT).read_bytes())
        return saves, [*checkpoints, (self.undisturbed(self.short) / "checkpoint.safetensors").read_bytes()]


def error_text(name):
    return os.strerror(getattr(errno, name))
