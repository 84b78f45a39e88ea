#!/usr/bin/env python3
"""instructions.py SOURCE HEADERS NVCC FLAG...: compiles SOURCE for sm_90a by nvcc alone and holds every kernel of the
folder HEADERS to a row of KERNELS. It needs neither a device nor a disassembler: registers and local memory are those
that ptxas reports, instructions are the length of the kernel's code, loads and stores are counted in PTX, where nvcc
knows that the address is of device memory. Exits with 77, which ctest takes as skipped, where NVCC is missing or of
another release than the table's."""

import os
import pathlib
import re
import struct
import subprocess
import sys
import tempfile

RELEASE = "13.0"

# Each row: a part of the kernel's mangled name; the most registers of a thread; the most bytes of its local memory, where
# spilled registers and arrays indexed at run time are; the most instructions, 5 % above those of RELEASE; the values that
# they make (0 where they have a loop), so that instructions / values is the cost of one; the fewest loads of 16 bytes and
# the most of less; the fewest stores of 16 bytes and the most of less. The first row that fits a kernel holds for it; a
# kernel that is compiled for several types or shapes is held by its worst.
# clang-format off
KERNELS = [
    # kernel                                 registers  local  instructions  values  loads       stores
    ("transform_kernel.*Value",                    32,     0,          210,      8,    1,    0,    1,    0),
    ("transform_kernel.*TimesSlope",               32,     0,          240,      8,    2,    0,    1,    0),
    ("partial_sums_kernel.*ActivationGradient",    48,     0,          460,      0,    2,    0,    4,    0),
    ("partial_sums_kernel",                        40,     0,          630,      0,    5,    0,    1,    0),
    ("layer_norm_kernel",                          80,     0,          700,     48,   18,    0,    6,    2),
    ("layer_norm_gradient_kernel",                168,     0,         1010,      0,   15,    1,    3,    5),
    ("sum_norm_gradients_kernel",                  32,     0,          250,      0,    0,    8,    0,    2),
    ("resident_forward_kernel.*Li197",            128,     0,         1180,      0,    4,    0,    4,    2),
    ("resident_forward_kernel.*Li257",            152,     0,         1290,      0,    4,    4,    4,    6),
    ("streamed_forward_kernel",                   224,     0,         2450,      0,    8,    0,    8,    4),
    ("whole_backward_kernel",                     128,     0,         1570,      0,   12,    2,   10,    0),
    ("query_backward_kernel.*Li1280",             144,     0,         1330,      0,   20,   10,    4,    6),
    ("query_backward_kernel.*TiledHead",          208,     0,         1990,      0,   32,    4,    8,    4),
    ("key_backward_kernel.*Li1280",               168,     0,         1550,      0,    8,   20,    8,    8),
    ("key_backward_kernel.*TiledHead",            168,     0,         1420,      0,    8,   12,    8,    0),
    ("plain_forward_kernel",                       56,     0,         1430,      0,    0,   18,    0,   12),
    ("plain_query_backward_kernel",                56,     0,         1660,      0,    0,   54,    0,   12),
    ("plain_key_backward_kernel",                  56,     0,         1430,      0,    0,   24,    0,   16),
    ("attention_weights_kernel",                   96,     0,          690,      0,   16,    0,    0,    1),
    ("scale_branch_kernel",                        32,     0,          100,      8,    2,    1,    1,    0),
    ("gather_kernel",                              32,     0,          270,     32,    4,    0,    4,    0),
    ("assemble_tokens_kernel",                     48,     0,          220,      0,   14,    0,    4,    0),
    ("assemble_tokens_gradient_kernel",            64,     0,          480,      0,    4,    0,    8,    0),
    ("mean_tokens_kernel",                         40,     0,          370,      0,    4,    0,    1,    0),
    ("mean_tokens_gradient_kernel",                24,     0,          120,      0,    1,    0,    8,    0),
    ("move_tokens_kernel",                         24,     0,           70,      8,    1,    1,    1,    0),
    ("add_positions_kernel",                       32,     0,          110,      8,    3,    1,    1,    0),
    ("add_positions_gradient_kernel",              40,     0,          500,      0,    5,    4,    2,    0),
    ("resample_positions_kernel",                  48,     0,          230,      0,    0,   21,    0,    6),
    ("resample_positions_gradient_kernel",         32,     0,          330,      0,    0,    3,    0,    2),
    ("order_patches_kernel",                       32,     0,          340,      0,    0,    5,    0,    2),
    ("unshuffle_tokens_kernel",                    32,     0,          120,      8,    5,    1,    1,    0),
    ("shuffle_tokens_kernel",                      24,     0,           90,      8,    1,    1,    1,    0),
    ("add_rows_kernel",                            40,     0,          600,      0,    2,    1,    1,    0),
    ("patch_targets_kernel",                       32,     0,          690,      0,    0,   13,    0,    3),
    ("masked_mse_kernel",                          32,     0,          190,      0,    2,    1,    1,    1),
    ("batch_norm_moments_kernel",                  64,     0,          470,      0,    5,    1,    0,    2),
    ("batch_norm_totals_kernel",                   32,     0,          380,      0,    0,    7,    0,    4),
    ("batch_norm_statistics_kernel",               48,     0,          740,      0,    0,   12,    0,    9),
    ("batch_norm_running_kernel",                  24,     0,          180,      0,    0,    2,    0,    2),
    ("batch_norm_normalize_kernel",                72,     0,          350,      0,   12,    0,    4,    0),
    ("batch_norm_gradient_sums_kernel",            88,     0,          560,      0,   12,    0,    0,    2),
    ("batch_norm_gradient_kernel",                104,     0,          750,      0,   14,   25,    4,    0),
    ("normalize_rows_kernel",                      32,     0,          370,      0,    2,    0,    1,    1),
    ("normalize_rows_gradient_kernel",             40,     0,          370,      0,    4,    1,    1,    0),
    ("cross_entropy_kernelILi4",                   32,     0,         1390,      0,   10,    3,    0,    6),
    ("cross_entropy_kernelILi1",                   32,     0,         1100,      0,    0,   13,    0,    6),
    ("log_sums_kernelILi4",                        32,     0,          740,      0,    3,    2,    0,    2),
    ("log_sums_kernelILi1",                        32,     0,          680,      0,    0,    7,    0,    2),
    ("nt_xent_weights_kernelILi4",                 32,     0,          370,      0,    2,    2,    0,    1),
    ("nt_xent_weights_kernelILi1",                 32,     0,          410,      0,    0,    8,    0,    3),
    ("soft_cross_entropy_kernel",                  48,     0,         1050,      0,    3,    6,    1,    1),
    ("sum_losses_kernel",                          32,     0,          360,      0,    0,    7,    0,    1),
    ("add_losses_kernel",                          32,     0,          350,      0,    0,    6,    0,    1),
    ("keep_losses_kernel",                         32,     0,          110,      0,    0,    5,    0,    6),
    ("add_squares_kernel",                         32,     0,          230,      0,    0,    6,    0,    1),
    ("draw_mixing_kernel",                         56,    88,         1260,      0,    3,    6,    0,    4),
    ("draw_drop_path_kernel",                      40,     0,          500,      0,    0,    3,    0,    2),
    ("mix_images_kernel",                          32,     0,          220,      8,    2,    4,    1,    0),
    ("make_units_kernel",                          56,     0,          450,      0,    3,    0,    5,    0),
    ("fold_kernel",                                32,     0,          150,      0,    0,    1,    0,    1),
    ("to_planar_kernel",                           32,     0,           50,     24,    3,    0,    3,    0),
    ("augment_kernel",                             64,    40,         9590,      0,    0,  133,    2,    2),
    ("update_kernel.*AdamW",                       48,     0,          590,      0,    4,   24,    3,   18),
    ("adapted_update_kernel",                      32,     0,          790,      0,    3,   27,    2,   14),
    ("direction_kernel",                           32,     0,          240,      0,    2,   10,    0,    2),
    ("moving_average_kernel",                      24,     0,          170,      0,    2,    9,    1,    9),
    ("copy_to_low_kernel",                         16,     0,          120,      0,    1,  117,    0,    5),
    ("check_finite_kernel",                        24,     0,          100,      0,    1,    5,    0,    1),
    ("noise_kernel",                               16,     0,           70,      0,    0,    0,    0,    1),
    ("squares_kernel",                             32,     0,          150,      0,    1,    4,    0,    1),
    ("add_sums_kernel",                            32,     0,          210,      0,    0,    6,    0,    1),
    ("clip_kernel",                                24,     0,          290,      0,    1,    6,    1,    4),
    ("entry_squares_kernel",                       32,     0,          160,      0,    1,    4,    0,    1),
    ("sum_parts_kernel",                           16,     0,           50,      0,    0,    1,    0,    1),
]
# clang-format on


def code_lengths(cubin):
    """Every kernel's instructions, of 16 bytes each, with up to 8 that pad them: the ELF sections .text.KERNEL."""
    (table,), (size, count, strings) = struct.unpack_from("<Q", cubin, 0x28), struct.unpack_from("<HHH", cubin, 0x3A)
    sections = [struct.unpack_from("<IIQQQQ", cubin, table + i * size) for i in range(count)]

    def name(section):
        start = sections[strings][4] + section[0]
        return cubin[start : cubin.index(b"\0", start)].decode()

    return {name(s).removeprefix(".text."): s[5] // 16 for s in sections if name(s).startswith(".text.")}


def resources(report):
    """Every kernel's registers, and the bytes of local memory of it and the functions that it calls."""
    found = {}
    for part in report.split("Compiling entry function '")[1:]:
        local = sum(map(int, re.findall(r"(\d+) bytes stack frame", part)))
        found[part[: part.index("'")]] = int(re.search(r"Used (\d+) registers", part)[1]), local
    return found


def accesses(ptx):
    """Every kernel's loads of 16 bytes and of less, and stores of 16 bytes and of less."""
    found = {}
    for part in ptx.split(".entry ")[1:]:
        counts = {"ld": [0, 0], "st": [0, 0]}
        for kind, lanes, bits in re.findall(r"\s(ld|st)\.global(?:\.nc)?(?:\.v(\d))?\.[a-z](\d+)", part):
            counts[kind][int(bits) * int(lanes or 1) < 128] += 1
        found[re.match(r"[\w$]+", part)[0]] = counts["ld"] + counts["st"]
    return found


def compiled(source, nvcc, flags):
    """Of every kernel: registers, local memory, instructions, and its loads and stores."""
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        command = [nvcc, "-cubin", "-arch=sm_90a", "-O3", "-Xptxas=-v", "--keep", f"--keep-dir={name}", *flags]
        done = subprocess.run([*command, "-o", folder / "out.cubin", source], capture_output=True, text=True)
        if done.returncode:
            sys.exit(done.stdout + done.stderr)
        of_ptx = accesses(next(folder.glob("*.ptx")).read_text())
        of_ptxas = resources(done.stdout + done.stderr)
        lengths = code_lengths((folder / "out.cubin").read_bytes())
    return {kernel: (*of_ptxas[kernel], length, *of_ptx[kernel]) for kernel, length in lengths.items()}


def complaints(kernels):
    """Prints the figures of every kernel; gives a sentence for each bound that one is over."""
    unused = {row[0] for row in KERNELS}
    print("registers local instructions (of a value) loads: wide narrow stores: wide narrow")
    for name, (registers, local, instructions, *moved) in sorted(kernels.items()):
        short = re.sub(r"^_ZN7tessera.*?6detail\d+", "", name)
        row = next((row for row in KERNELS if re.match(row[0], short)), None)
        if row is None:
            yield f"{short}: KERNELS has no row for it"
            continue
        unused.discard(row[0])
        _, most_registers, most_local, most_instructions, values, *bounds = row
        each = f"{instructions / values:.1f}" if values else ""
        print(f"{registers:9} {local:5} {instructions:12} {each:>12}", *(f"{n:7}" for n in moved), short[:100])
        for what, got, most in (
            ("registers", registers, most_registers),
            ("bytes of local memory", local, most_local),
            ("instructions", instructions, most_instructions),
            ("loads of less than 16 bytes", moved[1], bounds[1]),
            ("stores of less than 16 bytes", moved[3], bounds[3]),
        ):
            if got > most:
                yield f"{short}: {got} {what}, more than {most}"
        for what, got, least in ("loads", moved[0], bounds[0]), ("stores", moved[2], bounds[2]):
            if got < least:
                yield f"{short}: {got} {what} of 16 bytes, fewer than {least}"
    for pattern in sorted(unused):
        yield f"{pattern}: no kernel has this row"


def not_compiled(headers, kernels):
    """The kernels of HEADERS that SOURCE does not compile."""
    text = "".join(path.read_text() for path in sorted(pathlib.Path(headers).rglob("*.hpp")))
    for kernel in re.findall(r"__global__[^;{]*?(\w+_kernel)\(", text):
        if not any(re.search(rf"\d{kernel}(?!\w*_kernel)", name) for name in kernels):
            yield f"{kernel}: nothing in the source compiles it"


def main(source, headers, nvcc, *flags):
    if not os.access(nvcc, os.X_OK):
        print("skipped: there is no nvcc on this machine")
        return 77
    release = re.search(r"release ([\d.]+)", subprocess.run([nvcc, "--version"], capture_output=True, text=True).stdout)
    if release[1] != RELEASE:
        print(f"skipped: the table holds for nvcc {RELEASE}, and this is {release[1]}")
        return 77
    kernels = compiled(source, nvcc, flags)
    wrong = [*complaints(kernels), *not_compiled(headers, kernels)]
    print("\n".join(wrong))
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
