"""gpu.sh on a machine without a device: programs, the device's tools and PyTorch are stubs that say how they were called."""
import json
import os
import pathlib
import stat
import subprocess
import sys
import tarfile
import tempfile
import unittest

SCRIPT = pathlib.Path(sys.argv.pop(1))

TESTS = r"""
case "$*" in
  --gtest_list_tests) printf 'Running main() from x\nDeviceA.\n  One\nDeviceB/1.  # TypeParam = bf16\n  One\nDeviceC.\n  One\n' ;;
  *DeviceA.*) echo '[  FAILED  ] DeviceA.One'; exit 134 ;;
  *) echo '[  PASSED  ] 2 tests.' ;;
esac
"""
BENCH = r"""
for flag in "$@"; do
  case $flag in --benchmark_out=*) out=${flag#*=} ;; --benchmark_filter=*) filter=${flag#*=} ;; esac
done
case $filter in
  ^ceiling) name=ceiling/product_8192 ;;
  *huge*) exit 134 ;;
  *) name=step_vit_base_16/256 ;;
esac
printf '{"benchmarks": [\n{"name": "%s/iterations:1/manual_time", "real_time": 1.0, "TFLOP/s": 500, "images/s": 1000, ' $name >"$out"
printf '"batch": 256, "planned_bytes": 100, "peak_bytes": 101, "bytes": 1}\n]}' >>"$out"
"""
PYTHON = r"""
case "$1" in
  -c) case "$2" in *nvidia*) echo /from/python ;; esac ;;
  *) echo '{"name": "step_vit_base_16", "mode": "'"$3"'", "stacked": true, "residual": "bf16", "asked": 256, "batch": 256, "images/s": 500, "ms": 2, "warm_up_s": 1, "torch": "2"}' ;;
esac
"""


class Gpu(unittest.TestCase):
    def setUp(self):
        self.folder = tempfile.TemporaryDirectory()
        self.root = pathlib.Path(self.folder.name)
        self.addCleanup(self.folder.cleanup)
        (self.root / "bin").mkdir()
        (self.root / "programs").mkdir()
        self.stub("bin/nvidia-smi", 'echo "GPU 0: stub"')
        self.stub("bin/ldd", "echo ok")
        self.stub("bin/python", PYTHON)
        self.stub("bin/compute-sanitizer", 'for a in "$@"; do case $a in --gtest_filter*) echo "$a" ;; esac; done')
        self.stub("bin/ncu", 'echo "ncu $*"')
        self.stub("programs/tests_cuda", TESTS)
        self.stub("programs/tests_nccl", "exit 0")
        for name in ("cuda_kernels_bench", "cuda_step_bench"):
            self.stub("programs/" + name, BENCH)
        self.stub("programs/pretrain_cuda", 'echo "$LD_LIBRARY_PATH"')

    def stub(self, name, body):
        file = self.root / name
        file.write_text(f'#!/bin/bash\necho "{file.name} $*" >>"{self.root}/calls"\n{body}\n')
        file.chmod(file.stat().st_mode | stat.S_IXUSR)

    def run_script(self, *flags):
        environment = {**os.environ, "PATH": f"{self.root}/bin:{os.environ['PATH']}", "PYTHON": str(self.root / "bin/python")}
        return subprocess.run([SCRIPT, "--prebuilt", self.root / "programs", "--out", self.root / "out", *flags],
                              env=environment, capture_output=True, text=True)

    def stages(self, call):
        with tarfile.open(self.root / f"out/call{call}.tar.gz") as archive:
            text = archive.extractfile(f"./logs/stages.{call}.jsonl").read().decode()
        return {one["stage"]: one["status"] for one in map(json.loads, text.splitlines())}

    def calls(self):
        return (self.root / "calls").read_text().splitlines()

    def test_first_call(self):
        run = self.run_script("--call", "1")
        self.assertEqual(run.returncode, 3, run.stdout + run.stderr)  # DeviceA fails
        self.assertEqual(self.stages(1), {
            "ceilings": "ok", "tests": "failed: DeviceA. (exit code 134)", "nccl": "ok", "kernels": "ok",
            "products": "ok", "step": "ok"})
        filters = [call.split("--gtest_filter=")[1] for call in self.calls() if "--gtest_filter=" in call]
        self.assertEqual(filters, ["DeviceA.*", "DeviceB/1.*", "DeviceC.*"])  # a process for each suite
        self.assertEqual(sorted(p.name for p in (self.root / "out").iterdir()), ["call1.tar.gz"])
        self.assertFalse([call for call in self.calls() if call.startswith("pretrain_cuda")])

    def test_second_call_runs_what_compiles_longest_last(self):
        run = self.run_script("--call", "2")
        self.assertEqual(run.returncode, 0, run.stdout + run.stderr)
        modes = [call.split("--modes ")[1].split()[0] for call in self.calls() if "--modes" in call]
        self.assertEqual(modes, ["eager", "compiled", "max-autotune"])
        self.assertEqual(list(self.stages(2)), ["ceilings", "peer", "attention", "step_peer", "compiled", "tuned"])

    def test_third_call_and_tables_of_all(self):
        for call in "123":
            self.run_script("--call", call, "--data", str(self.root))
        status = self.stages(3)
        self.assertEqual(status["step_large"], "failed: huge_14/256 (exit code 134) huge_14_recomputed/256 (exit code 134)")
        self.assertEqual({stage: status[stage] for stage in ("ncu", "memcheck", "racecheck", "pretrain")},
                         {"ncu": "ok", "memcheck": "ok", "racecheck": "ok", "pretrain": "ok"})
        self.assertEqual(len([call for call in self.calls() if call.startswith("ncu ")]), 6)
        checked = [call for call in self.calls() if call.startswith("compute-sanitizer --tool memcheck")]
        self.assertEqual(len(checked), 1)
        self.assertIn("--gtest_filter=DeviceB/1.*-*Long*", checked[0])
        run = subprocess.run([SCRIPT, "--tables", self.root / "out"], capture_output=True, text=True)
        self.assertEqual(run.returncode, 0, run.stderr)
        results = json.loads((self.root / "out/results.json").read_text())
        self.assertEqual(len(results["stages"]), 20)
        self.assertEqual([one["mode"] for one in results["peer"]], ["eager", "compiled", "max-autotune"])
        self.assertIn({"what": "step_vit_base_16/256 over PyTorch", "value": 2.0, "bar": 1.3, "holds": True}, results["checks"])
        self.assertIn("4 tests passed; [  FAILED  ] DeviceA.One", (self.root / "out/results.md").read_text())

    def test_libraries_of_python_are_found(self):
        self.run_script("--only", "pretrain", "--data", str(self.root))
        with tarfile.open(self.root / "out/call0.tar.gz") as archive:
            self.assertIn(":/from/python", archive.extractfile("./logs/pretrain.log").read().decode())

    def test_a_missing_library_is_said_before_anything_runs(self):
        self.stub("bin/ldd", 'case $1 in *step*) echo "libcublasLt.so.13 => not found" ;; esac')
        run = self.run_script("--call", "1")
        self.assertEqual(run.returncode, 1)
        self.assertIn("cuda_step_bench needs libcublasLt.so.13", run.stderr)
        self.assertFalse([call for call in self.calls() if "benchmark" in call or "gtest" in call])
        self.stub("bin/ldd", 'case $1 in *tests_nccl*) echo "libnccl.so.2 => not found" ;; esac')
        self.run_script("--call", "1")
        self.assertEqual(self.stages(1)["nccl"], "skipped: there is no NCCL on this machine")

    def test_a_stage_that_hangs_is_stopped_and_the_rest_is_said(self):
        self.stub("bin/timeout", "exit 124")
        run = self.run_script("--only", "products,step")
        self.assertEqual(run.returncode, 3)
        self.assertRegex(self.stages(0)["step"], r"^not done within \d+ s: small_16/256 base_16/256$")

    def test_wrong_flags(self):
        for flags, word in ((["--call", "4"], "no call 4"), (["--only", "tests,nothing"], "no stage nothing"),
                            (["--nothing", "1"], "no flag --nothing"), (["--call"], "--call needs a value")):
            run = self.run_script(*flags)
            self.assertEqual(run.returncode, 2)
            self.assertIn(word, run.stderr)


if __name__ == "__main__":
    unittest.main()
