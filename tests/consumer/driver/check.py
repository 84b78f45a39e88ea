#!/usr/bin/env python3
"""check.py installed|subdirectory SOURCE BUILD COMPILER: the project beside this folder is built against an installed
copy, or against the sources as a subdirectory, and its programs run."""

import os
import pathlib
import subprocess
import sys
import tempfile

way, source, build, compiler = sys.argv[1:]


def run(*command, silent=False):
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL if silent else None)


with tempfile.TemporaryDirectory() as folder:
    options = [f"-DCMAKE_CXX_COMPILER={compiler}", "-DCMAKE_BUILD_TYPE=None"]
    if way == "installed":
        run("cmake", "--install", build, "--prefix", f"{folder}/prefix", silent=True)
        options.append(f"-DCMAKE_PREFIX_PATH={folder}/prefix")
    else:
        options.append(f"-DTESSERA_SUBDIRECTORY={source}")
    project = f"{source}/tests/consumer/project"
    run("cmake", "-S", project, "-B", f"{folder}/build", "-G", "Ninja", *options, silent=True)
    run("cmake", "--build", f"{folder}/build")
    run(f"{folder}/build/consumer")
    device = pathlib.Path(folder, "build/consumer_cuda")
    if os.access(device, os.X_OK):
        run(device)
