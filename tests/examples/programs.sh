# Sourced by the tests of this folder. Works in a temporary folder that holds a small data set, data/, and offers what
# the tests assert. A program's output is kept in the files `output` and `errors`.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"

# files COMMAND ...: see files.py.
files() { python3 "$here/files.py" "$@"; }
files data data

command=()
failed() {
  echo "FAILED: $1"
  echo "command: ${command[*]}"
  head -n 40 output errors
  exit 1
}

# Through pipes, so that a limit on the size of files does not concern the output.
run() {
  command=("$@")
  { "$@" 2>&1 >&3 | cat >errors; } 3>&1 | cat >output
}

# succeeds PROGRAM ARGUMENTS...: exits with 0 and says nothing on standard error.
succeeds() {
  run "$@" || failed "exit status $?, expected 0"
  [[ ! -s errors ]] || failed "a message on standard error"
}

# refuses TEXT|TEXT... PROGRAM ARGUMENTS...: exits with 2 and one line on standard error, which holds every TEXT. What is
# in the folder run/ stays as it is.
refuses() {
  local texts text status=0 before
  IFS='|' read -ra texts <<<"$1"
  before=$(contents run)
  run "${@:2}" || status=$?
  [[ $status == 2 ]] || failed "exit status $status, expected 2"
  [[ $(wc -l <errors) == 1 ]] || failed "$(wc -l <errors) lines on standard error, expected 1"
  for text in "${texts[@]}"; do
    grep -qF -e "$text" errors || failed "the message lacks '$text'"
  done
  [[ $(contents run) == "$before" ]] || failed "files in run/ have changed"
}

contents() {
  [[ -d $1 ]] || return 0
  find "$1" -type f -exec sha256sum {} + | sort -k 2
}

same() { cmp -s "$1" "$2" || failed "$1 and $2 differ"; }
differ() { ! cmp -s "$1" "$2" || failed "$1 and $2 are the same"; }
says() { grep -qE -e "$1" output || failed "the output lacks '$1'"; }
