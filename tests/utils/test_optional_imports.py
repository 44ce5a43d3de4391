"""Missing, broken and old packages: one error that says what to install."""

import pytest

from nodebudget.errors import MissingError
from nodebudget.utils import optional_imports
from nodebudget.utils.optional_imports import check_torch, installed, load_dgl, require


def test_a_missing_package_names_the_extra_that_brings_it(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "vesin", None)
    with pytest.raises(MissingError, match=r"nodebudget\[structures\]"):
        require("vesin")


@pytest.mark.skipif(installed("dgl") is None, reason="dgl is not installed, and so never broken")
def test_a_broken_dgl_says_which_versions_go_together(monkeypatch, tmp_path):
    broken = tmp_path / "dgl" / "__init__.py"
    broken.parent.mkdir()
    # What dgl 2.1.0 does with a torch whose torchdata has no datapipes.
    broken.write_text("""raise ImportError("No module named 'torchdata.datapipes'")\n""")
    monkeypatch.syspath_prepend(str(tmp_path))
    for name in [name for name in __import__("sys").modules if name.split(".")[0] == "dgl"]:
        monkeypatch.delitem(__import__("sys").modules, name)
    with pytest.raises(MissingError, match=r"dgl 1.1.3 works with torch 2.13") as caught:
        load_dgl()
    assert caught.value.exit_code == 3
    assert "datapipes" in str(caught.value)


def test_a_folder_of_data_is_no_package(tmp_path, monkeypatch):
    (tmp_path / "crystals_of_mine").mkdir()
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(MissingError, match=r"crystals_of_mine' is a folder without code"):
        require("crystals_of_mine")


def test_a_torch_that_is_too_old_is_refused(monkeypatch):
    monkeypatch.setattr(optional_imports, "installed", lambda package: "1.13.1+cu117")
    with pytest.raises(MissingError, match=r"torch 1\.13\.1\+cu117 is too old \(torch 2\.0 or newer\)"):
        check_torch()
