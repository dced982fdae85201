#!/usr/bin/env bash
# Make .venv and install into it what this machine can run. Called by `make setup`, which skips it
# while nothing has changed:  scripts/setup.sh auto|cpu|cuda|none
#
#   cpu   vLLM's CPU build and every other engine, the pins of requirements/cpu.lock (Linux x86_64)
#   cuda  vLLM for NVIDIA GPUs and every other engine, newest versions that fit pyproject.toml
#   none  no local engine: HTTP engines, reports, and the development tools
#   auto  cuda where there is an NVIDIA GPU, cpu elsewhere
set -euo pipefail
cd "$(dirname "$0")/.."

readonly VENV=.venv
readonly LOCK=requirements/cpu.lock
readonly APART=requirements/apart.txt # where others would import it unasked

fail() { # cause, fix
    echo "setup: $1; $2" >&2
    exit 2
}

fits() { # a Python command: 3.11 to 3.14, and able to make virtual environments
    "$@" -c 'import sys, venv, ensurepip; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 14))' >/dev/null 2>&1
}

find_python() {
    local candidate
    if [ -n "${PYTHON:-}" ]; then
        fits "$PYTHON" || fail "$PYTHON is no Python 3.11 to 3.14 with venv" "give another, or leave PYTHON out"
        echo "$PYTHON"
        return
    fi
    for candidate in python3 python3.13 python3.12 python3.11 python3.14; do
        if fits "$candidate"; then
            echo "$candidate"
            return
        fi
    done
    fail "no Python 3.11 to 3.14 with venv was found" "install one (Debian, Ubuntu: apt install python3 python3-venv), or make setup PYTHON=/path/to/python3"
}

has_nvidia_gpu() {
    nvidia-smi -L 2>/dev/null | grep -q '^GPU ' || compgen -G '/proc/driver/nvidia/gpus/*' >/dev/null
}

pip() { # pip's own exit status decides; only notes about absent find-links folders are dropped
    "$VENV/bin/python" -m pip --disable-pip-version-check "$@" 2> >(grep -v "^WARNING: Location .* is ignored: it is neither" >&2)
}

install_cpu_torch() {
    local pin plain log
    pin=$(grep -m1 '^torch==' "$LOCK")
    plain=${pin%+cpu}
    log=$(mktemp)
    if pip install --quiet --no-deps "$pin" >"$log" 2>&1; then
        rm -f "$log"
        return
    fi
    echo "setup: pip's index has no $pin, asking uv for PyTorch's CPU index"
    if pip install --quiet "uv>=0.8" >>"$log" 2>&1 &&
        "$VENV/bin/python" -m uv pip install --quiet --python "$VENV/bin/python" --torch-backend cpu --no-deps "$plain" >>"$log" 2>&1; then
        rm -f "$log"
        return
    fi
    { grep -v "^WARNING: Location" "$log" || true; } | tail -5 >&2
    rm -f "$log"
    fail "the CPU build of torch ($pin) can't be downloaded" "put its wheel into a folder and run: PIP_FIND_LINKS=/that/folder make setup"
}

install_cpu() {
    [ "$(uname -sm)" = "Linux x86_64" ] || fail "the pinned CPU environment is for Linux x86_64, this is $(uname -sm)" "make setup ENGINE=none"
    install_cpu_torch
    pip install --quiet --no-deps -r "$LOCK"
    pip install --quiet --no-deps --upgrade --target "$VENV/apart" -r "$APART"
    pip install --quiet --no-deps --no-build-isolation -e .
}

main() {
    local engine=${1:-auto} python
    if [ "$engine" = auto ]; then
        if has_nvidia_gpu; then engine=cuda; else engine=cpu; fi
    fi
    case $engine in cpu | cuda | none) ;; *) fail "ENGINE=$engine is unknown" "give auto, cpu, cuda or none" ;; esac

    if [ -n "${PYTHON:-}" ] || ! fits "$VENV/bin/python"; then
        python=$(find_python)
        rm -rf "$VENV"
        "$python" -m venv "$VENV"
    fi
    rm -f "$VENV"/.setup-*
    echo "setup: $VENV, $("$VENV/bin/python" -V), engine $engine (the first time takes a few minutes)"
    case $engine in
    cpu) install_cpu ;;
    cuda) pip install --quiet -e ".[vllm,transformers,openvino,dev]" ;;
    none) pip install --quiet -e ".[dev]" -c <(grep -v '^torch' "$LOCK") ;;
    esac
    touch "$VENV/.setup-${1:-auto}"
    echo "setup: done"
}

mkdir -p .setup
exec 9>.setup/lock
if command -v flock >/dev/null; then flock 9; fi # make bench and make test may start together
main "$@"
