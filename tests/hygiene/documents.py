#!/usr/bin/env python3
"""documents.py ROOT: every C++ block of README.md and docs/ stands in a source file that the tests compile, and every
relative link leads to a file. Says which do not."""
import pathlib
import re
import sys
import textwrap

root = pathlib.Path(sys.argv[1])
documents = [root / "README.md", root / "CONTRIBUTING.md", *sorted((root / "docs").glob("*.md"))]


def lines_of(text):
    return [line.strip() for line in textwrap.dedent(text).strip("\n").splitlines()]


sources = []
for pattern in ("examples/**/*.[ch]pp", "tests/docs/*.cpp", "include/**/*.hpp"):
    sources += [(path, lines_of(path.read_text())) for path in sorted(root.glob(pattern))]


def stands_in(block, source):
    return any(source[i : i + len(block)] == block for i in range(len(source) - len(block) + 1))


wrong = 0
for document in documents:
    text = document.read_text()
    for match in re.finditer(r"^```cpp\n(.*?)^```", text, re.M | re.S):
        block = lines_of(match.group(1))
        if not any(stands_in(block, source) for _, source in sources):
            line = text[: match.start()].count("\n") + 1
            print(f"{document.relative_to(root)}:{line}: this block stands in no file of examples/ or tests/docs/")
            wrong += 1
    for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", text):
        if not (document.parent / target).exists():
            print(f"{document.relative_to(root)}: the link {target} leads nowhere")
            wrong += 1
sys.exit(wrong != 0)
