#!/usr/bin/env python3
"""instructions.py SOURCE NVCC CUOBJDUMP FLAG...: compiles kernels.cu for sm_90a and reads off its instructions what a
kernel promises. No device is needed. Exits with 77, which ctest takes as skipped, where NVCC or CUOBJDUMP is missing."""

import collections
import os
import re
import subprocess
import sys
import tempfile

# A part of a kernel's mangled name; the most instructions it has; how many 16-byte stores at least, and how many stores
# of less at most: a float for each row, where the kernel keeps one. Instructions: GELU takes 23 for each of 8 values, and 28 with its gradient; by erfc and an IEEE division it
# took more than three times as many.
RULES = [
    ("transform_kernel.*Gelu", 210, 1, 0),
    ("activation_gradient_kernel.*Gelu", 260, 2, 0),
    ("normalize_rows_kernel", None, 1, 1),
    ("normalize_rows_gradient_kernel", None, 1, 0),
    ("nt_xent_weights_kernel", None, 1, 0),
    ("resident_forward_kernel", None, 4, 2),
    ("whole_backward_kernel", None, 10, 0),
    ("streamed_forward_kernel", None, 8, 4),
    ("query_backward_kernel", None, 8, 4),
    ("key_backward_kernel", None, 8, 0),
]


def kernels(sass):
    """The opcodes of every kernel, by mangled name."""
    found, opcodes = {}, None
    for line in sass.splitlines():
        if match := re.match(r"\s*Function : (\S+)", line):
            opcodes = found.setdefault(match[1], [])
        elif match := re.match(r"\s+/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+\s+)?([A-Z][^\s;]*)", line):
            opcodes.append(match[1])
    return found


def complaints(found):
    for pattern, most, wide_least, narrow_most in RULES:
        matching = [name for name in found if re.search(pattern, name)]
        if not matching:
            yield f"{pattern}: there is no such kernel"
        for name in matching:
            count = collections.Counter(found[name])
            instructions = sum(count.values()) - count["NOP"]
            stores = {opcode: number for opcode, number in count.items() if opcode.startswith("STG")}
            wide = sum(number for opcode, number in stores.items() if ".128" in opcode)
            narrow = sum(stores.values()) - wide
            print(f"{instructions:5} instructions, stores of 16 bytes: {wide:2}, of less: {narrow:2}, {name}")
            if most and instructions > most:
                yield f"{name}: {instructions} instructions, more than {most}"
            if wide < wide_least:
                yield f"{name}: {wide} stores of 16 bytes, fewer than {wide_least}: {stores}"
            if narrow > narrow_most:
                yield f"{name}: {narrow} stores of less than 16 bytes, more than {narrow_most}: {stores}"


def main(source, nvcc, cuobjdump, *flags):
    for name, program in ("nvcc", nvcc), ("cuobjdump", cuobjdump):
        if not os.access(program, os.X_OK):
            print(f"skipped: there is no {name} on this machine")
            return 77
    with tempfile.TemporaryDirectory() as folder:
        cubin = os.path.join(folder, "kernels.cubin")
        subprocess.run([nvcc, "-cubin", "-arch=sm_90a", "-O3", *flags, "-o", cubin, source], check=True)
        sass = subprocess.run([cuobjdump, "-sass", cubin], check=True, capture_output=True, text=True).stdout
    wrong = list(complaints(kernels(sass)))
    print("\n".join(wrong))
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
