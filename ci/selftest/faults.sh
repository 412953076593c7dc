# shellcheck shell=bash
# Sourced by the scripts of this folder: plants faults side by side, as many as there are cores, and
# prints the results in the order of the script. A fault that changes nothing counts as missed.

# shellcheck source=ci/tools.sh
. "$(dirname "${BASH_SOURCE[0]}")/../tools.sh"
# Installed before several checks want it at the same time.
python_tools

faults=$(mktemp -d)
trap 'rm -rf "$faults"' EXIT
planted=0 printed=0 missed=0

# plant COMMAND…: runs COMMAND as soon as a core is free, with an empty folder of its own as $work.
# COMMAND fails if the fault is not found.
plant() {
  while [ "$(jobs -rp | wc -l)" -ge "$(nproc)" ]; do wait -n || true; done
  print_results
  planted=$((planted + 1))
  work=$faults/$planted
  mkdir "$work"
  (
    # Renamed, so that a file with this name is always complete.
    trap 'echo $? >"$work.ended" && mv "$work.ended" "$work.status"' EXIT
    "$@"
  ) >"$work.log" 2>&1 &
}

print_results() {
  while [ -e "$faults/$((printed + 1)).status" ]; do
    printed=$((printed + 1))
    cat "$faults/$printed.log"
    [ "$(cat "$faults/$printed.status")" = 0 ] || missed=$((missed + 1))
    rm -rf "${faults:?}/$printed"
  done
}

# must_fail WHAT BEFORE AFTER SAYS COMMAND…: COMMAND must fail and print SAYS, because of the fault
# that makes the file BEFORE the file AFTER.
must_fail() {
  local what=$1 before=$2 after=$3 says=$4 log=$work/log
  shift 4
  if cmp -s "$before" "$after"; then
    echo "UNPLANTED  $what"
  elif "$@" >"$log" 2>&1; then
    echo "MISSED     $what"
  elif ! tr -s '[:space:]│' ' ' <"$log" | grep -qF -- "$says"; then
    echo "MISSED     $what: fails, but not with '$says'"
    tail -20 "$log"
  else
    echo "caught     $what"
    return
  fi
  return 1
}

# Waits for the last faults, and fails unless each one was found.
verdict() {
  wait
  print_results
  echo "$planted faults planted, $((missed + planted - printed)) missed"
  [ "$missed" = 0 ] && [ "$printed" = "$planted" ]
}
