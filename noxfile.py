"""What works in which environment, each a real one: `nox --list` names the sessions, `nox -s core` runs one.

Interpreters that are not there are skipped. With pyenv, say which are to be found:

    PYENV_VERSION=3.11.7:3.10.13:3.12.1:3.13.0 nox

An environment takes one gigabyte, with a CUDA build of PyTorch seven: each is removed when its session is done.
KEEP=1 keeps it, and `nox -r` uses it again.
"""

import os
import re
import shutil
from pathlib import Path

import nox

nox.needs_version = ">=2024.4"
nox.options.error_on_missing_interpreters = False

#: The set that is tested together, for the Python that it is for.
PINNED, CONSTRAINTS = "3.11", "constraints.txt"

#: What runs the tests.
RUNNER = ["pytest", "hypothesis"]

#: What every environment must do: its own extras, and to say what it lacks.
APART = "tests/extras"

#: Each extra, and tests of it that stand elsewhere.
EXTRAS = {
    "structures": [],
    "dgl": [],
    "alignn-pure": ["tests/workloads/test_alignn_pure.py"],
    "alignn": [],
    "pyg": [],
    "parquet": [],
    "dask": [],
    "plot": [],
    "report": [],
    "lightning": [
        f"tests/integrations/test_{name}.py"
        for name in ("trainers", "lightning_loops", "lightning_ddp", "lightning_budget")
    ],
    "accelerate": ["tests/integrations/test_accelerate.py"],
    "transformers": ["tests/integrations/test_trainers.py", "tests/integrations/test_transformers.py"],
}

#: Tests of what another Python, PyTorch or numpy could change; they need no extra.
NUMBERS = [
    "tests/utils/test_records.py",
    "tests/test_errors.py",
    "tests/utils/test_byte_units.py",
    "tests/utils/test_files.py",
    "tests/utils/test_jsonl.py",
    "tests/sampling/test_packing_laws.py",
    "tests/sampling/test_plan.py",
    "tests/sampling/test_same_plan.py",
    "tests/sampling/test_sampler_laws.py",
    "tests/calibration/test_memory_model.py",
    "tests/sampling/test_budget.py",
    "tests/profiling/test_probe.py",
    "tests/profiling/test_cuda_allocator.py",
]

#: The lowest versions that pyproject.toml allows, with the oldest PyTorch that nodebudget runs with.
OLDEST = ["torch==2.0.0", "numpy==1.23.0", "scipy==1.9.0", "click==8.1.0", "rich==13.0.0", "matplotlib==3.7.0"]

#: The DGL that imports beside a current PyTorch; it has no wheel for Python 3.12 and newer.
DGL = "dgl==1.1.3"

#: What can be had for every Python.
WIDE = ["structures", "pyg", "parquet", "dask", "plot", "report"]


def check(session: nox.Session, extras: list[str], packages: list[str], tests: list[str]) -> None:
    """Make an environment with these extras, and packages beside them, test it, and remove it."""
    wanted = f".[{','.join(extras)}]" if extras else "."
    # What is never imported need not be compiled, which saves a third of the time.
    session.install("--no-compile", *packages, "-e", wanted, *RUNNER)
    session.run("python", "-m", "compileall", "-q", "nodebudget")
    promised = {"NODEBUDGET_EXTRAS": " ".join(extras), "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": ""}
    session.run("python", "-m", "pytest", "-p", "no:cacheprovider", APART, *tests, *session.posargs, env=promised)
    if not os.environ.get("KEEP"):
        shutil.rmtree(session.virtualenv.location)


@nox.session(python=PINNED)
def core(session: nox.Session) -> None:
    """Core alone: sizes, plans, samplers, suggestions, monitors, calibrations of a step of one's own."""
    check(session, [], ["-c", CONSTRAINTS], [])


@nox.session(python=PINNED)
@nox.parametrize("extra", [nox.param(name, id=name) for name in EXTRAS])
def extra(session: nox.Session, extra: str) -> None:
    """One extra alone."""
    check(session, [extra], ["-c", CONSTRAINTS], EXTRAS[extra])


@nox.session(python=["3.10", "3.12", "3.13"])
def python(session: nox.Session) -> None:
    """Another Python, with the newest packages that it takes and what DGL there is for it."""
    older = session.python == "3.10"
    check(session, [*WIDE, "alignn" if older else "alignn-pure"], [DGL] if older else [], NUMBERS)


@nox.session(python="3.10")
def oldest(session: nox.Session) -> None:
    """The oldest of all that core asks for."""
    check(session, ["dgl", "plot"], [*OLDEST, DGL], NUMBERS)


@nox.session(python=PINNED)
def newest(session: nox.Session) -> None:
    """The newest PyTorch with all else as pinned."""
    pins = Path(session.create_tmp()) / "constraints.txt"
    pins.write_text(re.sub(r"(?m)^torch==.*\n", "", Path(CONSTRAINTS).read_text()))
    check(session, [*WIDE, "alignn"], ["-c", str(pins)], NUMBERS)
