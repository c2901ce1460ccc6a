# Sourced by the other scripts: makes .venv and installs meshcache into it, unless that is done already.

cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit 1

find_python() {
    local candidate
    for candidate in "${PYTHON:-python3}" python3.14 python3.13 python3.12 python3.11; do
        if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            echo "$candidate"
            return
        fi
    done
    echo "meshcache needs Python 3.11 or newer: install it, or name it with PYTHON=/path/to/python3" >&2
    return 1
}

# prepare_venv NAME [PIP ARGUMENTS…]: NAME tells one set of arguments from another.
prepare_venv() {
    local name=$1 stamp python
    shift
    # What is installed follows from pyproject.toml, and for the native module from its sources; a stamp for their
    # present text makes the next run quick.
    stamp=".venv/installed-$name-$(cat pyproject.toml meshcache/_native/*.[ch] | cksum | tr -cd '0-9')"
    if [[ -e $stamp ]] && .venv/bin/python -c 'import meshcache' 2>/dev/null; then
        return
    fi
    python=$(find_python)
    if ! .venv/bin/python -m pip --version >/dev/null 2>&1; then
        echo "making .venv" >&2
        "$python" -m venv --clear .venv || {
            echo "could not make .venv; on Debian and Ubuntu: apt install python3-venv" >&2
            return 1
        }
    fi
    echo "installing meshcache into .venv" >&2
    .venv/bin/python -m pip install --quiet --disable-pip-version-check --upgrade 'pip>=25.1'
    .venv/bin/python -m pip install --quiet --editable . "$@"
    rm -f ".venv/installed-$name-"*
    touch "$stamp"
}
