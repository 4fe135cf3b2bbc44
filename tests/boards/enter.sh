#!/bin/bash
# Runs a command on a made-up board, as root: enter.sh ROOT COMMAND [ARGUMENT...]
# In private namespaces the tree ROOT lies over /sys, /proc, /etc, /run and /usr/bin; nothing of the
# machine changes, and whatever still runs when the command ends dies with it.
# BOARD_PYTHON names the Python that keeps /proc/stat moving.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$1" && pwd)
shift
if [ -z "${BOARD_OUTSIDE:-}" ]; then
  [ -e "$root/.made-up-board" ] || { echo "$root is not a made-up board" >&2; exit 2; }
  [ ! -e /proc/device-tree/compatible ] || { echo "this is a real board" >&2; exit 2; }
  BOARD_OUTSIDE=$(readlink /proc/self/ns/mnt)
  export BOARD_OUTSIDE
  exec unshare --mount --pid --fork --kill-child --propagation private "$here/enter.sh" "$root" "$@"
fi
# From here on as process 1 of the new namespaces, or not at all.
[ $$ = 1 ] && [ "$(readlink /proc/self/ns/mnt)" != "$BOARD_OUTSIDE" ] || exit 2
python=${BOARD_PYTHON:-$(command -v python3)}
scratch=/run/board
mount -t tmpfs board /run
mkdir -p /run/proc $scratch/{proc,etc,bin}
mount -t proc proc /run/proc
cp -a /etc/. "$root"/etc/. $scratch/etc/
grep -q '^jtop:' $scratch/etc/group || echo 'jtop:x:990:' >>$scratch/etc/group
mount --bind $scratch/etc /etc
# A procfs can't gain a folder: /proc becomes links into the real one, and what a board has beside them.
for entry in /run/proc/*; do
  case ${entry##*/} in [0-9]*) ;; *) ln -s "$entry" "$scratch/proc/${entry##*/}" ;; esac
done
rm -f $scratch/proc/{device-tree,meminfo,stat,cpuinfo,buddyinfo}
cp -a "$root/sys/firmware/devicetree/base" $scratch/proc/device-tree
"$python" "$here/procfs.py" "$scratch/proc" "$root" &
while [ ! -e $scratch/proc/stat ]; do sleep 0.02; done
mount --bind $scratch/proc /proc
mount --bind "$root/sys" /sys
mount -t tmpfs board /var/lib
cp -a "$root/var/lib/." /var/lib/
cp "$here/nvpmodel" "$here/jetson_clocks" $scratch/bin/
mount -t overlay overlay -o lowerdir=$scratch/bin:/usr/bin /usr/bin
status=0
"$@" || status=$?
exit $status
