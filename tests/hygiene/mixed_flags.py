#!/usr/bin/env python3
"""mixed_flags.py COMPILER INCLUDE SYSTEM_INCLUDE: translation units for different instruction sets do not link when
they exchange our types, and the missing symbol says why; with the same flags they link and run under
AddressSanitizer."""

import pathlib
import re
import subprocess
import sys
import tempfile

compiler, include, system = sys.argv[1:]
MAIN = """
#include <tessera/core/thread_pool.hpp>
#include <tessera/core/random.hpp>
float draw(tessera::Random& random, tessera::ThreadPool& pool);
int main() {
  tessera::Random random(1, tessera::Purpose::test, 0, 0);
  tessera::ThreadPool pool(2);
  return draw(random, pool) < 1 ? 0 : 1;
}
"""
DRAW = """
#include <tessera/core/thread_pool.hpp>
#include <tessera/core/random.hpp>
float draw(tessera::Random& random, tessera::ThreadPool& pool) {
  float value = 0;
  pool.for_pieces(1, 1, [&](auto, auto, int) { value = random.uniform(); });
  return value;
}
"""
AVX2 = ["-mavx2", "-mfma"]


def compiled(folder, name, code, *flags):
    source, target = folder / f"{name}.cpp", folder / f"{name}.o"
    source.write_text(code)
    command = [compiler, "-std=c++20", "-O1", "-g1", "-fsanitize=address", f"-I{include}", "-isystem", system]
    subprocess.run([*command, "-c", *flags, source, "-o", target], check=True)
    return target


def link(folder, *units):
    command = [compiler, "-fsanitize=address", *units, "-o", folder / "program", "-lfmt", "-lpthread"]
    return subprocess.run(command, capture_output=True, text=True)


with tempfile.TemporaryDirectory() as name:
    folder = pathlib.Path(name)
    main = compiled(folder, "main", MAIN, *AVX2)
    mixed = link(folder, main, compiled(folder, "plain", DRAW))
    if mixed.returncode == 0:
        sys.exit("units for different instruction sets link")
    if "tessera::v0_1_avx2::" not in mixed.stdout + mixed.stderr:
        sys.exit(f"unreadable link error: {mixed.stdout}{mixed.stderr}")
    same = link(folder, main, compiled(folder, "avx2", DRAW, *AVX2))
    if same.returncode != 0:
        sys.exit(same.stderr)
    if re.search(r"\bavx2\b", pathlib.Path("/proc/cpuinfo").read_text()):
        subprocess.run([folder / "program"], check=True)
