# Sourced by the other scripts: makes a virtual environment and installs the pinned set into it.
# PYTHON chooses the interpreter; VENV the place (default .venv in the repository); CONSTRAINTS the pins.
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cd "$root"
venv=${VENV:-$root/.venv}
constraints=${CONSTRAINTS:-constraints.txt}

# install EXTRA...: brings the environment up to these extras; does nothing where it has them already.
install() {
  local want stamp compile=--compile
  want=$(cat "$constraints" pyproject.toml - <<<"$*" | sha256sum | cut -c1-16)
  stamp=$venv/.installed-$want
  [ ! -e "$stamp" ] || return 0
  if [ ! -x "$venv/bin/python" ]; then
    "${PYTHON:-python3}" -c 'import sys; sys.exit(sys.version_info < (3, 10))' || {
      echo "nodebudget needs Python 3.10 or newer; set PYTHON to one" >&2
      exit 3
    }
    "${PYTHON:-python3}" -m venv "$venv"
  fi
  # What is imported is compiled then, if Python may; most of what comes along never is.
  [ -n "${PYTHONDONTWRITEBYTECODE:-}" ] || compile=--no-compile
  echo "installing into $venv (a few minutes the first time) ..." >&2
  "$venv/bin/python" -m pip install --quiet "$compile" --disable-pip-version-check -c "$constraints" -e ".[$(IFS=,; echo "$*")]" >&2
  touch "$stamp"
}
