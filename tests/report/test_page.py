"""`nodebudget report`: values in, a page out; what is foreign is escaped; what is wrong is one sentence."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from calibrations import fitted
from pages import Elements, add, change, drawn_sizes, invoke, plain_files, scripted

from nodebudget import MemoryMonitor
from nodebudget.calibration.memory_model import ErrorSummary, Observation
from nodebudget.report.html.page import make_page
from nodebudget.sampling.budget import Budget
from nodebudget.sampling.plan_io import read_plan
from nodebudget.sampling.planner import make_plan
from nodebudget.utils.byte_units import format_bytes


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    plain_files()
    return tmp_path


def steps(path, make):
    """Rewrite the steps of a log, as a GPU would have logged them."""
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    lines = [{**line, **make(line)} if line.get("event") == "step" else line for line in lines]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


ALL = ("cal.json", "sizes.npz", "plan.json", "run.jsonl")


class TestThePage:
    def test_holds_all_sections_and_is_well_formed(self, folder):
        done = invoke(*ALL, "-o", "page.html")
        assert done.exit_code == 0, done.output
        assert done.stderr == "written: page.html\n"
        html = (folder / "page.html").read_text()
        found = Elements(html)
        assert found.open == []
        assert found.names.count("section") == 5
        assert found.names.count("h1") == 1
        assert "script" not in found.names
        text = " ".join(found.text)
        for words in ("In short", "Memory cost", "per line-graph edge", "Sizes per graph"):
            assert words in text
        for words in ("fixed against budget", "Memory over the run", "held out (10)", "the budget"):
            assert words in text

    def test_needs_nothing_from_elsewhere(self, folder):
        found = Elements(make_page(ALL).html)
        links = [value for name, value in found.attributes if name in ("src", "href", "data", "action", "xlink:href")]
        assert links
        assert all(link.startswith("#") or link == "data:," for link in links)
        assert "url(" not in make_page(ALL).html
        assert "@import" not in make_page(ALL).html

    def test_the_advice_is_printed_and_the_most_urgent_is_first(self, folder):
        add(folder / "run.jsonl", event="out of memory", step=3, time=2e9, text="a step on 64 graphs ran out of memory")
        add(folder / "run.jsonl", event="warning", about="leak", step=3, time=2e9, text="a leak: it grows")
        done = invoke(*ALL)
        first, second, *_ = done.stdout.splitlines()
        assert first == "Problem: A step on 64 graphs ran out of memory. [run.jsonl]"
        assert second == "Problem: A leak: it grows. [run.jsonl]"
        assert "Good: Held-out error over 10 steps" in done.stdout
        assert (folder / "report.html").is_file()

    def test_json_has_the_values_and_writes_only_when_told(self, folder):
        done = invoke(*ALL, "--json", "--title", "Mine")
        found = json.loads(done.stdout)
        assert done.stderr == ""
        assert not (folder / "report.html").exists()
        assert found["title"] == "Mine"
        assert found["written"] is None
        assert [entry["kind"] for entry in found["files"]] == ["calibration", "sizes", "plan", "run"]
        assert found["calibrations"][0]["holdout"] == fitted().to_dict()["holdout"]
        assert found["datasets"][0]["datasets"][0]["nodes"]["mean"] == drawn_sizes()["nodes"].mean()
        assert found["plans"][0]["sizes"] == "sizes.npz"
        assert found["plans"][0]["calibration"] == "cal.json"
        assert found["runs"][0]["batches"] == 3
        assert json.loads(invoke(*ALL, "--json", "-o", "it.html").stdout)["written"] == "it.html"
        assert (folder / "it.html").is_file()

    def test_titles(self, folder):
        assert "<title>Mine &amp; yours</title>" in make_page(["cal.json"], title="Mine & yours").html
        assert "<title>Training memory</title>" in make_page(["sizes.npz"]).html
        change(folder / "cal.json", model={"name": "alignn.ALIGNN"}, device={"device": "cuda:0", "name": "A100"})
        assert "<title>Training memory: ALIGNN on A100</title>" in make_page(["cal.json"]).html

    def test_an_existing_page_is_kept(self, folder):
        (folder / "report.html").write_text("mine")
        done = invoke("cal.json")
        assert done.exit_code == 2
        assert "exists" in done.stderr
        assert (folder / "report.html").read_text() == "mine"
        assert invoke("cal.json", "--force", "-q").stderr == ""

    def test_files_of_one_name_are_told_apart_and_one_given_twice_is_shown_once(self, folder):
        (folder / "other").mkdir()
        fitted().save("other/cal.json")
        files = make_page(["cal.json", "other/cal.json", "cal.json"]).values["files"]
        assert [entry["name"] for entry in files] == ["cal.json", "other/cal.json"]


class TestCalibrations:
    def test_every_measured_step_is_in_the_table(self, folder):
        known, html = fitted(), make_page(["cal.json"]).html
        assert "All 30 measured steps" in html
        for step in known.observations:
            assert f"<td>{format_bytes(step.peak)}</td>" in html

    def test_every_measured_step_is_a_dot_in_both_pictures(self, folder):
        html = make_page(["cal.json"]).html
        assert html.count('<circle class="dots fitted" cx=') == 2 * 20 + 2  # two of them in legends
        assert html.count('<circle class="dots heldout" cx=') == 2 * 10 + 2

    @pytest.mark.parametrize(
        ("changes", "level", "words"),
        [
            ({"holdout": ErrorSummary(0.05, 0.2, 8)}, "warn", "5.00% mean, 20.00% max underprediction"),
            ({"holdout": ErrorSummary(0.0, 0.0, 0)}, "warn", "No step was held out"),
            ({"context": {"noise": 0.3}}, "warn", "measured twice differs by 30.0%"),
            (
                {"observations": (Observation({"graphs": 1, "nodes": 9}, 2**30, 0, "out-of-memory"),)},
                "note",
                "1 probe ran out of memory and is not in the fit",
            ),
        ],
    )
    def test_advice(self, folder, changes, level, words):
        scripted(**changes).save("one.json")
        advice = make_page(["one.json"]).values["advice"]
        assert any(entry["level"] == level and words in entry["text"] for entry in advice), advice

    def test_what_is_not_identifiable_is_said(self, folder):
        known = fitted()
        weak = replace(known, determination=replace(known.determination, undetermined=("per_edge",)))
        weak.save("weak.json")
        page = make_page(["weak.json"])
        assert "Not identifiable from this data: the cost per edge" in page.html
        assert page.html.count(">not identifiable<") == 1

    def test_without_any_observation(self, folder):
        scripted().save("bare.json")
        html = make_page(["bare.json"]).html
        assert "<figure" not in html
        assert "per node" in html


class TestDatasets:
    def test_two_are_compared(self, folder):
        drawn_sizes(100, seed=1, ids=[f"c{place}" for place in range(100)]).save("more.csv")
        page = make_page(["sizes.npz", "more.csv"], batch_size=8)
        found = page.values["datasets"][0]
        assert found["batch_size"] == 8
        assert found["measure"] == "line_edges"
        assert page.html.count('class="bars set1"') == 4  # two charts and their legends
        text = " ".join(entry["text"] for entry in page.values["advice"])
        assert "more.csv: " in text
        assert "memory has to suffice for it" in text

    def test_bytes_are_left_out_where_the_sizes_do_not_do(self, folder):
        (folder / "nodes.csv").write_text("id,nodes\na,5\nb,7\n")
        assert make_page(["cal.json", "nodes.csv"]).values["datasets"][0]["calibration"] is None
        assert make_page(["cal.json", "sizes.npz"]).values["datasets"][0]["calibration"] == "cal.json"

    def test_a_single_graph(self, folder):
        (folder / "one.csv").write_text("nodes\n5\n")
        assert "<svg" in make_page(["one.csv"]).html


class TestPlans:
    def test_fixed_against_budget(self, folder):
        found = make_page(["cal.json", "sizes.npz", "plan.json"]).values["plans"][0]
        plan = read_plan(folder / "plan.json")
        sizes, known = drawn_sizes(), fitted()
        taken = [known.predict_bytes(**sizes.totals(batch)) for batch in np.split(plan.indices, plan.offsets[1:-1])]
        assert found["measure"] == "bytes"
        assert found["budget"]["max"] == pytest.approx(max(taken))
        assert found["budget"]["cv"] == pytest.approx(found["predicted_bytes"]["cv"])
        assert found["fixed"]["batch_size"] == round(plan.graphs.mean())
        assert found["fixed"]["left_out"] == 200 % found["fixed"]["batch_size"]
        assert found["fixed"]["cv"] > 5 * found["budget"]["cv"]
        assert found["budget"]["over"] == 0

    def test_npz_and_json_say_the_same(self, folder):
        one, other = (make_page(["sizes.npz", name]).values["plans"][0] for name in ("plan.json", "plan.npz"))
        assert {**one, "name": ""} == {**other, "name": ""}

    def test_without_the_calibration_the_plans_own_coefficients_predict(self, folder):
        with_it = make_page(["cal.json", "sizes.npz", "plan.json"]).values["plans"][0]
        without = make_page(["sizes.npz", "plan.json"]).values["plans"][0]
        assert without["budget"] == with_it["budget"]
        assert without["calibration"] == ""

    def test_without_the_sizes_the_graphs_a_batch_are_shown(self, folder):
        page = make_page(["plan.json"])
        assert page.values["plans"][0]["fixed"] is None
        assert "Graphs in each batch" in page.html
        assert "Give the sizes that it was planned for" in page.html
        drawn_sizes(seed=5).save("others.npz")
        assert make_page(["plan.json", "others.npz"]).values["plans"][0]["sizes"] is None

    def test_caps_alone(self, folder):
        plan = make_plan(drawn_sizes(), Budget.make(max_nodes=500, max_graphs=30))
        plan.save("caps.json")
        page = make_page(["sizes.npz", "caps.json"], batch_size=25)
        found = page.values["plans"][0]
        assert "in batches of up to 500 nodes, 30 graphs." in page.html
        assert found["measure"] == "nodes"
        assert found["maximum"] == 500
        assert found["fixed"]["batch_size"] == 25
        assert found["fixed"]["over"] > 0
        assert make_page(["sizes.npz", "caps.json", "cal.json"]).values["plans"][0]["measure"] == "bytes"
        (folder / "nodes.csv").write_text("nodes\n" + "\n".join(map(str, drawn_sizes()["nodes"])))
        make_plan(type(drawn_sizes()).load("nodes.csv"), Budget.make(max_nodes=500)).save("few.json")
        assert make_page(["nodes.csv", "few.json", "cal.json"]).values["plans"][0]["measure"] == "nodes"

    def test_what_to_look_at(self, folder):
        sizes = drawn_sizes()
        make_plan(sizes, Budget.make(max_nodes=39), oversized="raise").save("small.json")
        make_plan(sizes, Budget.make(max_nodes=30), oversized="skip").save("skip.json")
        make_plan(sizes, Budget.make(max_nodes=30), oversized="alone").save("alone.json")
        make_plan(sizes, Budget.make(calibration=scripted(), memory="4GiB")).save("far.json")
        for name, words in (
            ("small.json", "graphs fit in a batch: a larger budget gives less noisy gradients"),
            ("skip.json", "graphs are left out of training"),
            ("alone.json", "graphs exceed the budget, each in its own batch"),
            ("far.json", "far beyond the largest measured step, 1.00 GiB"),
        ):
            text = " ".join(entry["text"] for entry in make_page(["sizes.npz", name]).values["advice"])
            assert words in text


class TestRuns:
    def test_a_run_on_the_cpu_shows_the_resident_set_and_what_was_predicted(self, folder):
        page = make_page(["run.jsonl"])
        found = page.values["runs"][0]
        assert found["measured"] is None
        assert page.html.count('<path class="line predicted" d="M') == 3  # wide, narrow, legend
        assert "resident set of the process" in page.html
        assert "counts no peak" in page.html
        assert "No events" in page.html

    def test_measured_peaks_capacity_and_drift(self, folder):
        steps(
            folder / "run.jsonl", lambda step: {"measured": round(step["predicted"] * 1.001), "step": step["step"] + 2}
        )
        page = make_page(["run.jsonl"], capacity=2**27)
        found = page.values["runs"][0]
        assert found["drift"] == pytest.approx(0.001, abs=1e-4)
        assert found["capacity"] == 2**27
        assert "within the 99% bound of the calibration" in page.html
        assert "capacity</li>" in page.html
        assert "far above the highest peak" in make_page(["run.jsonl"], capacity=2**40).html
        assert invoke("run.jsonl", "--capacity", "much").exit_code == 2

    def test_events_are_where_they_happened(self, folder):
        log = folder / "run.jsonl"
        times = [json.loads(line)["time"] for line in log.read_text().splitlines() if '"event":"step"' in line]
        add(log, event="warning", about="drift", step=2, time=times[1], text="steps take 9.9% more")
        add(log, event="split", step=3, time=times[2] + 1, parts=[2, 2])
        page = make_page(["run.jsonl"])
        assert "parts [2, 2]" in page.html
        assert page.html.count('class="event warning"') == 3  # wide, narrow, legend

    def test_a_run_taken_up_again_is_one_line_of_steps(self, folder):
        with MemoryMonitor("run.jsonl", sizes=drawn_sizes(), device="cpu", existing="append") as monitor:
            for _ in monitor.watch([[0], [1]]):
                pass
        page = make_page(["run.jsonl"])
        found = page.values["runs"][0]
        assert found["restarts"] == 1
        assert found["batches"] == 5
        assert "The run was resumed" in page.html or "1 time the run was resumed" in page.html

    def test_a_run_that_has_just_begun_and_one_that_was_cut(self, folder):
        MemoryMonitor("new.jsonl", device="cpu").close()
        assert "holds no batch yet" in make_page(["new.jsonl"]).html
        text = (folder / "run.jsonl").read_text()
        (folder / "cut.jsonl").write_text(text[: text.index('{"event":"end"') + 9])
        assert "The log has no end" in make_page(["cut.jsonl"]).html

    @pytest.mark.parametrize(
        ("changes", "words"),
        [
            ({"measured": 990, "reserved": 1000}, "close to out of memory; a smaller budget leaves headroom"),
            ({"measured": 90, "reserved": 100}, "a larger budget would use more of it"),
            ({"measured": 600, "reserved": 700}, "70% of 0.98 GiB"),
        ],
    )
    def test_room_on_a_gpu(self, folder, changes, words):
        lines = [json.loads(line) for line in (folder / "run.jsonl").read_text().splitlines()]
        lines[0] |= {"device": {"device": "cuda:0", "name": "A100", "memory": 1000 << 20}}
        (folder / "run.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        steps(folder / "run.jsonl", lambda _: {name: value << 20 for name, value in changes.items()})
        assert any(words in entry["text"] for entry in make_page(["run.jsonl"]).values["advice"])

    def test_a_long_run_makes_a_short_page(self, folder):
        log = folder / "run.jsonl"
        one = json.loads(log.read_text().splitlines()[2])
        lines = log.read_text().splitlines()[:2]
        rng = np.random.default_rng(0)
        for place, peak in enumerate(rng.integers(2**30, 2**31, 20_000), start=1):
            lines.append(json.dumps({**one, "step": place, "measured": int(peak), "predicted": 2**30}))
        lines[777] = lines[777].replace('"measured": ', '"measured": 9')
        log.write_text("\n".join(lines) + "\n")
        page = make_page(["run.jsonl"])
        assert len(page.html) < 200_000
        assert "the maxima of 300 intervals" in page.html
        assert page.html.count('class="line measured"') == 6  # two charts, each wide, narrow and in the legend
        assert page.values["runs"][0]["measured"]["max"] > 2**32
