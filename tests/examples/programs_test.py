#!/usr/bin/env python3
"""programs_test.py PRETRAIN EXTRACT_FEATURES [CASE...]: the programs as a user runs them, from data files to results.

Every case works in a temporary folder that holds a small data set, data/."""

import csv
import gzip
import hashlib
import pathlib
import re
import resource
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import time
import unittest

import files

PRETRAIN, EXTRACT_FEATURES = (str(pathlib.Path(program).resolve()) for program in sys.argv[1:3])
CHECKPOINT = "run/checkpoint.safetensors"
NAMES = [f"{split}-{kind}-ubyte" for split in ("train", "t10k") for kind in ("images-idx3", "labels-idx1")]


class Case(unittest.TestCase):
    """What the cases assert. Paths are relative to the case's folder."""

    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = pathlib.Path(folder.name)
        self.make_data("data")

    def path(self, name):
        return self.folder / name

    def make_data(self, name, *arguments, **named):
        files.data(self.path(name), *arguments, **named)

    def change_checkpoint(self, *change):
        """The run's checkpoint with a change, as `other`; see files.checkpoint."""
        files.checkpoint(self.path(CHECKPOINT), self.path("other"), *change)

    def bytes_of(self, name):
        return self.path(name).read_bytes()

    def contents(self, name):
        """The files below a folder and what is in them."""
        return {
            path.relative_to(self.folder): hashlib.sha256(path.read_bytes()).digest()
            for path in self.path(name).rglob("*")
            if path.is_file()
        }

    def run_program(self, command, limit_kib=None):
        """Through pipes, so that a limit on the size of files does not concern the output. Beyond the limit a write
        fails, as on a full disk."""

        def limit():
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit_kib * 1024, limit_kib * 1024))

        return subprocess.run(
            command,
            cwd=self.folder,
            capture_output=True,
            text=True,
            preexec_fn=None if limit_kib is None else limit,
        )

    def succeeds(self, *command):
        """Exits with 0 and says nothing on standard error. Returns the output."""
        done = self.run_program(command)
        self.assertEqual((done.returncode, done.stderr), (0, ""), command)
        return done.stdout

    def refuses(self, texts, *command, limit_kib=None):
        """Exits with 2 and one line on standard error, which holds every one of the texts, with | between them. What is
        in the folder run/ stays as it is."""
        before = self.contents("run")
        done = self.run_program(command, limit_kib)
        with self.subTest(command=command):
            self.assertEqual(done.returncode, 2, done.stderr)
            self.assertEqual(done.stderr.count("\n"), 1, done.stderr)
            for text in texts.split("|"):
                self.assertIn(text, done.stderr)
            self.assertEqual(self.contents("run"), before, "files in run/ have changed")

    def same(self, one, other):
        self.assertEqual(self.bytes_of(one), self.bytes_of(other), f"{one} and {other} differ")

    def differ(self, one, other):
        self.assertNotEqual(self.bytes_of(one), self.bytes_of(other), f"{one} and {other} are the same")


class Background:
    """A program that runs in the background; its output is in files."""

    def __init__(self, case, *command):
        self.case = case
        self.output, self.errors = case.path("output"), case.path("errors")
        with open(self.output, "w") as output, open(self.errors, "w") as errors:
            self.process = subprocess.Popen(command, cwd=case.folder, stdout=output, stderr=errors)
        case.addCleanup(self.end)

    def end(self):
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()

    def wait_for(self, text):
        """Waits until the program has written a text."""
        while text not in self.output.read_text():
            ended = self.process.poll() is not None and text not in self.output.read_text()
            self.case.assertFalse(ended, f"the program has ended without '{text}': {self.errors.read_text()}")
            time.sleep(0.01)

    def stop(self, number, text, checkpoint=CHECKPOINT):
        """Sends a signal once the output has a text. The program must end with a checkpoint and say how to resume.
        Returns the output."""
        self.wait_for(text)
        self.process.send_signal(number)
        self.case.assertEqual(self.process.wait(), 85, self.errors.read_text())
        said = self.output.read_text()
        self.case.assertRegex(
            said, f"stopped by a signal after step [0-9]+; the same command with --resume {checkpoint} continues"
        )
        return said


class Pretrain(Case):
    def setUp(self):
        super().setUp()
        self.pretrain = [PRETRAIN, "--data", "data", "--stop-grad-conv1", "--batch-size", "16", "--epochs", "2"]
        self.pretrain += ["--warmup-epochs", "0.5", "--threads", "1", "--out", "run"]

    def keep_results(self):
        """Results of an earlier run, which a run that fails must not touch."""
        self.path("run").mkdir()
        for name in ("checkpoint.safetensors", "metrics.jsonl", "features.npy", "report.html"):
            self.path(f"run/{name}").write_text(name)

    def refuses_value(self, flag, value):
        self.refuses(f"{flag}|{value}", *self.pretrain, flag, value)

    def test_flags(self):
        self.keep_results()
        self.refuses("--data is required", PRETRAIN)
        self.refuses("--stop-grad-conv1|mae|vit_tiny|TESSERA_STOP_GRAD_CONV1", *self.pretrain, "--objective", "mae")
        self.refuses("--precision half|float, bf16|TESSERA_OBJECTIVES_CpuBf16", *self.pretrain, "--precision", "half")
        for flag in ("--unknown", "--batch", "--moco-dim", "--moco-mlp-dim"):
            self.refuses(flag, *self.pretrain, flag, "3")
        for flag in ("--batch-size", "--epochs", "--lr", "--seed", "--threads", "--knn-every", "--moco-t"):
            self.refuses_value(flag, "many")
            self.refuses(flag, *self.pretrain, flag)
        for flag in ("--batch-size", "--workers", "--threads", "--knn-every", "--knn-bank", "--save-every", "--seed"):
            self.refuses_value(flag, "99999999999999999999")
            self.refuses_value(flag, "-4")
        for flag in ("--lr", "--weight-decay", "--epochs", "--warmup-epochs", "--moco-m", "--moco-t", "--crop-min", "--clip-grad"):
            for value in ("nan", "inf", "-1"):
                self.refuses_value(flag, value)
        for flag, value in (
            ("--batch-size", "1"),
            ("--batch-size", "0"),
            ("--batch-size", "121"),
            ("--batch-size", "2000000000"),
            ("--epochs", "0"),
            ("--epochs", "0.01"),
            ("--epochs", "1e+300"),
            ("--warmup-epochs", "2"),
            ("--moco-m", "1.5"),
            ("--moco-t", "0"),
            ("--moco-t", "1e-30"),
            ("--crop-min", "0"),
            ("--crop-min", "1.5"),
            ("--workers", "0"),
            ("--workers", "2000000000"),
            ("--threads", "2000000000"),
            ("--knn-bank", "0"),
            ("--arch", "vit_huge"),
            ("--objective", "moco"),
            ("--optimizer", "adam"),
        ):
            self.refuses_value(flag, value)
        self.refuses("adamw|momentum|0.9", *self.pretrain, "--momentum", "0.9")

    def test_data(self):
        self.keep_results()
        self.refuses("--data nowhere", *self.pretrain, "--data", "nowhere")
        self.make_data("sound")
        for name in NAMES:
            self.check_damaged(name)
        self.make_data("none", 120, 0)
        self.refuses("none/t10k-images-idx3-ubyte|size 0", *self.pretrain, "--data", "none")
        self.make_data("other", 120, 40, 28, 20)
        self.refuses("other|28 x 28|20 x 20", *self.pretrain, "--data", "other")
        self.make_data("small", 120, 40, 20)
        self.refuses("20 pixels|--arch|vit_tiny (28 x 28 grey)", *self.pretrain, "--data", "small")
        shutil.copytree(self.path("sound"), self.path("mixed"))
        shutil.copy(self.path("data/t10k-labels-idx1-ubyte"), self.path("mixed/train-labels-idx1-ubyte"))
        self.refuses("mixed/train-labels-idx1-ubyte|40 labels|120 images", *self.pretrain, "--data", "mixed")

    def check_damaged(self, name):
        shutil.rmtree(self.path("damaged"), ignore_errors=True)
        shutil.copytree(self.path("sound"), self.path("damaged"))
        damaged, sound = self.path(f"damaged/{name}"), self.bytes_of(f"sound/{name}")

        def refuses(text, ending=""):
            self.refuses(f"damaged/{name}{ending}|{text}", *self.pretrain, "--data", "damaged")

        damaged.unlink()
        refuses("no such file")
        for text, content in (
            ("ends after", sound[:30]),
            ("too short", sound[:3]),
            ("goes on", sound + b"more\n"),
        ):
            damaged.write_bytes(content)
            refuses(text)
        damaged.unlink()
        damaged.mkdir()
        refuses("not a regular file")
        damaged.rmdir()
        packed, zipped = gzip.compress(sound), self.path(f"damaged/{name}.gz")
        for cut in (20, 12, 8, 4):
            zipped.write_bytes(packed[:-cut])
            refuses("ends in the middle", ".gz")
        zipped.write_bytes(packed[:-8] + bytes(8))
        refuses("damaged", ".gz")

    def test_out(self):
        self.path("file").write_text("text\n")
        self.refuses("--out file", *self.pretrain, "--out", "file")
        self.refuses("--out file/run", *self.pretrain, "--out", "file/run")
        self.path("metrics/metrics.jsonl").mkdir(parents=True)
        self.path("checkpoint/checkpoint.safetensors/full").mkdir(parents=True)
        self.refuses("metrics/metrics.jsonl", *self.pretrain, "--out", "metrics")
        self.refuses("checkpoint/checkpoint.safetensors", *self.pretrain, "--out", "checkpoint")
        self.assertEqual(list(self.folder.rglob("*.tmp")), [], "a temporary file is left")

    def test_resume(self):
        self.pretrain += ["--epochs", "0.2", "--warmup-epochs", "0"]  # one step
        self.succeeds(*self.pretrain)
        again = [*self.pretrain, "--resume", "other"]
        self.refuses("other|No such file", *again)
        self.refuses("run|not a regular file", *again, "--resume", "run")
        whole = self.bytes_of(CHECKPOINT)
        for text, content in (
            ("0 bytes", b""),
            ("its tensors take", whole[:-1]),
            ("a header of 16777215 bytes", b"\xff\xff\xff\0\0\0\0\0" + whole[8:]),
        ):
            self.path("other").write_bytes(content)
            self.refuses(f"other|{text}", *again)
        self.check_changed_tensors(again)
        for key in ("arch", "optimizer", "seed", "batch_size", "step"):
            self.change_checkpoint("drop", key)
            self.refuses(f"other|{key}", *again)
            self.change_checkpoint("set", key, "9999")
            self.refuses(f"other|{key}|9999", *again)
        self.check_other_runs([*self.pretrain, "--resume", CHECKPOINT])
        self.succeeds(*self.pretrain, "--resume", CHECKPOINT)

    def check_changed_tensors(self, again):
        name = "momentum_encoder.head.0.weight"
        self.change_checkpoint("rename", name, "else")
        self.refuses("other|else", *again)
        self.change_checkpoint("add", "extra")
        self.refuses("other|extra", *again)
        self.change_checkpoint("retype", name, "I32")
        self.refuses(f"other|{name}|I32|F32", *again)
        self.change_checkpoint("reshape", name, "[256, 192]")
        self.refuses(f"other|{name}|[256, 192]|[512, 96]", *again)

    def check_other_runs(self, again):
        self.refuses(f"{CHECKPOINT}|optimizer|adamw|lars", *again, "--optimizer", "lars")
        self.refuses(f"{CHECKPOINT}|seed|1", *again, "--seed", "1")
        self.refuses(f"{CHECKPOINT}|batch_size|16|8", *again, "--batch-size", "8")
        self.refuses(f"{CHECKPOINT}|moco_t|0.2|0.3", *again, "--moco-t", "0.3")
        self.refuses(f"{CHECKPOINT}|clip_grad|0.5", *again, "--clip-grad", "0.5")
        self.refuses(f"{CHECKPOINT}|moco_m_cos|0|1", *again, "--moco-m-cos")
        self.refuses(f"{CHECKPOINT}|patch_embed", *again, "--stop-grad-conv1=false")
        self.refuses(f"{CHECKPOINT}|precision|bf16", *again, "--precision", "bf16")
        self.make_data("others", 120, 40, 28, 28, 7)
        with open(self.path("others/train-images-idx3-ubyte"), "r+b") as images:
            images.seek(100)
            images.write(b"\0")
        self.refuses(f"{CHECKPOINT}|normalization", *again, "--data", "others")

    def test_full_disk(self):
        Background(self, *self.pretrain).stop(signal.SIGTERM, "step 1/")
        shutil.copytree(self.path("run"), self.path("before"))
        again = [*self.pretrain, "--resume", CHECKPOINT]
        self.refuses("run/metrics.jsonl", *again, limit_kib=0)
        done = self.run_program(again, limit_kib=1000)
        self.assertEqual((done.returncode, done.stderr.count("\n")), (2, 1), done.stderr)
        self.assertIn(CHECKPOINT, done.stderr)
        self.same("before/checkpoint.safetensors", CHECKPOINT)
        self.assertEqual(
            sorted(path.name for path in self.path("run").iterdir()),
            sorted(path.name for path in self.path("before").iterdir()),
        )
        self.refuses("new/metrics.jsonl", *self.pretrain, "--out", "new", limit_kib=0)

    def test_signals(self):
        self.succeeds(*self.pretrain, "--out", "whole")
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
            Background(self, *self.pretrain).stop(number, "step 1/")
            self.succeeds(*self.pretrain, "--resume", CHECKPOINT)
            self.same("whole/checkpoint.safetensors", CHECKPOINT)
            self.same("whole/features.npy", "run/features.npy")
            self.assertEqual(
                files.metrics(self.path("whole/metrics.jsonl")), files.metrics(self.path("run/metrics.jsonl"))
            )
            shutil.rmtree(self.path("run"))

    def test_signals_before_the_first_step(self):
        self.make_data("data", 120, 2000)  # a long monitor
        said = Background(self, *self.pretrain).stop(signal.SIGTERM, "parameters trained")
        self.assertIn("after step 0", said)
        shutil.copy(self.path(CHECKPOINT), self.path("first"))
        background = Background(self, *self.pretrain, "--resume", CHECKPOINT)
        background.wait_for("parameters trained")
        background.process.send_signal(signal.SIGINT)
        time.sleep(0.05)
        background.process.send_signal(signal.SIGTERM)
        self.assertEqual(background.process.wait(), -signal.SIGTERM, "after a second signal")
        self.same("first", CHECKPOINT)

    def test_results(self):
        said = self.succeeds(*self.pretrain, "--workers", "3", "--threads", "2")
        self.assertRegex(said, "epoch .* step 1/14 .* images/s .* left")
        self.assertRegex(said, r"k-NN accuracy 0\.[0-9]+ on 40 images")
        metrics = self.path("run/metrics.jsonl").read_text()
        self.assertEqual(metrics.count("\n"), 7, metrics)
        self.assertRegex(metrics, '"step":14,.*"effective_rank":.*"feature_deviation":.*"uniformity":.*"alignment":')
        self.assertRegex(metrics, '"step":10,.*"loss":.*"images_per_second":')
        report = self.path("run/report.html").read_text()
        self.assertIn("</html>", report)
        self.assertNotRegex(report, re.compile("http", re.IGNORECASE), "the report refers to the network")
        self.assertIn("Effective rank of features", report)
        self.assertNotIn("collapsed", said + metrics + report)
        self.succeeds(*self.pretrain, "--out", "one")
        self.same(CHECKPOINT, "one/checkpoint.safetensors")
        self.same("run/features.npy", "one/features.npy")
        self.succeeds(*self.pretrain, "--out", "other", "--seed", "1")
        self.differ("run/features.npy", "other/features.npy")

    def test_collapse(self):
        """Features that collapse are told once, in the rows of metrics, and in the head of the report."""
        said = self.succeeds(
            *[PRETRAIN, "--data", "data", "--batch-size", "16", "--epochs", "2", "--warmup-epochs", "0"],
            *["--lr", "10", "--threads", "1", "--out", "run"],
        )
        sentence = "the features have collapsed: all pictures have nearly the same feature"
        self.assertEqual(said.count(sentence), 1, said)
        rows = [row for row in files.metrics(self.path("run/metrics.jsonl")) if "effective_rank" in row]
        self.assertEqual([row.get("collapsed") for row in rows], [None, 1, 1], rows)
        self.assertIn(f'<p class="warning">Warning: {sentence}', self.path("run/report.html").read_text())

    def test_small_images(self):
        self.make_data("small", 4, 3, 20, 20, 200)
        command = [*self.pretrain, "--data", "small", "--out", "small", "--batch-size", "2", "--knn-bank", "3"]
        self.succeeds(*command, "--arch", "vit_tiny", "--class-names", "Ant,Bee")
        self.assertRegex(self.path("small/report.html").read_text(), "Ant .*Bee", "the names of classes")

    def make_pictures(self):
        for split, name in ("train", "train"), ("t10k", "val"):
            files.pictures_of(self.path("data"), split, self.path(f"pictures/{name}"))

    def tensors(self, checkpoint):
        """A checkpoint without its metadata, in which the data have other names."""
        content = self.bytes_of(checkpoint)
        return content[8 + int.from_bytes(content[:8], "little") :]

    def test_pictures(self):
        """The same pictures as IDX files, in lists and in folders of classes make the same run."""
        self.make_pictures()
        self.succeeds(*self.pretrain)
        lists = [*self.pretrain, "--data", "pictures/train.txt", "--test", "pictures/val.txt", "--out", "lists"]
        self.succeeds(*lists, "--cache", "0.001")
        self.assertEqual(self.tensors(CHECKPOINT), self.tensors("lists/checkpoint.safetensors"))
        self.assertEqual(files.metrics(self.path("run/metrics.jsonl")), files.metrics(self.path("lists/metrics.jsonl")))
        self.same("run/features.npy", "lists/features.npy")

        folders = [*self.pretrain, "--data", "pictures", "--out", "folders", "--epochs", "40", "-j", "2"]
        self.succeeds(*folders, "--class-names", "Ant,Bee")
        self.assertRegex(self.path("folders/report.html").read_text(), "Ant .*Bee")
        undisturbed = self.tensors("folders/checkpoint.safetensors")
        background = Background(self, *folders, "--overwrite", "--knn-every", "1")
        background.stop(signal.SIGTERM, "step 1/", "folders/checkpoint.safetensors")
        self.succeeds(*folders, "--resume", "auto")
        self.assertEqual(self.tensors("folders/checkpoint.safetensors"), undisturbed, "a run that was resumed")

    def test_pictures_without_labels(self):
        self.make_pictures()
        shutil.rmtree(self.path("pictures/val"))
        for index, path in enumerate(sorted(self.path("pictures/train").rglob("*.png"))):
            path.rename(self.path(f"pictures/{index}.png"))
        shutil.rmtree(self.path("pictures/train"))
        said = self.succeeds(*self.pretrain, "--data", "pictures")
        names = self.path("run/features.names.txt").read_text().splitlines()
        self.assertTrue(all(self.path(f"pictures/{name}").exists() for name in names))
        self.assertIn(f"({len(names)}, ".encode(), self.bytes_of("run/features.npy")[:128])
        self.assertNotIn("k-NN accuracy", said)
        self.assertRegex(said, "epoch   2.00  effective rank [0-9.]+ of 96, ")
        rows = files.metrics(self.path("run/metrics.jsonl"))
        self.assertFalse([row for row in rows if "knn" in row])

    def test_damaged_pictures(self):
        self.make_pictures()
        fixtures = pathlib.Path(__file__).parent.parent / "fixtures/images"
        shutil.copy(fixtures / "truncated.png", self.path("pictures/train/3/00003.png"))
        command = [*self.pretrain, "--data", "pictures", "--max-damaged"]
        self.succeeds(*command, "0.01")
        name, problem = self.path("run/damaged.txt").read_text().rstrip("\n").split("\t")
        self.assertEqual(name, "3/00003.png")
        self.assertIn("pictures/train/3/00003.png: ", problem)
        self.assertIn(1, [row.get("damaged_pictures") for row in files.metrics(self.path("run/metrics.jsonl"))])
        self.refuses("1 of 160 pictures|--max-damaged|pictures/train/3/00003.png: ", *command, "0.001")
        self.refuses("--max-damaged|2", *command, "2")
        # Every file of the fixtures, most of which are coloured: this program's encoder is made for grey pictures.
        shutil.copytree(fixtures, self.path("pictures/train/3"), dirs_exist_ok=True)
        self.refuses("28 pixels, RGB|--arch|vit_tiny (28 x 28 grey)", PRETRAIN, "--data", "pictures", "--max-damaged", "1")

    def test_defaults(self):
        """A folder of data is enough."""
        said = self.succeeds(PRETRAIN, "--data", "data", "--batch-size", "16", "--epochs", "1", "--warmup-epochs", "0")
        self.assertIn("vit_tiny: ", said)
        names = {path.name for path in self.path("runs/pretrain").iterdir()}
        self.assertEqual(
            names, {"checkpoint.safetensors", "features.npy", "labels.npy", "metrics.jsonl", "report.html"}
        )
        self.make_data("data", 256, 10)
        background = Background(self, PRETRAIN, "--data", "data", "--overwrite")
        said = background.stop(signal.SIGTERM, "step 1/300", "runs/pretrain/checkpoint.safetensors")
        self.assertRegex(said, r"vit_tiny: [0-9.]+ M parameters trained")
        self.assertRegex(said, "epoch   0.00  k-NN accuracy 0.[0-9]+ on 10 images")

    def test_help(self):
        said = self.succeeds(PRETRAIN, "--help")
        for text in ("--data", "--objective", "moco_v3", "--arch", "vit_tiny (28 x 28 grey)", "--moco-t FLOAT=0.2"):
            self.assertIn(text, said)


class ExtractFeatures(Case):
    def test_extract_features(self):
        """Features of a checkpoint are those that the run wrote."""
        self.succeeds(
            *[PRETRAIN, "--data", "data", "--stop-grad-conv1", "--batch-size", "16", "--epochs", "1"],
            *["--warmup-epochs", "0", "--out", "run"],
        )
        extract = [EXTRACT_FEATURES, "--data", "data", "--checkpoint", CHECKPOINT]
        self.succeeds(*extract)
        self.same("features.npy", "run/features.npy")
        self.succeeds(*extract, "--split", "train", "--out", "train.npy")
        self.differ("train.npy", "run/features.npy")

        self.assertEqual(self.path("features.names.txt").read_text(), "".join(f"{i}\n" for i in range(40)))
        self.check_table(extract)
        self.check_neighbours(extract)

        self.refuses("--checkpoint is required", EXTRACT_FEATURES, "--data", "data")
        self.refuses("--unknown", *extract, "--unknown")
        self.refuses("--split t10k", *extract, "--split", "t10k")
        self.refuses("--data nowhere", *extract, "--data", "nowhere")
        self.refuses("missing", *extract, "--checkpoint", "missing")
        self.refuses("nowhere/features.npy", *extract, "--out", "nowhere/features.npy")
        self.refuses("data", *extract, "--out", "data")
        for key in ("arch", "normalization"):
            self.change_checkpoint("drop", key)
            self.refuses(f"other|{key}", *extract, "--checkpoint", "other")
            self.change_checkpoint("set", key, "unknown")
            self.refuses("other|unknown", *extract, "--checkpoint", "other")
        self.change_checkpoint("rename", "base_encoder.cls_token", "else")
        self.refuses("other|base_encoder.cls_token", *extract, "--checkpoint", "other")

    def check_table(self, extract):
        """A table of names, labels and the features of the .npy file."""
        self.succeeds(*extract, "--csv", "features.csv")
        with open(self.path("features.csv"), newline="") as file:
            header, *rows = csv.reader(file)
        self.assertEqual(header[:3], ["name", "label", "f0"])
        self.assertEqual([row[:2] for row in rows], [[str(i), str(i % 10)] for i in range(40)])
        values = [float(value) for row in rows for value in row[2:]]
        stored = self.bytes_of("features.npy")[-4 * len(values) :]
        self.assertEqual(struct.pack(f"<{len(values)}f", *values), stored)
        self.refuses("--csv features.npy", *extract, "--csv", "features.npy")
        self.refuses("--csv run/checkpoint.safetensors", *extract, "--csv", CHECKPOINT)

    def check_neighbours(self, extract):
        """The picture that is nearest to one of the data set is that one."""
        pixels = self.bytes_of("data/t10k-images-idx3-ubyte")[16 + 7 * 784 :][:784]
        files.png(self.path("query.png"), pixels, 28)
        said = self.succeeds(*extract, "--neighbours", "query.png", "--neighbours-count", "3")
        self.assertRegex(said, "nearest to query.png.* neighbours.html shows them:\n   1  1.0000  7\n   2  0.*\n   3  0.*\n$")
        page = self.path("neighbours.html").read_text()
        self.assertEqual(page.count("<img "), 4, "the query and three neighbours")
        self.assertIn("1.000 7", page)
        colours = bytes(value for grey in pixels for value in (grey, grey, grey))
        files.png(self.path("query.png"), colours, 28, channels=3)
        self.assertIn("   1  1.0000  7\n", self.succeeds(*extract, "--neighbours", "query.png"))
        self.refuses("missing.jpg", *extract, "--neighbours", "missing.jpg")
        self.refuses("run/checkpoint.safetensors|is no JPEG", *extract, "--neighbours", CHECKPOINT)
        self.refuses("--neighbours-count", *extract, "--neighbours", "query.png", "--neighbours-count", "0")


if __name__ == "__main__":
    unittest.main(argv=[sys.argv[0], *sys.argv[3:]], verbosity=2)
