# need_packages WHAT PACKAGE...: makes sure that Debian packages are there; WHAT says what for. Sourced by scripts.
need_packages() {
  local what=$1 package missing=()
  shift
  if ! command -v dpkg-query >/dev/null; then
    echo "Not a Debian system: make sure that what these packages hold is installed for $what: $*"
    return 0
  fi
  for package in "$@"; do
    [ "$(dpkg-query -W -f='${db:Status-Status}' "$package" 2>/dev/null)" = installed ] || missing+=("$package")
  done
  [ ${#missing[@]} -gt 0 ] || return 0
  local prefix=()
  if [ "$(id -u)" -ne 0 ]; then
    if ! sudo -n true 2>/dev/null; then
      echo "Missing Debian packages for $what. Install them with:"
      echo "  sudo apt-get install --no-install-recommends ${missing[*]}"
      exit 2
    fi
    prefix=(sudo -n)
  fi
  echo "Installing Debian packages for $what: ${missing[*]}"
  "${prefix[@]}" apt-get update -qq </dev/null
  "${prefix[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" \
    </dev/null >/dev/null
}
