#!/usr/bin/env python3
"""faults_test.py PROGRAM [--seed 1] [--count 50] [--slack 0]: injects faults into jobs of 2 or 3 ranks of pretrain_mpi,
at random times, and checks how each job ends: in time, with the exit code and the message that docs/distributed.md
promises, no process left, and a checkpoint from which the run continues to the bits of an undisturbed one. Prints a
table. --slack: milliseconds more for a job to end, on a machine that does other things as well.

Kinds take turns: a rank is killed, or stopped; a signal to one rank, or to mpirun; a failure of one rank's own; and the
link between two hosts, which are network namespaces, is cut. The last one is skipped where these are not allowed."""

import argparse
import collections
import filecmp
import os
import pathlib
import random
import re
import resource
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import time

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "examples"))
import files  # noqa: E402

RANK_TIMEOUT = 3  # --rank-timeout, in seconds
# Milliseconds from the fault to the end of the last process. mpirun takes up to two seconds to end a job: it sends
# SIGTERM and, a second later, SIGKILL.
LIMITS = {
    "kill": 4000,
    "stop": 1000 * RANK_TIMEOUT + 2000,
    "signal": 4000,
    "launcher": 4000,
    "own": 4000,
    "cut": 1000 * RANK_TIMEOUT + 2000,
}
SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)
OWN_FAILURES = ("data", "checkpoint", "storage")
CALL = r"(all_reduce|all_gather|reduce_scatter|broadcast) of [0-9]+ [a-z0-9]+ \(call [0-9]+\)"


class Failed(Exception):
    pass


def run_rank(folder, victim, fault, *command):
    """What mpirun starts: leaves the process id in the folder and becomes the program; on rank `victim` with the fault
    data, checkpoint or storage, if that is what `fault` names."""
    rank = os.environ["OMPI_COMM_WORLD_RANK"]
    pathlib.Path(folder, rank).write_text(str(os.getpid()))
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # Python ignores both
    signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
    if rank == victim:
        if fault == "data":
            command += ("--data", "nowhere")
        elif fault == "checkpoint":
            command += ("--resume", "nowhere")
        elif fault == "storage":
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            limit = 8000 * 1024  # a checkpoint is larger
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    os.execv(command[0], command)


def now():
    return time.monotonic_ns() // 1_000_000


class Hosts:
    """Two hosts and the link between them; `names` is empty, and `problem` says why, if that is not allowed."""

    def __init__(self, folder):
        self.folder, self.names, self.problem = folder, [], ""
        if shutil.which("ip") is None:
            self.problem = "there is no ip (iproute2)"
            return
        wanted = [f"tessera-{os.getpid()}-{end}" for end in "ab"]
        for name in wanted:
            if not self.ip("netns", "add", name):
                return
            self.names.append(name)
        cable = ["cable", "netns", wanted[0], "type", "veth", "peer", "name", "cable", "netns", wanted[1]]
        if not self.ip("link", "add", *cable):
            self.remove()
            return
        for end, name in enumerate(self.names):
            self.ip("-n", name, "address", "add", f"10.99.0.{end + 1}/24", "dev", "cable")
            self.ip("-n", name, "link", "set", "lo", "up")
            self.ip("-n", name, "link", "set", "cable", "up")
        (folder / "hosts").write_text("10.99.0.1 slots=2\n10.99.0.2 slots=2\n")
        remote = folder / "remote"
        remote.write_text(f'#!/bin/sh\nshift\nexec ip netns exec {self.names[1]} sh -c "$*"\n')
        remote.chmod(remote.stat().st_mode | stat.S_IXUSR)

    def ip(self, *arguments):
        done = subprocess.run(["ip", *arguments], capture_output=True, text=True)
        if done.returncode != 0 and not self.problem:
            self.problem = f"ip {' '.join(arguments)}: {done.stderr.strip()}"
        return done.returncode == 0

    def processes(self):
        """mpirun's daemons, where a job uses the hosts."""
        pids = []
        for name in self.names:
            listed = subprocess.run(["ip", "netns", "pids", name], capture_output=True, text=True)
            pids += [int(pid) for pid in listed.stdout.split()]
        return pids

    def remove(self):
        for name in self.names:
            subprocess.run(["ip", "netns", "del", name], capture_output=True)
        self.names = []


class Faults:
    def __init__(self, options):
        self.program = str(pathlib.Path(options.program).resolve())
        self.slack = options.slack
        self.random = random.Random(options.seed)
        self.folder = pathlib.Path(tempfile.mkdtemp())
        files.data(self.folder / "data")
        self.hosts = Hosts(self.folder)
        self.launcher, self.status = None, 0
        self.kind, self.what = "none", "preparation"
        self.jobs, self.worst, self.codes = collections.Counter(), collections.Counter(), collections.defaultdict(list)

    # Processes.

    def ranks_alive(self):
        """The ranks that run; their command line has the folder."""
        alive = []
        for file in self.folder.glob("pids/*"):
            pid = file.read_text()
            try:
                if pid and str(self.folder).encode() in pathlib.Path("/proc", pid, "cmdline").read_bytes():
                    alive.append(int(pid))
            except OSError:
                pass
        return alive

    def launcher_runs(self):
        return self.launcher is not None and self.launcher.poll() is None

    def clean_up(self):
        pids = self.ranks_alive() + self.hosts.processes()
        if self.launcher_runs():
            pids.append(self.launcher.pid)
        for pid in pids:
            try:
                os.kill(pid, signal.SIGKILL)
            except OSError:
                pass
        if self.launcher is not None:
            self.launcher.wait()
        self.hosts.remove()
        shutil.rmtree(self.folder, ignore_errors=True)

    # A job.

    def said(self):
        return "".join((self.folder / name).read_text(errors="replace") for name in ("errors", "output"))

    def check(self, right, problem):
        if not right:
            raise Failed(problem)

    def tells(self, pattern):
        self.check(re.search(pattern, self.said()), f"no message says '{pattern}'")

    def exits_with(self, *codes):
        self.check(self.status in codes, f"exit status {self.status}, expected one of {codes}")

    def start(self, ranks, victim, fault, *arguments):
        job = ["mpirun", "--allow-run-as-root", "--oversubscribe", "--mca", "mpi_yield_when_idle", "1"]
        if self.kind == "cut":
            # Without keepalives, mpirun itself waits for ever for its daemon behind the cut.
            job = ["ip", "netns", "exec", self.hosts.names[0], *job]
            job += ["--map-by", "node", "--hostfile", str(self.folder / "hosts")]
            for key, value in (
                ("plm_rsh_agent", str(self.folder / "remote")),
                ("btl", "tcp,self"),
                ("btl_tcp_if_include", "10.99.0.0/24"),
                ("oob_tcp_if_include", "10.99.0.0/24"),
                ("oob_tcp_keepalive_time", "1"),
                ("oob_tcp_keepalive_intvl", "1"),
                ("oob_tcp_keepalive_probes", "1"),
            ):
                job += ["--mca", key, value]
        pids = self.folder / "pids"
        shutil.rmtree(pids, ignore_errors=True)
        pids.mkdir()
        job += ["-np", str(ranks), sys.executable, str(pathlib.Path(__file__).resolve()), "--rank", str(pids)]
        job += [str(victim), fault, self.program, "--data", str(self.folder / "data")]
        job += ["--batch-size", "12", "--epochs", "10", "--warmup-epochs", "0.5", "--threads", "1"]
        job += ["--save-every", "10", "--rank-timeout", str(RANK_TIMEOUT), *arguments]
        with open(self.folder / "output", "w") as output, open(self.folder / "errors", "w") as errors:
            self.launcher = subprocess.Popen(
                job, cwd=self.folder, stdin=subprocess.DEVNULL, stdout=output, stderr=errors, start_new_session=True
            )

    def finish(self):
        status = self.launcher.wait()
        self.status = status if status >= 0 else 128 - status

    def wait_until(self, happened, patience, problem):
        """Polls while the job runs."""
        end = now() + patience
        while not happened():
            if not self.launcher_runs() and not happened():
                self.finish()
                raise Failed(f"the job ended with {self.status} before the fault")
            self.check(now() < end, problem)
            time.sleep(0.01)

    def training(self):
        """Waits until all ranks train; from then on they take signals."""
        output = self.folder / "output"
        self.wait_until(
            lambda: "k-NN accuracy" in output.read_text(errors="replace"), 30000, "the ranks do not train after 30 s"
        )

    def undisturbed(self, ranks):
        """The checkpoint of an undisturbed run."""
        self.start(ranks, -1, "none", "--out", str(self.folder / f"whole{ranks}"))
        self.finish()
        self.check(self.status == 0, f"exit status {self.status} without a fault")

    def ended_in_time(self, begin):
        """Waits for the end of what was hit at `begin` and notes how long it took."""
        limit = LIMITS[self.kind] + self.slack
        while self.launcher_runs() or self.ranks_alive():
            self.check(now() - begin < limit + 5000, f"still running: {self.ranks_alive()}, or the launcher")
            time.sleep(0.01)
        took = now() - begin
        self.finish()
        while self.hosts.processes():
            self.check(now() - begin < took + 5000, f"daemons of mpirun are left: {self.hosts.processes()}")
            time.sleep(0.01)
        self.check(took <= limit, f"the job ended after {took} ms, not within {limit} ms")
        self.worst[self.kind] = max(self.worst[self.kind], took)
        self.jobs[self.kind] += 1
        if self.status not in self.codes[self.kind]:
            self.codes[self.kind].append(self.status)

    def continues(self, ranks):
        """The run continues from the checkpoint that is there, and becomes what it would have been."""
        checkpoint = self.folder / "run/checkpoint.safetensors"
        if not checkpoint.is_file():
            return
        self.kind = "none"
        self.start(ranks, -1, "none", "--out", str(self.folder / "run"), "--resume", str(checkpoint))
        self.finish()
        self.check(self.status == 0, f"exit status {self.status} of the run that continues")
        whole = self.folder / f"whole{ranks}/checkpoint.safetensors"
        self.check(filecmp.cmp(checkpoint, whole, shallow=False), "the run that continues has other bits")

    def train_for_a_while(self, ranks):
        """Lets a job train until a random time between its start and its middle."""
        step = self.random.randrange(5) * 10  # metrics have a row for these
        self.start(ranks, -1, "none", "--out", str(self.folder / "run"))
        self.training()
        metrics = self.folder / "run/metrics.jsonl"
        row = re.compile(f'"step":{step}[,}}]')

        def written():
            return metrics.is_file() and row.search(metrics.read_text())

        self.wait_until(written, 60000, f"there is no step {step}")
        time.sleep(self.random.randrange(200) / 1000)

    # Faults.

    def send(self, number, victim):
        os.kill(int((self.folder / f"pids/{victim}").read_text()), number)

    def names_lost_rank(self, rank):
        self.tells(
            rf"pretrain_mpi: rank [0-9]+: (after )?step [0-9]+: ({CALL}: )+"
            rf"rank ([0-9], )*{rank}(, [0-9])* did not come within {RANK_TIMEOUT}.0 s"
        )

    def kill(self, ranks, victim):
        self.train_for_a_while(ranks)
        begin = now()
        self.send(signal.SIGKILL, victim)
        self.ended_in_time(begin)
        self.exits_with(137, 75)
        self.tells(
            rf"process rank {victim} .*exited on signal 9|rank ([0-9], )*{victim}(, [0-9])* did not come"
        )

    def stop(self, ranks, victim):
        self.train_for_a_while(ranks)
        begin = now()
        self.send(signal.SIGSTOP, victim)
        self.ended_in_time(begin)
        self.exits_with(75)
        self.names_lost_rank(victim)

    def signal(self, ranks, victim):
        self.stopped_by(self.random.choice(SIGNALS), ranks, lambda number: self.send(number, victim))

    def launcher_signal(self, ranks, _):
        self.stopped_by(signal.SIGUSR1, ranks, lambda number: self.launcher.send_signal(number))

    def stopped_by(self, number, ranks, send):
        self.what += f", {number.name}"
        self.train_for_a_while(ranks)
        begin = now()
        send(number)
        self.ended_in_time(begin)
        self.exits_with(85)
        checkpoint = self.folder / "run/checkpoint.safetensors"
        self.tells(f"stopped by a signal after step [0-9]+; the same command with --resume {checkpoint}")
        self.check(checkpoint.is_file(), "there is no checkpoint")

    def own(self, ranks, victim):
        failure = self.random.choice(OWN_FAILURES)
        if failure != "data":
            victim = 0  # the rank that reads and writes checkpoints
        self.what += f", {failure}"
        arguments = ["--out", str(self.folder / "run")]
        if failure == "checkpoint":
            arguments += ["--resume", str(self.folder / f"whole{ranks}/checkpoint.safetensors")]
        begin = now()
        self.start(ranks, victim, failure, *arguments)
        if failure == "storage":
            self.training()
            begin = now()
        self.ended_in_time(begin)
        self.exits_with(2)
        self.tells(
            {
                "data": f"pretrain_mpi: rank {victim}: nowhere/train-images-idx3-ubyte",
                "checkpoint": f"pretrain_mpi: rank {victim}: nowhere: .*No such file",
                "storage": f"pretrain_mpi: rank 0: {self.folder}/run/checkpoint.safetensors.*File too large",
            }[failure]
        )

    def cut(self, ranks, _):
        self.train_for_a_while(ranks)
        begin = now()
        self.hosts.ip("-n", self.hosts.names[0], "link", "set", "cable", "down")
        self.ended_in_time(begin)
        self.hosts.ip("-n", self.hosts.names[0], "link", "set", "cable", "up")
        self.exits_with(75, 205)
        if self.status != 205:
            self.names_lost_rank("[0-9]")
        if self.status != 75:
            self.tells("lost communication with a remote daemon")

    def run(self, count):
        faults = {"kill": self.kill, "stop": self.stop, "signal": self.signal, "launcher": self.launcher_signal}
        faults |= {"own": self.own, "cut": self.cut}
        if not self.hosts.names:
            print(f"cut is skipped: {self.hosts.problem}", flush=True)
        for ranks in (2, 3):
            self.undisturbed(ranks)
        for number in range(count):
            self.kind = list(faults)[number % len(faults)]
            if self.kind == "cut" and not self.hosts.names:
                continue
            ranks = self.random.randint(2, 3)
            victim = self.random.randrange(ranks)
            self.what = f"fault {number + 1}: {self.kind}, rank {victim} of {ranks}"
            shutil.rmtree(self.folder / "run", ignore_errors=True)
            faults[self.kind](ranks, victim)
            self.continues(ranks)

    def print_table(self):
        print("| fault | times | slowest end | limit | exit codes |")
        print("| --- | --- | --- | --- | --- |")
        for kind in LIMITS:
            if self.jobs[kind]:
                codes = " ".join(str(code) for code in self.codes[kind])
                print(f"| {kind} | {self.jobs[kind]} | {self.worst[kind]} ms | {LIMITS[kind]} ms | {codes} |")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("program", help="pretrain_mpi")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--count", type=int, default=50)
    parser.add_argument("--slack", type=int, default=0)
    options = parser.parse_args()
    faults = Faults(options)
    try:
        faults.run(options.count)
        faults.print_table()
    except Failed as problem:
        last = "\n".join(faults.said().splitlines()[-80:])
        print(f"FAILED: seed {options.seed}, {faults.what}: {problem}\n{last}")
        return 1
    finally:
        faults.clean_up()
    return 0


if __name__ == "__main__":
    if sys.argv[1:2] == ["--rank"]:
        run_rank(*sys.argv[2:])
    sys.exit(main())
