"""What people read, against golden files. NODEBUDGET_GOLDEN=write writes them anew: look at the difference."""

import io
import os
import struct

import pytest
from calibrations import fitted
from paths import GOLDEN

from nodebudget import SizeTable
from nodebudget.report.calibration import calibration_report
from nodebudget.report.plots import save_picture
from nodebudget.report.quickstart import quickstart_report
from nodebudget.report.text.render import render

SIZES = SizeTable.from_counts([10, 20, 30], [120, 250, 380], [1400, 3000, 4800])


def run(dataset, batching, peaks):
    summary = {"mean": sum(peaks) / len(peaks), "max": max(peaks), "cv": 0.0123}
    return {
        "dataset": dataset,
        "batching": batching,
        "label": batching,
        "batches": len(peaks),
        "graphs_per_batch": {"mean": 16.0, "std": 0.25},
        "predicted_bytes": summary,
        "measured_bytes": summary,
        "graphs_left_out": 3,
        "measured_peaks": peaks,
    }


RUNS = [
    run("small cells", "fixed", [400 << 20, 500 << 20]),
    run("small cells", "budget", [900 << 20, 901 << 20]),
    run("large cells", "fixed", [700 << 20, 1500 << 20]),
    run("large cells", "budget", [950 << 20, 951 << 20, 952 << 20]),
]


@pytest.mark.parametrize(
    ("name", "make"),
    [
        ("calibration", lambda: render(calibration_report(fitted(), SIZES, 64), 80)),
        ("runs", lambda: render(quickstart_report({"memory": 1000 << 20, "runs": RUNS}), 80)),
    ],
)
def test_text_is_as_it_was_looked_at(name, make):
    path = GOLDEN / f"{name}.txt"
    if os.environ.get("NODEBUDGET_GOLDEN") == "write":
        path.write_text(make() + "\n")
    assert make() + "\n" == path.read_text()


def test_the_picture_is_a_png_of_a_readable_size():
    file = io.BytesIO()
    save_picture(quickstart_report({"memory": 1000 << 20, "runs": RUNS}).draw(), file, "measured on nothing")
    data = file.getvalue()
    assert data.startswith(b"\x89PNG\r\n\x1a\n")
    width, height = struct.unpack(">II", data[16:24])
    assert width > 1000
    assert height > 400
