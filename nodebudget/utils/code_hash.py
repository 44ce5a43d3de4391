"""A hash of a function: its code, and the plain values that it reads."""

from __future__ import annotations

import functools
import hashlib
import inspect
import types
from typing import Any

#: Values that are part of a setting; others (models, data) are compared by what they are.
_PLAIN = (bool, int, float, complex, str, bytes, type(None))

#: How many functions deep calls are followed within the user's own code.
_DEPTH = 4


def code_hash(function: Any) -> str:
    """Return a short hash that changes with the code of a function, or with plain values that it reads.

    Followed: closures, globals, default and partial arguments, attributes of the object that it is a method of, and
    functions of the same top-level package that are named in it. Memory addresses and line numbers do not count.
    """
    facts: list[str] = []
    _add(function, facts, set(), _DEPTH)
    return hashlib.sha256("\n".join(facts).encode()).hexdigest()[:16]


def plain_values(value: Any) -> list[str]:
    """Return the plain attributes of an object, by name, as text."""
    attributes = getattr(value, "__dict__", {})
    return [f"{name}={entry!r}" for name, entry in sorted(attributes.items()) if isinstance(entry, _PLAIN)]


def _add(value: Any, facts: list[str], seen: set[int], depth: int) -> None:
    if isinstance(value, _PLAIN):
        facts.append(repr(value))
    elif id(value) in seen or depth < 0:
        return
    elif isinstance(value, (tuple, list)):
        for entry in value:
            _add(entry, facts, seen, depth)
    elif isinstance(value, functools.partial):
        _add([value.func, *value.args, *value.keywords.values()], facts, seen, depth)
    elif isinstance(value, types.MethodType):
        facts += plain_values(value.__self__)
        _add(value.__func__, facts, seen, depth)
    elif isinstance(value, types.FunctionType):
        seen.add(id(value))
        _add_function(value, facts, seen, depth - 1)
    elif callable(value) and not isinstance(value, type):
        seen.add(id(value))
        facts += [type(value).__qualname__, *plain_values(value)]
        _add(type(value).__call__, facts, seen, depth - 1)


def _add_function(function: types.FunctionType, facts: list[str], seen: set[int], depth: int) -> None:
    facts.append(function.__qualname__)
    _add_code(function.__code__, facts)
    _add(list(function.__defaults__ or ()), facts, seen, depth)
    variables = inspect.getclosurevars(function)
    for name, value in sorted({**variables.globals, **variables.nonlocals}.items()):
        if isinstance(value, _PLAIN) or _is_alike(function, value):
            facts.append(name)
            _add(value, facts, seen, depth)


def _is_alike(function: types.FunctionType, value: Any) -> bool:
    """Return whether a value is a function of the same package, whose code the user may change."""
    module = getattr(value, "__module__", None)
    return isinstance(value, (types.FunctionType, types.MethodType, functools.partial)) and (
        str(module).partition(".")[0] == function.__module__.partition(".")[0]
    )


def _add_code(code: types.CodeType, facts: list[str]) -> None:
    facts += [code.co_code.hex(), *code.co_names, *code.co_varnames]
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            _add_code(constant, facts)
        else:
            facts.append(repr(sorted(map(repr, constant))) if isinstance(constant, frozenset) else repr(constant))
