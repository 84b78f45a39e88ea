#!/usr/bin/env python3
"""check.py CASE COMPILER FLAGS...: CASE compiles as it is; with BAD it does not, and the compiler's output holds the
sentence of CASE's first line, `// expect: SENTENCE`."""

import pathlib
import subprocess
import sys

case, *compiler = sys.argv[1:]
first = pathlib.Path(case).read_text().splitlines()[0]
sentence = first.removeprefix("// expect: ")
if sentence == first or not sentence:
    sys.exit(f"{case}: the first line must be '// expect: SENTENCE'")
good = subprocess.run([*compiler, "-fsyntax-only", case])
if good.returncode != 0:
    sys.exit(f"{case}: the good composition does not compile")
bad = subprocess.run([*compiler, "-fsyntax-only", "-DBAD", case], capture_output=True, text=True)
if bad.returncode == 0:
    sys.exit(f"{case}: the bad composition compiles")
if sentence not in bad.stdout + bad.stderr:
    sys.exit(f"{case}: expected '{sentence}', got:\n" + "\n".join(bad.stderr.splitlines()[:40]))
