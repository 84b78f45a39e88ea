#!/usr/bin/env python3
"""compile_time.py COMPILER INCLUDE SYSTEM_INCLUDE: a file that includes tessera.hpp alone compiles within 6 seconds of
processor time."""

import resource
import subprocess
import sys

compiler, include, system = sys.argv[1:]
command = [compiler, "-std=c++20", "-O2", "-c", f"-I{include}", "-isystem", system, "-x", "c++", "-", "-o", "/dev/null"]
subprocess.run(command, input="#include <tessera/tessera.hpp>\n", text=True, check=True)
seconds = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
print(f"tessera.hpp alone: {seconds:.3f} s")
sys.exit(seconds >= 6)
