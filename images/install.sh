#!/bin/sh
# Makes /opt/repro, the Python environment of the worker, from what the build context brings. Needs no network.
# PYTHON_SHA256: of the Python archive in the context; empty where the base's own Python serves.
set -eu
context=$(dirname "$0")
python=python3
mkdir -p /opt/repro
if [ -n "$PYTHON_SHA256" ]; then
  echo "$PYTHON_SHA256  $context/python.tar.gz" | sha256sum -c - >/dev/null
  tar -xzf "$context/python.tar.gz" -C /opt/repro
  python=/opt/repro/python/bin/python3
fi
"$python" -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' || {
  echo "install.sh: the images' locks are for Python 3.11, which $python is not" >&2
  exit 1
}
"$python" -m venv --without-pip /opt/repro/venv
# pip runs from its own wheel, checks everything against the lock, and does not stay.
pip=$(echo "$context"/wheels/pip-*.whl)
/opt/repro/venv/bin/python "$pip/pip" install --quiet --no-cache-dir --no-index \
  --disable-pip-version-check --root-user-action=ignore --require-hashes \
  --find-links "$context/wheels" -r "$context/requirements.lock"
/opt/repro/venv/bin/python -m pip uninstall --quiet --yes --root-user-action=ignore pip
