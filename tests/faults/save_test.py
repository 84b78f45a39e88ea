#!/usr/bin/env python3
"""save_test.py PROGRAM [CASE...] [--seed 1] [--samples 10 | --all]: injects faults into pretrain while it saves and
reads checkpoints, and checks how it ends: with the exit code and the message that docs/running.md promises, and with a
folder in which every file is whole and from which the run continues to the bits of an undisturbed one. Prints a table.

Cases: kills, errors and interruptions in system calls; power (losses, by a model of the disk); streams (closed, full);
signals; runs (two in one folder); damage (of a checkpoint). --samples: how many of many alike, chosen by the seed."""

import argparse
import ast
import collections
import concurrent.futures
import functools
import json
import math
import os
import pathlib
import random
import re
import resource
import signal
import sys
import time

import disk
from injection import CHECKPOINT, Failed, Job, Place, check, contents, error_text, finish, leftovers, reach, run
from injection import saves_of, split_checkpoint, start, strace_problem

import files  # of tests/examples

ERRORS = ("ENOSPC", "EIO", "EDQUOT", "EROFS")
INTERRUPTIBLE = ("openat", "fstat", "flock", "ftruncate", "read", "pread64", "write", "fsync", "close")
INTERRUPTIBLE += ("rename", "unlink")
STREAMS = {
    "stdin closed": "<&-",
    "stdout closed": ">&-",
    "stderr closed": "2>&-",
    "all closed": "<&- >&- 2>&-",
    "stdout full": ">/dev/full",
    "stderr full": "2>/dev/full",
}
STOPPED = 85
USE_A_SECOND = "import os, sys, time\nwhile time.process_time() < 1: pass\nos.execv(sys.argv[1], sys.argv[1:])"


def refused(ended, *texts):
    """Exit code 2, and one line on standard error, which holds every text."""
    check(ended.code == 2, f"exit code {ended.code}, not 2: {ended.errors.strip()}")
    check(ended.errors.count("\n") == 1, f"not one line on standard error: '{ended.errors.strip()}'")
    for text in texts:
        check(text in ended.errors, f"'{ended.errors.strip()}' does not say '{text}'")


def in_shell(text, command):
    """The command with what the shell does before, or redirects."""
    return ["sh", "-c", text, "sh", *command]


# Faults in system calls.


def ends_of_kinds(calls):
    """The first, middle and last call of each name on each file."""
    kinds = collections.defaultdict(list)
    for call in calls:
        kinds[call.name, call.path].append(call)
    return [kind[i] for kind in kinds.values() for i in sorted({0, len(kind) // 2, len(kind) - 1})]


def is_renamed(save, call):
    """Whether the new checkpoint has its name when the call comes."""
    names = [one.name for one in save]
    return call not in save or save.index(call) > names.index("rename")


def kills(place):
    """Before each call of the second save, and before the call that follows."""
    saves, checkpoints = place.record_saves()
    save, following = saves[1]
    ends = ends_of_kinds([*save, following])
    others = place.sample([call for call in save if call not in ends])
    continued = ends + others[: place.count(2, 60)]

    def body(call):
        folder = place.job_folder()
        ended = place.inject(folder, [*place.short, "--out", folder / "run"], call, "signal=SIGKILL")
        check(ended.code == -signal.SIGKILL, f"exit code {ended.code} after SIGKILL")
        step = 2 if is_renamed(save, call) else 1
        check((folder / CHECKPOINT).read_bytes() == checkpoints[step], f"the checkpoint is not that of step {step}")
        if call in continued:
            place.continues(place.short, folder)

    for call in ends + others:
        yield Job(f"kill at {call.name}", str(call), functools.partial(body, call))


def errors(place):
    saves, checkpoints = place.record_saves()
    save, _ = saves[1]

    def body(call, error):
        folder = place.job_folder()
        ended = place.inject(folder, [*place.short, "--out", folder / "run"], call, f"error={error}")
        named = CHECKPOINT if call.path.startswith(CHECKPOINT) else call.path
        refused(ended, f"{folder / named}", {"openat": "open"}.get(call.name, call.name), error_text(error))
        step = 2 if is_renamed(save, call) else 1
        check((folder / CHECKPOINT).read_bytes() == checkpoints[step], f"the checkpoint is not that of step {step}")
        check(not leftovers(folder), f"left: {leftovers(folder)}")

    for call in ends_of_kinds(save):
        if (call.name, call.path) == ("close", "run"):
            continue  # this one says nothing about the disk
        for error in place.random.sample(ERRORS, place.count(1, len(ERRORS))):
            yield Job(f"error of {call.name}", f"{error}, {call}", functools.partial(body, call, error))


def interruptions(place):
    """EINTR in a run that continues, and a write that takes nothing."""
    _, checkpoints = place.record_saves()

    def run_with(how):
        folder = place.job_folder()
        (folder / "run").mkdir()
        (folder / CHECKPOINT).write_bytes(checkpoints[1])
        (folder / "run/metrics.jsonl").write_bytes((place.undisturbed(place.short) / "metrics.jsonl").read_bytes())
        return folder, how(folder, [*place.short, "--resume", folder / CHECKPOINT, "--out", folder / "run"])

    def interrupt(call):
        folder, ended = run_with(lambda *where: place.inject(*where, call, "error=EINTR"))
        check((ended.code, ended.errors) == (0, ""), f"exit code {ended.code}: {ended.errors.strip()}")
        place.compare(place.short, folder)
        check(not leftovers(folder), f"left: {leftovers(folder)}")

    def take_nothing(call):
        folder, ended = run_with(lambda *where: place.inject(*where, call, "retval=0"))
        refused(ended, f"{folder / CHECKPOINT}", "write")
        check((folder / CHECKPOINT).read_bytes() == checkpoints[1], "the checkpoint has changed")
        check(not leftovers(folder), f"left: {leftovers(folder)}")

    _, calls = run_with(place.record)
    save, _ = saves_of(calls)[0]
    # A folder that is listed, and a path that is asked for, are the standard library's affair.
    calls = [call for call in calls if call.kind() in INTERRUPTIBLE and (call.path != "run" or call in save)]
    kinds = ends_of_kinds(calls)
    chosen = [call for call in kinds if call in save or call.path == CHECKPOINT]
    for call in chosen + place.sample([call for call in kinds if call not in chosen]):
        yield Job(f"interrupted {call.kind()}", str(call), functools.partial(interrupt, call))
    for call in ends_of_kinds([call for call in save if call.name == "write"]):
        yield Job("write takes nothing", str(call), functools.partial(take_nothing, call))


# Losses of power.


def power(place):
    """After each call of a run into a new folder."""
    _, checkpoints = place.record_saves()
    folder = place.job_folder()
    out = "above/run"
    calls = place.record(folder, [*place.short, "--out", folder / out])
    model = disk.Disk(f"{out}/checkpoint.safetensors")
    moments = [(call, model.saved, list(disk.trees(model.root))) for call in calls if model.follow(call)]
    model.end(checkpoints[1:], folder)
    rows = (folder / out / "metrics.jsonl").read_bytes().splitlines(keepends=True)
    until = [b"".join(row for row in rows if json.loads(row)["step"] <= step) for step in range(len(checkpoints))]
    until[0] = b""  # a run that starts anew needs none

    def check_tree(tree, saved, chance):
        """How many states there are with these names."""

        def held(name):
            return disk.contents_of(tree[f"{out}/{name}"], chance) if f"{out}/{name}" in tree else [None]

        states = 0
        for checkpoint in held("checkpoint.safetensors"):
            check(checkpoint in checkpoints, "checkpoint.safetensors is not whole")
            step = checkpoints.index(checkpoint)
            check(step >= saved, f"checkpoint.safetensors is of step {step}, but that of step {saved} was saved")
            for metrics in held("metrics.jsonl"):
                check((metrics or b"").startswith(until[step]), f"metrics.jsonl has not all rows to step {step}")
                states += 1
        for name in ("features.npy", "labels.npy", "report.html"):
            for content in held(name):
                check(content in (None, (folder / out / name).read_bytes()), f"{name} is not whole")
        return states

    def body(trees, saved, chance):
        return sum(check_tree(tree, saved, chance) for tree in trees)

    def continued(tree, chance):
        folder = place.job_folder()
        (folder / "run").mkdir()
        for path, state in tree.items():
            name = re.sub(r"\.tmp$", ".1.tmp", os.path.basename(path))
            (folder / "run" / name).write_bytes(chance.choice(list(disk.contents_of(state, chance))))
        if (folder / CHECKPOINT).is_file():
            place.continues(place.short, folder)
        else:
            ended = run([*place.short, "--out", folder / "run"])
            check(ended.code == 0, f"exit code {ended.code}: {ended.errors.strip()}")
            place.compare(place.short, folder)

    for call, saved, trees in moments:
        yield Job("power loss, files", f"after {call}", functools.partial(body, trees, saved, place.chance()))
    names = sorted({call.name for call, _, _ in moments})
    for _ in range(place.count(8, 40)):
        name = place.random.choice(names)
        call, _, trees = place.random.choice([moment for moment in moments if moment[0].name == name])
        body_here = functools.partial(continued, place.random.choice(trees), place.chance())
        yield Job("power loss, next run", f"after {call}", body_here)


# Streams and signals.


def streams(place):
    whole = place.undisturbed(place.short)

    def succeeds(redirections):
        folder = place.job_folder()
        ended = run(in_shell(f'exec "$@" {redirections}', [*place.short, "--out", folder / "run"]))
        check(ended.code == 0, f"exit code {ended.code}: {ended.errors.strip()}")
        place.compare(place.short, folder)

    def fails(redirections):
        folder = place.job_folder()
        command = [*place.short, "--data", "nowhere", "--out", folder / "run"]
        ended = run(in_shell(f'exec "$@" {redirections}', command))
        check(ended.code == 2, f"exit code {ended.code}, not 2: {ended.errors.strip()}")

    def extracts(redirections):
        folder = place.job_folder()
        program = pathlib.Path(place.program).with_name("extract_features")
        command = [program, "--data", place.data, "--checkpoint", whole / "checkpoint.safetensors"]
        ended = run(in_shell(f'exec "$@" {redirections}', [*command, "--out", folder / "features.npy"]))
        check(ended.code == 0, f"exit code {ended.code}: {ended.errors.strip()}")
        check((folder / "features.npy").read_bytes() == (whole / "features.npy").read_bytes(), "other features")

    for name, redirections in STREAMS.items():
        yield Job(name, "a run", functools.partial(succeeds, redirections))
        yield Job(name, "an error", functools.partial(fails, redirections))
        yield Job(name, "extract_features", functools.partial(extracts, redirections))


def check_whole(folder):
    """Every result that is there is whole."""
    for path in folder.glob("run/*.npy"):
        content = path.read_bytes()
        begin = 10 + int.from_bytes(content[8:10], "little")
        header = ast.literal_eval(content[10:begin].decode())
        size = int(header["descr"][2:]) * math.prod(header["shape"])
        check(len(content) == begin + size, f"{path.name} has {len(content) - begin} bytes of data, not {size}")
    for path in folder.glob("run/report.html"):
        check(path.read_text().rstrip().endswith("</html>"), "report.html does not end")
    for path in folder.glob("run/metrics.jsonl"):
        files.metrics(path)


def signals(place):
    place.undisturbed(place.short)
    place.undisturbed(place.long)
    results_take = place.time_of_results()
    monitor = place.folder / "monitor"
    files.data(monitor, 12, 2000)  # a monitor takes long

    def send(numbers, pause, process):
        for at, number in enumerate(numbers):
            time.sleep(pause if at > 0 else 0)
            process.send_signal(number)

    def close_pipe(process):
        process.stdout.close()

    def limit_time(process):
        resource.prlimit(process.pid, resource.RLIMIT_CPU, (1, 20))

    def stops(act, before=()):
        folder = place.job_folder()
        process = start([*before, *place.long, "--out", folder / "run"])
        reach(process, "step 1/")
        act(process)
        ended = finish(process)
        check(ended.code == STOPPED, f"exit code {ended.code}, not {STOPPED}: {ended.errors.strip()}")
        place.continues(place.long, folder)

    def ends_at_once():
        process = start([*place.long, "--data", monitor, "--out", place.job_folder() / "run"])
        reach(process, "parameters trained")
        send([signal.SIGINT] * 2, 0.1, process)
        ended = finish(process)
        check(ended.code == -signal.SIGINT, f"exit code {ended.code}, not {-signal.SIGINT}")

    def is_ignored():
        folder = place.job_folder()
        process = start(in_shell('trap "" HUP; exec "$@"', [*place.long, "--out", folder / "run"]))
        reach(process, "step 1/")
        process.send_signal(signal.SIGHUP)
        ended = finish(process)
        check(ended.code == 0, f"exit code {ended.code}, not 0")
        place.compare(place.long, folder)

    def file_too_large():
        folder = place.stopped()
        before = (folder / CHECKPOINT).read_bytes()
        again = [*place.long, "--save-every", "1", "--out", folder / "run", "--resume", folder / CHECKPOINT]
        refused(run(in_shell('ulimit -f 2000; exec "$@"', again)), f"{folder / CHECKPOINT}", "File too large")
        check((folder / CHECKPOINT).read_bytes() == before, "the checkpoint has changed")
        check_whole(folder)
        check(not leftovers(folder), f"left: {leftovers(folder)}")

    def stop_again(pause, process):
        """The second signal comes when the run has stopped and the program ends."""
        process.terminate()
        reach(process, "stopped by a signal")
        time.sleep(pause)
        process.terminate()

    def after_training(line, pause):
        folder = place.job_folder()
        process = start([*place.short, "--out", folder / "run"])
        reach(process, line)
        time.sleep(pause)
        process.send_signal(signal.SIGTERM)
        ended = finish(process)
        check(ended.code in (0, STOPPED), f"exit code {ended.code}, not 0 or {STOPPED}: {ended.errors.strip()}")
        check_whole(folder)
        whole = place.undisturbed(place.short) / "checkpoint.safetensors"
        check((folder / CHECKPOINT).read_bytes() == whole.read_bytes(), "the checkpoint has other bits")
        place.continues(place.short, folder)

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP):
        yield Job(number.name, "one", functools.partial(stops, functools.partial(send, [number], 0)))
    for number in (signal.SIGTERM, signal.SIGHUP):
        for pause in [0.02] + [place.random.random() / 20 for _ in range(place.count(1, 10))]:
            twice = functools.partial(send, [number] * 2, pause)
            yield Job(f"{number.name} twice", f"{1000 * pause:.1f} ms apart", functools.partial(stops, twice))
    yield Job("SIGINT twice", "while the monitor runs", ends_at_once)
    yield Job("SIGHUP ignored", "as by nohup", is_ignored)
    yield Job("SIGPIPE", "the reader of the output goes away", functools.partial(stops, close_pipe))
    used = [sys.executable, "-c", USE_A_SECOND]
    yield Job("SIGXCPU", "a limit of processor time", functools.partial(stops, limit_time, used))
    yield Job("SIGXFSZ", "a limit of file size", file_too_large)
    for _ in range(place.count(6, 40)):
        pause = place.random.random() * results_take
        results = functools.partial(after_training, "step 3/3", pause)
        yield Job("SIGTERM at results", f"{1000 * pause:.1f} ms after the last step", results)
    for _ in range(place.count(4, 20)):
        pause = place.random.random() * 0.003
        end = functools.partial(after_training, "report.html", pause)
        yield Job("SIGTERM at the end", f"{1000 * pause:.1f} ms after the last line", end)
        again = functools.partial(stops, functools.partial(stop_again, pause))
        yield Job("SIGTERM at the end", f"the second, {1000 * pause:.1f} ms after the last line", again)


# Two runs, and damaged files.


def runs(place):
    whole = place.undisturbed(place.short)
    place.undisturbed(place.long)

    def into_finished():
        before = contents(whole)
        refused(run([*place.short, "--out", whole]), "--resume", "--overwrite", "--out")
        check(contents(whole) == before, "files have changed")

    def overwrites():
        folder = place.job_folder()
        for flags in ["--seed", "1"], ["--overwrite"]:
            ended = run([*place.short, "--out", folder / "run", *flags])
            check(ended.code == 0, f"exit code {ended.code} with {flags[0]}: {ended.errors.strip()}")
        place.compare(place.short, folder)

    def running():
        """A run in the background that continues from a checkpoint in its folder."""
        folder = place.stopped()
        process = start([*place.long, "--out", folder / "run", "--resume", folder / CHECKPOINT])
        reach(process, "step ")
        return folder, process

    def into_running(flags):
        folder, first = running()
        first.send_signal(signal.SIGSTOP)
        flags = [flag.format(folder / CHECKPOINT) for flag in flags]
        second = run([*place.long, "--out", folder / "run", *flags])
        first.send_signal(signal.SIGCONT)
        ended = finish(first)
        refused(second, str(folder / "run"), f"{first.pid}", os.uname().nodename)
        check(ended.code == 0, f"exit code {ended.code} of the first run: {ended.errors.strip()}")
        place.compare(place.long, folder)

    def after_killed():
        folder, process = running()
        process.kill()
        finish(process)
        ended = place.continues(place.long, folder)
        check("lock" not in ended.output, f"a word about the lock: {ended.output}")

    def at_once():
        folder = place.job_folder()
        both = [start([*place.short, "--out", folder / "run"]) for _ in range(2)]
        won, lost = sorted((finish(process) for process in both), key=lambda ended: ended.code)
        check(won.code == 0, f"exit codes {won.code} and {lost.code}: {won.errors.strip()}")
        refused(lost, str(folder / "run"))
        place.compare(place.short, folder)

    yield Job("a run into a finished one", "", into_finished)
    yield Job("--overwrite", "", overwrites)
    for flags in ["--resume", "{}"], ["--overwrite"], []:
        yield Job("a run into one that runs", " ".join(flags), functools.partial(into_running, flags))
    yield Job("a run after SIGKILL", "", after_killed)
    for number in range(place.count(3, 20)):
        yield Job("two runs at once", str(number), at_once)


def damage(place):
    content = memoryview((place.undisturbed(place.short) / "checkpoint.safetensors").read_bytes())
    metadata, header_end = split_checkpoint(content)
    size = len(content)

    def body(parts):
        folder = place.job_folder()
        with open(folder / "damaged.safetensors", "wb") as file:
            file.writelines(parts)
        resume = ["--resume", folder / "damaged.safetensors", "--out", folder / "run"]
        refused(run([*place.short, *resume]), f"{folder}/damaged.safetensors")

    def job(fault, what, *parts):
        return Job(fault, what, functools.partial(body, parts))

    def flip(fault, at, bit):
        return job(fault, f"bit {bit} of byte {at}", content[:at], bytes([content[at] ^ 1 << bit]), content[at + 1 :])

    def last_character(key):
        entry = json.dumps({key: metadata[key]}, separators=(",", ":"))[1:-1].encode()
        return bytes(content[:header_end]).index(entry) + len(entry) - 2

    others = sorted(key for key in metadata if metadata[key] and key not in ("step", "seed"))
    for key in ["step", "seed", *place.random.sample(others, min(place.count(4, 40), len(others)))]:
        yield flip("flip in the metadata", last_character(key), 0)
    for _ in range(place.count(4, 50)):
        yield flip("flip in the header", place.random.randrange(header_end), place.random.randrange(8))
    for _ in range(place.count(8, 90)):
        yield flip("flip in tensors", place.random.randrange(header_end, size), place.random.randrange(8))
    pages = [begin for begin in range(0, size - disk.BLOCK, disk.BLOCK) if any(content[begin : begin + disk.BLOCK])]
    for begin in [0, *place.random.sample(pages, place.count(2, 20))]:
        end = begin + disk.BLOCK
        yield job("page of zeros", f"bytes {begin} to {end}", content[:begin], bytes(disk.BLOCK), content[end:])
    for left in [0, 7, header_end, size - 1, *(place.random.randrange(size) for _ in range(place.count(2, 20)))]:
        yield job("file cut short", f"{left} bytes left", content[:left])


CASES = {case.__name__: case for case in (kills, errors, interruptions, power, streams, signals, runs, damage)}
TRACED = ("kills", "errors", "interruptions", "power")


def run_case(place, case):
    """Rows of the table, and failures."""
    counts, wrong = collections.Counter(), collections.defaultdict(list)
    try:
        jobs = list(CASES[case](place))
    except Failed as problem:
        jobs = [Job(case, "preparation", functools.partial(check, False, str(problem)))]
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        for job, (count, problem) in zip(jobs, pool.map(place.outcome, jobs)):
            counts[job.fault] += count
            if problem:
                wrong[job.fault].append(f"{job.what}: {problem}")
    return counts, wrong


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("program", help="pretrain; extract_features is beside it")
    parser.add_argument("cases", nargs="*", metavar="CASE", help=", ".join(CASES))
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--samples", type=int, default=10)
    parser.add_argument("--all", action="store_true")
    options = parser.parse_args()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGXCPU):
        if signal.getsignal(number) == signal.SIG_IGN:  # by a shell's & or nohup; programs would ignore it as well
            signal.signal(number, signal.SIG_DFL)
    untraced = strace_problem(options.program)
    failures = []
    print("| fault | cases | result |\n| --- | --- | --- |")
    for case in options.cases or CASES:
        if case in TRACED and untraced:
            print(f"{case} is skipped: {untraced}", flush=True)
            continue
        place = Place(options.program, f"{options.seed} {case}", None if options.all else options.samples)
        try:
            counts, wrong = run_case(place, case)
        finally:
            place.clean_up()
        for fault, count in counts.items():
            result = f"{len(wrong[fault])} wrong" if wrong[fault] else "as promised"
            print(f"| {fault} | {count} | {result} |", flush=True)
            failures += [f"FAILED: seed {options.seed}, {case}, {fault}, {text}" for text in wrong[fault][:5]]
    for failure in failures:
        print(failure)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
