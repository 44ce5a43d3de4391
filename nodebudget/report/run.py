"""A monitored run: its memory over the steps, what happened, and how it compares with the prediction."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

from nodebudget.calibration.memory_model import CONFIDENCE
from nodebudget.calibration.prediction_interval import PredictionBound
from nodebudget.monitor.drift import WARM_UP
from nodebudget.monitor.log_reader import Run
from nodebudget.monitor.summary import summarize
from nodebudget.report.charts import MAX_POINTS, Axis, Chart, Series, lines, thin
from nodebudget.report.formats import counted, duration, number, or_dash, percent
from nodebudget.report.provenance import facts_of, model_and_device
from nodebudget.report.report import Advice, Report, Table
from nodebudget.utils.byte_units import format_bytes
from nodebudget.utils.size_labels import size_label

#: Amounts of memory in a log, and their labels.
AMOUNTS = {
    "measured": "measured peak",
    "predicted": "predicted peak",
    "reserved": "reserved by PyTorch",
    "rss": "resident set of the process",
}

#: Over this share of the memory a run is close to its end, under the other most of it is unused.
NARROW, _UNUSED = 0.95, 0.5

_UNEVEN = 0.05  #: Peaks that vary by more than this (CV) are worth balancing.
_WAITING = 0.2  #: Waiting for batches over this share of the time, the data loader limits the speed.
_FAR = 3.0  #: A capacity over so many times the highest peak is named and not drawn: the peaks would be at the bottom.
_MAX_EVENTS = 50  #: The first so many events are marked in a chart and listed in a table.

_URGENCIES = {"leak": "bad"}

#: Event → style and label of its marks in a chart.
_MARKS = {
    "out of memory": ("oom", "out of memory"),
    "warning": ("warning", "warning"),
    "split": ("split", "batch split"),
}


def run_report(run: Run, capacity: int | None = None) -> Report:
    """Report on a run as its log has it; `capacity` is the memory of the device, by default as logged."""
    values = summarize(run, capacity)
    events = [event for event in run.events if event.get("event") != "epoch"]
    name, _ = model_and_device(run.header)
    of, device = f" of {values['of']:,}" if values["of"] else "", values["device"]
    intro = f"{values['batches']:,}{of} batches in {duration(values['seconds'])} on {device.get('device', 'a device')} "
    intro += f"({device.get('name', 'unknown')}); {values['status']}"
    return Report(
        "Run",
        f"{name}: {intro}" if name else intro,
        _figures(values),
        [_events(events), _per_batch(values), *([_slowest(values)] if values["slowest"] else [])],
        _notes(values),
        _advice(run, values),
        lambda: _charts(run, values, events),
        facts_of(run.header),
        values,
    )


def _message(event: Mapping[str, Any]) -> str:
    further = {key: value for key, value in event.items() if key not in ("event", "step", "time", "text", "about")}
    return str(event.get("text") or ", ".join(f"{key} {value}" for key, value in further.items()))


def _figures(values: Mapping[str, Any]) -> dict[str, str]:
    peaks, resident, reserved = values["measured"], values["rss"], values["reserved"]
    figures = {
        "highest measured peak": peaks and format_bytes(peaks["max"]),
        "CV of measured peaks": peaks and percent(peaks["cv"]),
        "highest resident set of the process": not peaks and resident and format_bytes(resident["max"]),
        "measured above predicted, median": or_dash(values["drift"], lambda drift: f"{drift:+.2%}").strip("–"),
        "highest reserved": reserved and format_bytes(reserved["max"]),
        "memory of the device": values["capacity"] and format_bytes(values["capacity"]),
        "graphs per second, last steps": values["graphs_per_second"] and number(values["graphs_per_second"]),
    }
    return {label: str(text) for label, text in figures.items() if text}


def _step(event: Mapping[str, Any]) -> str:
    """Return the step of an event; those of the user may have none, or any value."""
    step = event.get("step", "–")
    return number(step) if event.get("event") in _MARKS else str(step)


def _events(events: Sequence[Mapping[str, Any]]) -> Table:
    rows = [
        [_step(event), str(event.get("about") or event.get("event")), _message(event)] for event in events[:_MAX_EVENTS]
    ]
    title = "Events" + (f", the first {len(rows)} of {len(events)}" if len(events) > len(rows) else "")
    title = title if rows else "No events: no drift, no leak, nothing out of memory"
    return Table(["step", "event", "message"], rows, title, ["event", "message"], page_only="open")


def _per_batch(values: Mapping[str, Any]) -> Table:
    spreads = [
        *((label, values[name], format_bytes) for name, label in AMOUNTS.items()),
        *((size_label(name), spread, number) for name, spread in values["sizes"].items()),
        ("time of the step", values["step_seconds"], duration),
    ]
    rows = [
        [label, *(show(spread[key]) for key in ("mean", "min", "max")), percent(spread["cv"], 1)]
        for label, spread, show in spreads
        if spread is not None
    ]
    return Table(["amount", "mean", "min", "max", "CV"], rows, "Per batch")


def _slowest(values: Mapping[str, Any]) -> Table:
    columns: dict[str, list[str]] = {
        "step": [number(step["step"]) for step in values["slowest"]],
        "time": [duration(step["seconds"]) for step in values["slowest"]],
    }
    for name in ("graphs", "edges"):
        columns[name] = [or_dash(step["sizes"].get(name), number) for step in values["slowest"]]
    for name in ("measured", "predicted"):
        columns[AMOUNTS[name]] = [or_dash(step[name], format_bytes) for step in values["slowest"]]
    shown = {name: cells for name, cells in columns.items() if {*cells} != {"–"}}
    return Table(list(shown), [list(row) for row in zip(*shown.values(), strict=True)], "Slowest steps")


def _notes(values: Mapping[str, Any]) -> list[str]:
    texts = {
        "retries": ("time the allocator emptied its cache", "times the allocator emptied its cache"),
        "restarts": ("time the run was resumed", "times the run was resumed"),
        "damaged_lines": ("line of the log could not be read", "lines of the log could not be read"),
    }
    notes = [f"{counted(values[name], one, many)}." for name, (one, many) in texts.items() if values[name]]
    if values["graphs_per_second"]:
        notes.append(f"{number(values['graphs_per_second'])} graphs per second in the last steps.")
    if values["waited_share"]:
        notes.append(f"{values['waited_share']:.1%} of the time was spent on waiting for batches.")
    return notes


def _charts(run: Run, values: Mapping[str, Any], events: Sequence[Mapping[str, Any]]) -> list[Chart]:
    places = _places(run)
    series = {name: _thinned([step[name] for step in run.steps], places) for name in AMOUNTS}
    errors = _thinned([_error(step) for step in run.steps], places)
    charts = [_memory(values, series, _marks(events[:_MAX_EVENTS], run, places))] if any(series.values()) else []
    return charts + ([_errors(errors, _margin(run))] if errors else [])


def _places(run: Run) -> list[float]:
    """Return the place of each step: its number, or its position in the log where the numbers restart."""
    numbers = [float(step["step"]) for step in run.steps]
    rising = all(before < after for before, after in pairwise(numbers))
    return numbers if rising else [float(place) for place in range(1, len(numbers) + 1)]


def _thinned(values: Sequence[float | None], places: Sequence[float]) -> dict[str, list[float]] | None:
    present = [(float(value), place) for value, place in zip(values, places, strict=True) if value is not None]
    return thin([value for value, _ in present], [place for _, place in present]) if present else None


def _error(step: Mapping[str, Any]) -> float | None:
    """Return how far a measured peak is from the predicted one, a fraction, for the steps that drift is judged by."""
    judged = step["status"] == "done" and step["step"] > WARM_UP
    measured, predicted = step["measured"], step["predicted"]
    return measured / predicted - 1 if judged and measured and predicted else None


def _marks(events: Sequence[Mapping[str, Any]], run: Run, places: Sequence[float]) -> list[Series]:
    first, times = places[0] if places else 0.0, [float(step["time"]) for step in run.steps]

    def place(event: Mapping[str, Any]) -> float:
        if run.parts == 1:
            return max(float(event["step"]), first)
        # By time: the numbers of steps restarted when the run was resumed.
        before = bisect_right(times, float(event["time"]))
        return places[before - 1] if before else first

    marks = []
    for kind, (style, label) in _MARKS.items():
        chosen = [event for event in events if event.get("event") == kind]
        titles = [f"step {event['step']}: {_message(event)}" for event in chosen]
        if chosen:
            marks.append(Series("event", style, label, [*map(place, chosen)], [], titles=titles))
    return marks


def _memory(values: Mapping[str, Any], series: Mapping[str, Any], marks: Sequence[Series]) -> Chart:
    shown = [name for name in ("reserved", "predicted", "measured") if series[name]]
    if not {"reserved", "measured"} & {*shown} and series["rss"]:
        shown.append("rss")
    highest = max(max(series[name]["high"]) for name in shown)
    capacity, notes = values["capacity"], []
    drawn = bool(capacity) and capacity <= _FAR * highest
    if capacity and not drawn:
        notes.append(f"The device has {format_bytes(capacity)}, far above the highest peak.")
    if values["batches"] > MAX_POINTS:
        notes.append(f"The lines are the maxima of {MAX_POINTS} intervals of the run, the band their range.")
    # One range is enough: two would cover each other.
    main = "measured" if "measured" in shown else shown[-1]
    line = [Series("level", "capacity", "capacity", [], [capacity])] if drawn else []
    curves = [curve for name in shown for curve in lines(series[name], name, AMOUNTS[name], ranges=name == main)]
    y = Axis("memory", "bytes", low=0.0, high=1.12 * max(highest, capacity if drawn else 0))
    x = Axis("step", whole=True)
    return Chart("Memory over the run", x, y, [*line, *curves, *marks], note=" ".join(notes), wide=True)


def _margin(run: Run) -> float | None:
    bound = (run.header.get("calibration") or {}).get("bound")
    return None if bound is None else float(PredictionBound.from_dict(bound).margin(0.0, CONFIDENCE))


def _errors(errors: Mapping[str, Any], margin: float | None) -> Chart:
    width, at = margin or 0.0, [errors["at"][0], errors["at"][-1]]
    low, high = 1.25 * min([-width, *errors["low"], -1e-6]), 1.25 * max([width, *errors["high"], 1e-6])
    label = f"{CONFIDENCE:.0%} bound of the calibration, {width:.2%}"
    band = [Series("band", "bound", label, at, [width] * 2, [-width] * 2)] if width and at[0] < at[1] else []
    y = Axis("measured above predicted", "percent", low=low, high=high)
    series = [*band, Series("level", "exact", "", [], [0.0]), *lines(dict(errors), "measured", "each step")]
    return Chart("Error of predicted peaks", Axis("step", whole=True), y, series, wide=True)


def _advice(run: Run, values: Mapping[str, Any]) -> list[Advice]:
    """Say what happened in a run, whether the prediction held, and what to do."""
    about = [str(event.get("about")) for event in run.events if event.get("event") == "warning"]
    advice = [Advice("bad", _sentence(text)) for text in values["out_of_memory"]]
    advice += [
        Advice(_URGENCIES.get(cause, "warn"), _sentence(text))
        for cause, text in zip(about, values["warnings"], strict=True)
    ]
    judged = (_end(run, values), _accuracy(values, about, _margin(run)), _headroom(values))
    advice += [entry for entry in judged if entry is not None]
    peaks = values["measured"]
    if peaks is not None and peaks["cv"] > _UNEVEN and "leak" not in about:
        text = f"Peaks vary by {peaks['cv']:.0%} (CV), {format_bytes(peaks['min'])} to {format_bytes(peaks['max'])}: "
        text += "NodeBudgetSampler with a calibration balances them ('nodebudget plan' shows how well)."
        advice.append(Advice("note", text))
    if values["splits"]:
        text = counted(values["splits"], "batch was", "batches were")
        advice.append(Advice("note", f"{text} split to fit: with a smaller budget none would be."))
    if values["waited_share"] and values["waited_share"] > _WAITING:
        text = "Waiting for batches limits the speed: use more num_workers, or graphs that are built in advance."
        advice.append(Advice("note", text))
    return advice


def _sentence(text: str) -> str:
    text = str(text).strip()
    return text[:1].upper() + text[1:] + ("" if text.endswith((".", "!", "?")) else ".")


def _end(run: Run, values: Mapping[str, Any]) -> Advice | None:
    if not values["batches"]:
        return Advice("note", "The log holds no batch yet.")
    if run.end is None:
        return Advice("note", "The log has no end: the run continues, or was killed. What it wrote so far is shown.")
    ended = str(values["status"])
    return None if ended in ("done", "exit") else Advice("warn", f"The run ended as '{ended}'.")


def _accuracy(values: Mapping[str, Any], about: Sequence[str], margin: float | None) -> Advice | None:
    """Compare measured with predicted peaks, where no warning does."""
    if values["measured"] is None and values["batches"]:
        return Advice("note", _sentence(values["note"] or "Peaks were not measured in this run"))
    drift = values["drift"]
    if drift is None or "drift" in about:
        return None
    text = f"Measured peaks are {percent(abs(drift))} {'over' if drift > 0 else 'under'} the predicted ones (median)"
    if margin is None:
        return Advice("note", f"{text}.")
    bound = f"the {CONFIDENCE:.0%} bound of the calibration"
    if abs(drift) <= margin:
        return Advice("good", f"{text}, within {bound}, {percent(margin)}.")
    return Advice("note", f"{text}; {bound} is {percent(margin)}.")


def _headroom(values: Mapping[str, Any]) -> Advice | None:
    highest = (values["reserved"] or values["measured"] or {}).get("max")
    capacity = values["capacity"]
    if not highest or not capacity:
        return None
    share = f"The highest step took {format_bytes(highest)}, {highest / capacity:.0%} of {format_bytes(capacity)}"
    if highest > NARROW * capacity:
        return Advice("warn", f"{share}: close to out of memory; a smaller budget leaves headroom.")
    if values["device"].get("device") == "cpu" and capacity == values["device"].get("memory"):
        return None  # a host uses its memory for other things too
    if highest < _UNUSED * capacity and values["predicted"] is not None:
        return Advice("note", f"{share}: a larger budget would use more of it ('nodebudget plan --capacity').")
    return Advice("note", f"{share}.")
