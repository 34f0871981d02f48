#!/usr/bin/env bash
# Make .venv and install ss4rec into it, with the versions of constraints.txt. Safe to run again: it does nothing
# while pyproject.toml, constraints.txt and the choices below are unchanged.
#
#   SS4REC_VENV          folder of the environment (default: .venv)
#   SS4REC_PYTHON        the Python that makes it (default: python3, if it is one of 3.11 to 3.13)
#   SS4REC_DEVICE        cpu | cuda (default: cuda if nvidia-smi finds a GPU; set it on login nodes without one)
#   SS4REC_TORCH_INDEX   where a CPU build of torch is looked for if pip's own indexes have none
#   SS4REC_GPU_KERNELS   1: also compile mamba-ssm and causal-conv1d (needs nvcc, takes minutes: docs/install.md)
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

VENV=${SS4REC_VENV:-.venv}
# On Linux the plain torch wheel is a CUDA build of several GB; this index has the small CPU builds.
TORCH_INDEX=${SS4REC_TORCH_INDEX:-https://download.pytorch.org/whl/cpu}
KERNELS=${SS4REC_GPU_KERNELS:-0}

say() { printf '%s\n' "install: $*"; }
die() { printf '%s\n' "install: error: $*" >&2; exit 1; }

find_python() {
  local candidate
  for candidate in ${SS4REC_PYTHON:-python3 python3.12 python3.11 python3.13}; do
    if command -v "$candidate" >/dev/null &&
      "$candidate" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))'; then
      echo "$candidate"
      return
    fi
  done
  die "Python 3.11, 3.12 or 3.13 is needed, and ${SS4REC_PYTHON:-no python3 on PATH} is not one of them; install one first"
}

find_device() {
  if nvidia-smi -L >/dev/null 2>&1; then echo cuda; else echo cpu; fi
}

install_cpu_torch() {
  local version
  version=$(sed -n 's/^torch==//p' constraints.txt)
  if "$PIP" install -c constraints.txt "torch==$version+cpu"; then return; fi
  say "pip's indexes have no CPU build of torch $version; trying $TORCH_INDEX"
  "$PIP" install -c constraints.txt --index-url "$TORCH_INDEX" "torch==$version+cpu" ||
    die "no CPU build of torch $version at $TORCH_INDEX; set SS4REC_TORCH_INDEX to an index that has one"
}

# alibi-detect holds NumPy at 1 and has no release for Python 3.13: there its detectors are left out, and newer packages
# than those of constraints.txt are taken.
install_package() {
  if "$VENV/bin/python" -c 'import sys; sys.exit(sys.version_info >= (3, 13))'; then
    "$PIP" install -c constraints.txt -e '.[dev,serve,alibi]'
    say "alibi-detect is installed for drift reports. Its licence (BSL 1.1) forbids production use without its owner's consent."
  else
    "$PIP" install -e '.[dev,serve]'
    say "alibi-detect has no release for this Python: drift reports use ss4rec's own detectors only."
  fi
}

install_kernels() {
  [ "$DEVICE" = cuda ] || die "SS4REC_GPU_KERNELS=1 needs a CUDA torch: set SS4REC_DEVICE=cuda as well"
  command -v nvcc >/dev/null || die "SS4REC_GPU_KERNELS=1 needs nvcc (CUDA toolkit) on PATH: docs/install.md"
  say "compiling causal-conv1d and mamba-ssm: minutes on 16 cores, an hour on few (MAX_JOBS limits memory)"
  "$PIP" install ninja wheel packaging setuptools einops
  # Their metadata asks for packages that the scans do not use, and their build must see the torch in this venv.
  CAUSAL_CONV1D_FORCE_BUILD=TRUE MAMBA_FORCE_BUILD=TRUE "$PIP" install --no-deps --no-build-isolation \
    'causal-conv1d>=1.7,<1.8' 'mamba-ssm>=2.3.2,<2.4'
}

PYTHON=$(find_python)
DEVICE=${SS4REC_DEVICE:-$(find_device)}
case $DEVICE in cpu | cuda) ;; *) die "SS4REC_DEVICE is '$DEVICE'; use cpu or cuda" ;; esac
PIP=$VENV/bin/pip
STAMP=$VENV/.ss4rec-installed
WANTED="$(cat pyproject.toml constraints.txt | cksum) $DEVICE kernels=$KERNELS"

if [ -f "$STAMP" ] && [ "$(cat "$STAMP")" = "$WANTED" ]; then
  say "$VENV is up to date"
  exit 0
fi
say "$("$PYTHON" --version) ($PYTHON), torch for $DEVICE, into $VENV"
[ -x "$PIP" ] || "$PYTHON" -m venv "$VENV"
if [ "$DEVICE" = cpu ] && [ "$(uname -s)" = Linux ]; then install_cpu_torch; fi
install_package
if [ "$KERNELS" = 1 ]; then install_kernels; fi
printf '%s\n' "$WANTED" >"$STAMP"
say "done. Next: $VENV/bin/ss4rec doctor"
