#!/usr/bin/env python3
"""serial_is_nothing.py COMPILER INCLUDE SYSTEM_INCLUDE: with one rank, BatchNorm and what else talks to other ranks is
the machine code that it is without a communicator."""

import re
import subprocess
import sys

compiler, include, system = sys.argv[1:]
CODE = """
#include <tessera/comm/serial.hpp>
namespace ts = tessera;
static_assert(__is_empty(ts::comm::Serial));
double sum(double* values, ts::index count) {
#ifdef SERIAL
  ts::comm::Serial communicator;
  ts::comm::Host host;
  communicator.all_reduce(host, values, count);
  communicator.all_gather(host, values, {});
  communicator.reduce_scatter(host, values, {});
  communicator.broadcast(host, values, count);
  communicator.wait(host);
#endif
  double sum = 0;
  for (ts::index i = 0; i < count; ++i) sum += values[i];
  return sum;
}
"""


def code(*flags):
    command = [compiler, "-std=c++20", "-O2", f"-I{include}", "-isystem", system, "-S", "-o", "-", "-x", "c++", "-"]
    done = subprocess.run([*command, *flags], input=CODE, capture_output=True, text=True, check=True)
    return [line for line in done.stdout.splitlines() if not re.search(r"\.file|\.ident", line)]


alone = code()
if code("-DSERIAL") != alone:
    sys.exit("FAILED: comm::Serial leaves code behind")
if len(alone) <= 10:
    sys.exit("FAILED: nothing was compiled")
