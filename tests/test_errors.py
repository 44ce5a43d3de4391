"""Exit codes and pickling of errors."""

import pickle

import pytest

from nodebudget import errors
from nodebudget.errors import CrystalError, InputError, NodeBudgetError, OversizedError


def test_exit_codes_follow_the_tree():
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, NodeBudgetError)]
    codes = {kind.__name__: kind.exit_code for kind in kinds}
    assert codes == {
        "NodeBudgetError": 2,
        "InputError": 2,
        "RecordError": 2,
        "CrystalError": 2,
        "WorkloadError": 2,
        "DoesNotFitError": 1,
        "OversizedError": 1,
        "MissingError": 3,
    }


def test_an_input_error_is_a_value_error():
    for error in (InputError("a", hint="b"), CrystalError(0, "", "no atoms")):
        with pytest.raises(ValueError, match="; "):
            raise error
    assert not issubclass(errors.DoesNotFitError, ValueError)


@pytest.mark.parametrize(
    "error",
    [
        InputError("a", limit="b", hint="c"),
        CrystalError(3, "Si", "no atoms"),
        OversizedError("too large", indices=[1, 2], hint="more"),
    ],
)
def test_errors_cross_process_borders_whole(error):
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is type(error)
    assert str(copy) == str(error)
    assert copy.__dict__ == error.__dict__
