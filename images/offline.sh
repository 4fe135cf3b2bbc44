#!/bin/sh
# Installs the kit without internet, from the folder that this lies in: sh install.sh [FOLDER]
# FOLDER: where to, ~/trt-repro by default. PYTHON: the interpreter. DOCKER_HOST: the engine that gets the image.
set -eu
here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
fail() {
  echo "install.sh: $1" >&2
  exit 1
}
(cd "$here" && sha256sum --quiet -c SHA256SUMS >&2) || fail "files are missing or damaged: copy the tar again"
. "$here/about"
[ "$(uname -m)" = "$MACHINE" ] || fail "this is for $MACHINE, and this machine is $(uname -m)"

target=${1:-$HOME/trt-repro}
case $target in /*) ;; *) target=$PWD/$target ;; esac
if [ -e "$target" ] && [ ! -e "$target/about" ]; then
  fail "$target is there and is no installation of the kit: name another folder"
fi

fits() { "$1" -c "import sys; sys.exit('%d.%d' % sys.version_info[:2] != '$PYTHON_VERSION')" 2>/dev/null; }
python=
if [ ! -f "$here/python.tar.gz" ]; then
  for each in "${PYTHON:-python3}" "python$PYTHON_VERSION"; do
    if fits "$each"; then python=$each; break; fi
  done
  [ -n "$python" ] || fail "the wheels are for Python $PYTHON_VERSION, which is not here: name it as PYTHON=…, \
or make the tar with --python archive"
fi

# An older installation comes back if this one fails; half an installation never stays.
undo() {
  rm -rf "$target"
  if [ -e "$target.old" ]; then mv "$target.old" "$target"; fi
}
rm -rf "$target.old"
if [ -e "$target" ]; then mv "$target" "$target.old"; fi
trap undo EXIT
mkdir -p "$target/bin"
if [ -z "$python" ]; then
  tar -xzf "$here/python.tar.gz" -C "$target"
  python=$target/python/bin/python3
  fits "$python" || fail "the Python archive does not start here"
fi
"$python" -m venv --without-pip "$target/venv"
# pip runs from its own wheel, and takes nothing that is not in the lock.
pip=$(echo "$here"/wheels/pip-*.whl)
"$target/venv/bin/python" "$pip/pip" install --quiet --no-cache-dir --no-compile --no-index \
  --disable-pip-version-check --root-user-action=ignore --require-hashes --find-links "$here/wheels" -r "$here/requirements.lock"
cp -R "$here/kit" "$here/about" "$target/"
echo "$target/kit" > "$("$target/venv/bin/python" -c 'import site; print(site.getsitepackages()[0])')/trt-repro.pth"
printf '#!/bin/sh\nexec "%s" -m repro "$@"\n' "$target/venv/bin/python" > "$target/bin/repro"
chmod 755 "$target/bin/repro"
"$target/bin/repro" --version >&2

place=host
if [ -f "$here/image.tar" ]; then
  if command -v docker >/dev/null && docker version >/dev/null 2>&1; then
    docker load --quiet --input "$here/image.tar" >&2
    place=docker
  else
    echo "note: no Docker engine answers here, so the image stays in $here/image.tar (docker load --input)" >&2
  fi
fi
trap - EXIT
rm -rf "$target.old"
echo "next: $target/bin/repro run conv16 --device $DEVICE --place $place$([ $place = host ] || echo " --release $RELEASE")"
