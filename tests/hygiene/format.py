#!/usr/bin/env python3
"""format.py ROOT CLANG_FORMAT: every source file is formatted as .clang-format says. Names those that are not."""
import pathlib
import subprocess
import sys

root, formatter = pathlib.Path(sys.argv[1]), sys.argv[2]
folders = ["include", "examples", "bench", "tests"]
files = [str(path) for folder in folders for path in sorted((root / folder).rglob("*")) if path.suffix in (".hpp", ".cpp", ".cu")]
wrong = [
    path
    for path in files
    if subprocess.run([formatter, path], capture_output=True, check=True).stdout != pathlib.Path(path).read_bytes()
]
for path in wrong:
    print(f"{path}: not formatted; run {formatter} -i on it")
sys.exit(len(wrong) != 0 or not files)
