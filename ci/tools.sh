# shellcheck shell=bash
# Sourced by the scripts of this folder: installs the checkers, at pinned versions, in target/tools.
# Nothing is installed outside of that folder but packages of Debian, and those only where they are
# missing.

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cd "$root" || exit 1
tools=$root/target/tools

# Puts the Python tools first on the path. Installs them when ci/requirements.txt has changed since
# the last time.
python_tools() {
  local want have=$tools/python/installed
  want=$(sha256sum ci/requirements.txt)
  if [ "$(cat "$have" 2>/dev/null)" != "$want" ]; then
    rm -rf "$tools/python"
    python3 -m venv "$tools/python"
    "$tools/python/bin/pip" install --quiet --disable-pip-version-check --requirement ci/requirements.txt
    echo "$want" >"$have"
  fi
  export PATH=$tools/python/bin:$PATH
}

# debian_tool COMMAND PACKAGE
debian_tool() {
  command -v "$1" >/dev/null || install_package "$2" >/dev/null || {
    echo "$1 is missing: install it (Debian's package is $2)" >&2
    return 1
  }
}

install_package() {
  local sudo=
  # Never a question for a password: the message of `debian_tool` is the answer then.
  [ "$(id -u)" = 0 ] || sudo="sudo --non-interactive"
  $sudo apt-get update -qq && $sudo apt-get install -qq -y --no-install-recommends "$1"
}
