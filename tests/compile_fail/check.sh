#!/usr/bin/env bash
# check.sh CASE COMPILER FLAGS...: CASE compiles as it is; with BAD it does not, and the compiler's output holds the
# sentence of CASE's first line, `// expect: SENTENCE`.
set -euo pipefail
case_file=$1
shift
sentence=$(sed -n '1s|^// expect: ||p' "$case_file")
[ -n "$sentence" ] || { echo "$case_file: the first line must be '// expect: SENTENCE'"; exit 1; }
"$@" -fsyntax-only "$case_file" || { echo "$case_file: the good composition does not compile"; exit 1; }
if output=$("$@" -fsyntax-only -DBAD "$case_file" 2>&1); then
  echo "$case_file: the bad composition compiles"
  exit 1
fi
grep -qF -- "$sentence" <<<"$output" || { echo "$case_file: expected '$sentence', got:"; head -40 <<<"$output"; exit 1; }
