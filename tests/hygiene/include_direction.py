#!/usr/bin/env python3
"""include_direction.py INCLUDE: includes between the folders of include/tessera point one way. Says which do not."""
import pathlib
import re
import sys

# A folder includes itself and what stands here.
ALLOWED = {
    "core": [],
    "cpu": ["core"],
    "cuda": ["core", "data"],
    "comm": ["core", "cuda"],
    "nn": ["core", "comm"],
    "models": ["core", "comm", "nn"],
    "optim": ["core"],
    "data": ["core", "io"],
    "io": ["core"],
    "eval": ["core", "comm", "cpu", "nn", "models", "optim", "data", "io"],
    "objectives": ["core", "comm", "nn", "models", "data", "optim"],
    "train": ["core", "cpu", "cuda", "comm", "nn", "models", "optim", "data", "io", "eval", "objectives"],
    "testing": ["core", "cpu", "comm", "nn", "models"],
    "programs": ["core", "cpu", "cuda", "comm", "nn", "models", "optim", "data", "io", "eval", "objectives", "train"],
}
# Headers that are not in a folder know the folders above them.
TOP = {"concepts.hpp": ["core", "comm"], "operations.hpp": ["core"], "tessera.hpp": list(ALLOWED)}

root = pathlib.Path(sys.argv[1]) / "tessera"
wrong = 0
for header in sorted(root.rglob("*.hpp")):
    here = header.relative_to(root).parts
    allowed = TOP.get(here[0]) if len(here) == 1 else ALLOWED.get(here[0])
    if allowed is None:
        print(f"{header}: its place has no rule in tests/hygiene/include_direction.py")
        wrong += 1
        continue
    for line in header.read_text().splitlines():
        found = re.match(r'#include "tessera/([^"]+)"', line)
        if not found:
            continue
        to = found.group(1).split("/")
        if len(to) > 1 and to[0] != here[0] and to[0] not in allowed:
            print(f"{header}: must not include tessera/{found.group(1)}")
            wrong += 1
sys.exit(wrong != 0)
