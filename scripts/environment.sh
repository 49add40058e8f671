# Sourced by the other scripts: makes .venv in the repository root and installs this project into it, once.
# A stamp in .venv remembers what was installed; an unchanged project is not installed again.
#
#   source scripts/environment.sh; prepare_environment [extra]

needed_gb=8

fail() {
    echo "error: $*" >&2
    exit 2
}

# Prints the first Python that is new enough and can make an environment. 3.11 comes first: it is the tested one.
find_python() {
    local name
    for name in ${PYTHON:+"$PYTHON"} python3.11 python3.12 python3.13 python3; do
        if "$name" -c 'import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; then
            command -v "$name"
            return
        fi
    done
    fail "no Python 3.11 or newer with venv was found (looked for ${PYTHON:+$PYTHON, }python3.11, python3.12," \
        "python3.13, python3). Install one (on Debian: python3 and python3-venv), or name it: PYTHON=/path/to/python $0"
}

check_disk_space() {
    local free_kb
    free_kb=$(df -Pk . | awk 'NR == 2 { print $4 }')
    ((free_kb >= needed_gb * 1024 * 1024)) ||
        fail "the installation needs about $needed_gb GB free in $PWD, and $((free_kb / 1024 / 1024)) GB are free." \
            "Free some space, or move the repository to a larger disk."
}

# Hash of everything that decides what is installed, and of where: an editable install points here.
fingerprint() {
    { cat pyproject.toml constraints.txt; echo "$PWD"; .venv/bin/python --version; } | sha256sum | cut -d ' ' -f 1
}

installed() {
    local stamp=".venv/.installed-$1"
    [[ -f $stamp && $(<"$stamp") == "$(fingerprint)" ]]
}

make_venv() {
    local python
    if [[ -e .venv ]]; then
        .venv/bin/python -m pip --version >/dev/null 2>&1 ||
            fail ".venv exists and its Python does not run (was the folder moved?). Remove it and run this again: rm -r .venv"
        return
    fi
    check_disk_space
    python=$(find_python)
    echo "making .venv with $("$python" --version)"
    "$python" -m venv .venv
}

install_project() {
    local extra=$1 target="."
    [[ $extra == base ]] || target=".[$extra]"
    check_disk_space
    echo "installing into .venv: about 3 minutes and 6 GB the first time"
    .venv/bin/python -m pip install -qq --disable-pip-version-check --progress-bar off \
        --constraint constraints.txt --editable "$target" ||
        fail "the installation failed; pip's message is above. What is installed so far is kept: run this again."
    fingerprint >".venv/.installed-$extra"
}

# prepare_environment [extra]: an installation with the extra [test] serves the plain one too.
prepare_environment() {
    local extra=${1:-base}
    make_venv
    installed "$extra" || { [[ $extra == base ]] && installed test; } || install_project "$extra"
}
