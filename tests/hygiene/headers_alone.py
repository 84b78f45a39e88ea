#!/usr/bin/env python3
"""headers_alone.py COMPILER INCLUDE TESTS SYSTEM_INCLUDE...: each header of the host side compiles alone, included twice,
without a warning. Headers that a test of TESTS includes in its first line are left out: the build compiles them so."""

import concurrent.futures
import os
import pathlib
import subprocess
import sys

compiler, include, tests, *system = sys.argv[1:]
has_mpi = any(pathlib.Path(folder, "mpi.h").exists() for folder in system)
command = [compiler, "-std=c++20", "-fsyntax-only", "-Wall", "-Wextra", "-Wpedantic", "-Wshadow", "-Wconversion"]
command += ["-Wno-maybe-uninitialized", "-Wno-unknown-warning-option", "-Werror", f"-I{include}"]
for folder in system:
    command += ["-isystem", folder]


def of_the_host(header):
    if header.startswith("tessera/cuda/") or header.endswith(("/cuda.hpp", "/nccl.hpp", "/staged.hpp")):
        return False
    return has_mpi or not header.startswith(("tessera/comm/mpi", "tessera/programs/mpi"))


def check(header):
    done = subprocess.run(
        [*command, "-x", "c++", "-"], input=f'#include "{header}"\n' * 2, capture_output=True, text=True
    )
    return "" if done.returncode == 0 else f"FAILED: {header}\n{done.stderr}"


headers = [str(path.relative_to(include)) for path in sorted(pathlib.Path(include, "tessera").rglob("*.hpp"))]
first_lines = [path.open().readline().strip() for path in pathlib.Path(tests).rglob("*_test.cpp")]
tested = {line.removeprefix('#include "').removesuffix('"') for line in first_lines}
headers = [header for header in headers if of_the_host(header) and header not in tested]
with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
    problems = [problem for problem in pool.map(check, headers) if problem]
for header in tested:
    path = pathlib.Path(include, header)
    if path.exists() and "#pragma once" not in path.read_text():
        problems.append(f"FAILED: {header} has no #pragma once")
print("\n".join(problems))
sys.exit(len(problems) != 0 or not headers)
