"""How well a calibration predicts: on held-out batches, on other graphs, compared with simpler models.

    python scripts/benchmarks/calibration.py [DATA] [--hidden 64] [--json] [--plot calibration.png]

Calibrates real ALIGNN on the CPU on DATA (a JARVIS-style JSON; by default the large cells among pymatgen's AFLOW
prototypes) and measures further training steps: of the same data, and of the small cells with other graph settings
(4, 6 and 20 neighbors, all neighbors within 4 and 5 Å), which stand for other datasets. For comparison, the fits that
others use: two points and nodes only; nodes; nodes and edges. Errors are relative to the measured peak of live tensors.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from nodebudget.calibration.calibrate import CalibrationConfig, calibrate
from nodebudget.calibration.fit import fit_calibration
from nodebudget.calibration.memory_model import Calibration, Observation
from nodebudget.datasets.example_crystals import example_datasets
from nodebudget.datasets.graph_settings import GraphSettings
from nodebudget.datasets.measure import measure
from nodebudget.datasets.readers.open_dataset import open_data
from nodebudget.profiling.open import open_probe
from nodebudget.profiling.probe import Probe
from nodebudget.workloads.protocol import Workload, resident_bytes
from nodebudget.workloads.registry import load_workload

OTHERS = {
    "4 neighbors": {"neighbors": 4},
    "6 neighbors": {"neighbors": 6},
    "20 neighbors": {"neighbors": 20},
    "all within 4 Å": {"strategy": "radius_graph", "cutoff": 4.0},
    "all within 5 Å": {"strategy": "radius_graph", "cutoff": 5.0},
}


def measure_steps(
    workload: Workload, probe: Probe, samples: Sequence[Any], graphs: int, count: int, seed: int
) -> list[Observation]:
    """Measure training steps on shuffled batches."""
    rng = np.random.default_rng(seed)
    observations = []
    for size in np.geomspace(max(2, graphs / 4), graphs, count).round().astype(int):
        chosen = [samples[index] for index in rng.choice(len(samples), size=min(size, len(samples)), replace=False)]
        peak = probe.measure(lambda: workload.step(workload.batch(chosen)))  # noqa: B023
        resident = resident_bytes(workload)
        sizes = measure(chosen).totals(np.arange(len(chosen)))
        observations.append(Observation(sizes, resident + peak.requested, resident, "holdout"))
    return observations


def errors(predict: Any, observations: Sequence[Observation]) -> tuple[float, float]:
    """Return mean absolute error and largest underprediction, fractions."""
    relative = np.array([predict(entry.sizes) / entry.peak - 1 for entry in observations])
    return float(np.abs(relative).mean()), float(max(-relative.min(), 0.0))


def simpler(observations: Sequence[Observation]) -> dict[str, Any]:
    """Fit the models that others use to the same measurements."""
    fitted = sorted((entry for entry in observations if entry.role == "fit"), key=lambda entry: entry.peak)
    low, high = fitted[0], fitted[-1]
    slope = (high.peak - low.peak) / max(high.sizes["nodes"] - low.sizes["nodes"], 1)
    models: dict[str, Any] = {
        "two points, nodes": lambda sizes: low.peak + slope * (sizes["nodes"] - low.sizes["nodes"])
    }
    for name, columns in (("nodes", ["nodes"]), ("nodes and edges", ["nodes", "edges"])):
        fit = fit_calibration(fitted, columns)
        models[name] = lambda sizes, fit=fit: fit.predict_bytes(**sizes)
    return models


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Measure and compare."""
    prototypes = example_datasets()
    data = open_data(options.data) if options.data else prototypes["large cells"]
    workload, probe = load_workload("alignn", hidden_features=options.hidden), open_probe("cpu")
    sizes = measure(data)
    config = CalibrationConfig(probes=options.probes, max_graphs=options.graphs)
    calibration = calibrate(workload, data, sizes, probe, config=config, progress=say)
    checked = {"held out": [entry for entry in calibration.observations if entry.role == "holdout"]}
    for place, (name, settings) in enumerate(OTHERS.items()):
        other = load_workload("alignn", hidden_features=8, graphs=GraphSettings(**settings))
        samples = [other.sample(crystal) for crystal in prototypes["small cells"]]  # type: ignore[attr-defined]
        checked[name] = measure_steps(workload, probe, samples, 2 * options.graphs, 6, place)
    models = {
        "nodebudget": lambda sizes: calibration.predict_bytes(**sizes),
        **simpler(calibration.observations),
    }
    table = {name: {what: errors(model, seen) for what, seen in checked.items()} for name, model in models.items()}
    return {"calibration": calibration, "checked": checked, "errors": table}


def say(done: int, total: int) -> None:
    print(f"\rprobes: {done} of {total}", end="\n" if done == total else "", file=sys.stderr)


def show(result: dict[str, Any]) -> None:
    """Print the tables in Markdown."""
    calibration: Calibration = result["calibration"]
    print("| bytes | coefficient | standard error |\n| --- | --- | --- |")
    assert calibration.determination is not None
    for name, value in calibration.coefficients.items():
        error = calibration.determination.standard_errors.get(name)
        print(f"| {name} | {value:,.0f} | {'' if error is None else f'{error:,.0f}'} |")
    print(f"\nCondition number {calibration.determination.condition:.0f}. {len(calibration.observations)} probes.\n")
    columns = list(result["checked"])
    print(f"| model | {' | '.join(columns)} |\n| --- |{' --- |' * len(columns)}")
    for name, row in result["errors"].items():
        cells = [f"{row[what][0]:.2%}, {row[what][1]:.2%}" for what in columns]
        print(f"| {name} | {' | '.join(cells)} |")
    print("\nEach cell: mean absolute error, largest underprediction.")


def plot(result: dict[str, Any], path: Path) -> None:
    """Draw predicted against measured, with the bound."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    calibration: Calibration = result["calibration"]
    figure, axis = pyplot.subplots(figsize=(6, 4.5), layout="constrained")
    peak = max(entry.peak for seen in result["checked"].values() for entry in seen) / 2**20
    line = np.linspace(0, peak, 100)
    margin = calibration.bound.margin(line * 2**20, 0.99)
    axis.fill_between(line, line * (1 - margin), line * (1 + margin), color="#cccccc", label="99% prediction interval")
    axis.plot(line, line, color="#555555", linewidth=1)
    for name, seen in result["checked"].items():
        predicted = [calibration.predict_bytes(**entry.sizes) / 2**20 for entry in seen]
        axis.scatter(predicted, [entry.peak / 2**20 for entry in seen], s=22, label=name)
    axis.set_xlabel("predicted peak of a training step, MiB")
    axis.set_ylabel("measured, MiB")
    axis.legend(frameon=False)
    figure.savefig(path, dpi=130)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", nargs="?", help="JARVIS-style JSON")
    parser.add_argument("--hidden", type=int, default=64, help="width of ALIGNN")
    parser.add_argument("--graphs", type=int, default=12, help="maximum number of graphs in a probe")
    parser.add_argument("--probes", type=int, default=24)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--plot", type=Path)
    options = parser.parse_args()
    result = run(options)
    if options.plot:
        plot(result, options.plot)
    if options.json:
        print(json.dumps({"errors": result["errors"], **result["calibration"].to_dict()}, indent=2))
    else:
        show(result)


if __name__ == "__main__":
    main()
