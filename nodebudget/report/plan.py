"""A plan: its batches, beside those of a fixed batch size on the same data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from nodebudget.calibration.memory_model import Calibration, ErrorSummary
from nodebudget.datasets.size_table import SizeTable
from nodebudget.errors import InputError
from nodebudget.report.charts import Axis, Chart, Series, lines, thin
from nodebudget.report.formats import counted, mean_std, number, percent
from nodebudget.report.report import Advice, Report, Table
from nodebudget.sampling.plan import FlatBatches, Plan
from nodebudget.sampling.plan_io import SavedPlan
from nodebudget.utils.byte_units import format_bytes
from nodebudget.utils.size_labels import count_sizes, size_label

_FIXED = (
    "Fixed: one shuffled epoch of the same data; its last, incomplete batch is dropped, as loaders for training do."
)

_FEW = 4  #: Under so many graphs per batch gradients are noisy.
_FULL = 0.9  #: Batches fuller than this need no sentence.
_FAR = 2.0  #: A budget over so many times the largest measured step is an extrapolation.


#: What the ways to pad are called.
_WAYS = {"static": "static", "fixed": "fixed batches, padded to the largest", "jraph": "jraph's dynamic batches"}


def plan_report(plan: Plan, padding: Mapping[str, Any] | None = None) -> Report:
    """Report on a plan that was just made; with `nodebudget.analysis.padding.padding_of_plan` also on its padding."""
    values = plan.statistics()
    balance, graphs = values["balanced"], values["graphs_per_batch"]
    label = size_label(balance["column"])
    rows = [
        ["batches", f"{values['batches']:,}"],
        ["lower bound", f"{values['lower_bound']:,}"],
        ["fill", f"{values['fill']:.1%}"],
        ["graphs per batch", mean_std(**graphs)],
        [f"{label} per batch, mean", plan.format_load(balance["mean"])],
        [f"{label} per batch, max", plan.format_load(balance["max"])],
        [f"{label} per batch, CV", f"{balance['cv']:.2%}"],
        ["oversized graphs", f"{values['oversized']:,}"],
    ]
    if values["pack"] in ("balanced", "static"):
        text = f"This replaces batch_size={graphs['mean']:.0f}: as many graphs per step, so keep the learning rate."
    else:
        text = "For inference and validation. For training, --pack balanced gives even batches."
    intro = f"{values['graphs']:,} graphs in batches of {plan.config.budget.describe()}"
    tables = [Table(["plan", ""], rows), *(_padding_tables(padding) if padding else ())]
    return Report("Plan", intro, tables=tables, advice=_warnings(values) or [Advice("note", text)])


def _padding_tables(padding: Mapping[str, Any]) -> list[Table]:
    shapes, ways = padding["shapes"], padding["padding"]
    names = list(ways["static"])
    head = ["graphs", *map(size_label, names)]
    rows = [[f"{shape['batches']:,} batches", *(f"{shape[name]:,}" for name in ("graphs", *names))] for shape in shapes]
    lost = [[_WAYS[way], *(f"{parts[name]:.2%}" for name in names)] for way, parts in ways.items()]
    return [
        Table(["shape", *head], rows, "Shapes of the padded batches, padding graphs included"),
        Table(["padding", *head[1:]], lost, "What is padded, as a part of all graphs"),
    ]


def saved_plan_report(
    plan: SavedPlan,
    tables: Sequence[tuple[str, SizeTable]],
    calibrations: Sequence[tuple[str, Calibration]],
    batch_size: int | None,
) -> Report:
    """Report on a plan as its file has it, beside batches of a fixed size where its sizes are known.

    The sizes that it was made of are recognised by their fingerprint, its calibration by the coefficients. The fixed
    batches have `batch_size` graphs, by default as many as the plan's have on average.
    """
    about, budget = plan.metadata, plan.metadata["limits"]  # on disk
    maxima = {**budget["caps"], **({} if budget["max_graphs"] is None else {"graphs": budget["max_graphs"]})}  # on disk
    memory = [] if budget["memory"] is None else [format_bytes(budget["memory"])]
    sizes = next(((name, table) for name, table in tables if table.fingerprint() == about["data"]), None)
    source = ""
    values: dict[str, Any] = {"measure": None, "maximum": None, "budget": None, "fixed": None}
    if sizes is not None:
        source, calibration = _calibration(budget, sizes[1], calibrations)
        values |= _side_by_side(plan, sizes[1], calibration, batch_size or max(1, round(float(plan.graphs.mean()))))
    values = {**about, **values, "sizes": sizes and sizes[0], "calibration": source}
    intro = f"{number(about['graphs'])} graphs{f' of {sizes[0]}' if sizes else ''} in batches of up to "
    intro += ", ".join([*([count_sizes(maxima)] if maxima else []), *memory])
    return Report(
        "Plan",
        f"{intro}; memory as predicted by {source}" if source else intro,
        {
            "batches": number(about["batches"]),
            "lower bound": number(about["lower_bound"]),
            "graphs per batch": mean_std(**about["graphs_per_batch"]),
            "fill": percent(about["fill"], 1),
        },
        [_table(values)] if sizes else [],
        [
            f"Packed '{about['pack']}', seed {about['seed']}, epoch {about['epoch']}, "
            f"{counted(about['num_replicas'], 'rank', 'ranks')}; {number(about['oversized'])} oversized graphs; sizes "
            f"with fingerprint {about['data'][:12]}."
        ],
        _advice(values),
        lambda: [_chart(values) if sizes else _graphs(plan)],
        values={
            key: value for key, value in values.items() if key not in ("kind", "schema_version", "oversized_graphs")
        },
    )


def predicts(calibration: Calibration, table: SizeTable) -> bool:
    """Say whether a table has the sizes that a calibration depends on."""
    try:
        calibration.graph_bytes(table)
    except InputError:
        return False  # without the line graph, say
    return True


def _calibration(
    budget: Mapping[str, Any], sizes: SizeTable, calibrations: Sequence[tuple[str, Calibration]]
) -> tuple[str, Calibration | None]:
    """Return what predicts the bytes of a plan: by its own coefficients where it has some, else any that can."""
    usable = [entry for entry in calibrations if predicts(entry[1], sizes)]
    if budget["coefficients"] is None:
        return usable[0] if usable else ("", None)
    for name, calibration in usable:
        if [dict(segment) for segment in calibration.segments] == budget["coefficients"]:
            return name, calibration
    first, *others = budget["coefficients"]
    none = ErrorSummary(0.0, 0.0, 0)
    return "", Calibration(first, ("graphs", *sizes.columns), 0.0, 0.0, none, none, tuple(others))


def _side_by_side(
    plan: SavedPlan, sizes: SizeTable, calibration: Calibration | None, batch_size: int
) -> dict[str, Any]:
    budget = plan.metadata["limits"]  # on disk
    measure = plan.metadata["balanced"]["column"] if calibration is None else "bytes"
    maximum = budget["memory"] if calibration is not None else budget["caps"].get(measure)  # on disk
    order = np.random.default_rng(0).permutation(len(sizes))
    whole = len(order) // batch_size * batch_size
    fixed = FlatBatches(order[:whole], np.arange(0, whole + 1, batch_size))

    def describe(plan: FlatBatches) -> dict[str, Any]:
        totals: dict[str, Any] = {name: plan.loads(values) for name, values in sizes.columns.items()}
        if calibration is not None:
            totals = {name: values for name, values in totals.items() if name in calibration.columns}
            loads = np.asarray(calibration.predict_bytes(graphs=plan.graphs, **totals), dtype=np.float64)
        else:
            loads = np.asarray(totals[measure], dtype=np.float64)
        mean, std = float(loads.mean()), float(loads.std())
        return {
            "batches": len(loads),
            "mean": mean,
            "std": std,
            "max": float(loads.max()),
            "cv": std / mean if mean else 0.0,
            "over": None if maximum is None else int((loads > maximum).sum()),
            "series": thin(loads.tolist()),
        }

    return {
        "measure": measure,
        "maximum": maximum,
        "budget": describe(plan),
        "fixed": {**describe(fixed), "batch_size": batch_size, "left_out": len(order) - whole} if whole else None,
    }


def _amount(values: Mapping[str, Any], value: float) -> str:
    return format_bytes(value) if values["measure"] == "bytes" else number(round(value))


def _table(values: Mapping[str, Any]) -> Table:
    fixed, budget, over = values["fixed"], values["budget"], values["maximum"] is not None
    skipped = values["oversized"] if values["oversized_policy"] == "skip" else 0
    batchings = [("fixed batch size", fixed, number(fixed["batch_size"]), fixed["left_out"])] if fixed else []
    batchings.append(("budget", budget, mean_std(**values["graphs_per_batch"]), skipped))
    rows = []
    for name, loads, graphs, left_out in batchings:
        amounts = [*(_amount(values, loads[key]) for key in ("mean", "max")), percent(loads["cv"])]
        exceeding = [number(loads["over"])] if over else []
        rows.append([name, number(loads["batches"]), graphs, *amounts, *exceeding, number(left_out)])
    exceeding = ["over the budget"] if over else []
    head = ["batching", "batches", "graphs per batch", "mean", "max", "CV", *exceeding, "graphs left out"]
    return Table(head, rows, f"{size_label(values['measure']).capitalize()} per batch: fixed against budget")


def _graphs(plan: SavedPlan) -> Chart:
    y = Axis("graphs", low=0.0, high=1.25 * float(plan.graphs.max()), whole=True)
    series = lines(thin(plan.graphs.tolist()), "budget", "budget")
    return Chart("Graphs in each batch", Axis("batch", whole=True), y, series, wide=True)


def _chart(values: Mapping[str, Any]) -> Chart:
    """Draw the load of each batch, fixed against budget."""
    label, maximum, fixed, budget = size_label(values["measure"]), values["maximum"], values["fixed"], values["budget"]
    highest = max(budget["max"], maximum or 0.0, fixed["max"] if fixed else 0.0)
    series = [Series("level", "capacity", "the budget", [], [maximum])] if maximum else []
    if fixed:
        series += lines(fixed["series"], "fixed", f"batch size {fixed['batch_size']:,}")
    series += lines(budget["series"], "budget", "budget")
    y = Axis(label, "bytes" if values["measure"] == "bytes" else "", low=0.0, high=1.12 * highest)
    title, x = f"{label.capitalize()} of each batch of an epoch", Axis("batch", whole=True)
    return Chart(title, x, y, series, note=_FIXED if fixed else "", wide=True)


def _advice(values: Mapping[str, Any]) -> list[Advice]:
    fixed, budget, balance = (values[key] for key in ("fixed", "budget", "balanced"))
    loads, column = (budget, values["measure"]) if budget else (balance, balance["column"])
    text = f"{values['batches']:,} batches of {mean_std(**values['graphs_per_batch'])} graphs vary by "
    text += f"{percent(loads['cv'])} (CV) in {size_label(column)}"
    if fixed:
        text += f", maximum {_amount(values, budget['max'])}. A fixed batch size of {fixed['batch_size']:,} varies by "
        text += f"{fixed['cv']:.1%}, maximum {_amount(values, fixed['max'])}"
        text += f"; {fixed['over']:,} of {fixed['batches']:,} batches exceed the budget." if fixed["over"] else "."
    elif not budget:
        text += ". Give the sizes that it was planned for too, to see it beside a fixed batch size."
    else:
        text += "."
    advice = [Advice("good" if fixed and budget["cv"] <= fixed["cv"] else "note", text), *_warnings(values)]
    if values["fill"] < _FULL and values["pack"] == "balanced":
        # At the lower bound the unused memory can't be avoided.
        least = values["batches"] <= values["lower_bound"]
        reason = (
            "one batch fewer would not hold all graphs" if least else f"lower bound {values['lower_bound']:,} batches"
        )
        advice.append(Advice("note", f"Batches are {values['fill']:.0%} full: {reason}."))
    saved = values["limits"]  # on disk
    memory, reach = saved["memory"], (saved["bound"] or {}).get("reach")
    if memory and reach and memory > _FAR * reach:
        text = f"The budget of {format_bytes(memory)} is far beyond the largest measured step, {format_bytes(reach)}: "
        advice.append(Advice("warn", f"{text}calibrate with a larger --max-graphs."))
    return advice


def _warnings(values: Mapping[str, Any]) -> list[Advice]:
    advice, mean = [], values["graphs_per_batch"]["mean"]
    if values["oversized"]:
        if values["oversized_policy"] == "skip":
            text = counted(values["oversized"], "graph is", "graphs are") + " left out of training"
        else:
            text = counted(values["oversized"], "graph exceeds", "graphs exceed") + " the budget, each in its own batch"
        advice.append(Advice("warn", f"{text}: raise the budget if that is not intended."))
    if mean < _FEW:
        text = f"Only {mean:.1f} graphs fit in a batch: a larger budget gives less noisy gradients."
        advice.append(Advice("warn", text))
    return advice
