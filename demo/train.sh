#!/bin/sh
# From the source packages to the exported folder: demo/train.sh [WORK]   (the steps of the shipped run by default; see README.md)
# Needs Debian's apt-get and dpkg, a C++ compiler (torch.compile), and the packages of requirements.txt in $PYTHON.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
work=${1:-${TMPDIR:-/tmp}/jetblock-demo}
python=${PYTHON:-python3}
mkdir -p "$work"
cd "$here"
"$python" prepare.py "$work"
"$python" train.py "$work" --steps "${STEPS:-765}" --decay-start "${DECAY_START:-312}"
"$python" export.py "$work/model.pt"
"$python" check_hf.py "$work" --reference "$here/../assets/demo-model-reference"
"$python" evaluate.py "$work"
"$python" sample.py
