"""What is said about speed is what the benchmark's table says."""

import re

from conftest import ROOT

ROW = re.compile(r"^\| (.*?) \|$", re.MULTILINE)


def rows(text: str) -> dict[str, list[str]]:
    """Return the rows of all Markdown tables by their first cell."""
    found = (row.split(" | ") for row in ROW.findall(text.replace("|  |", "| |").replace("| |", "| - |")))
    return {first: rest for first, *rest in found}


def test_the_readmes_figures_are_those_of_the_benchmarks_last_run() -> None:
    """Each row of the short table is one of the benchmark's, with the difference that follows from it."""
    bench = rows((ROOT / "bench/README.md").read_text())
    section = (ROOT / "docs/promises.md").read_text().split("\n## What it costs\n")[1].split("\n## ")[0]
    said = {name: cells for name, cells in rows(section).items() if name in bench and cells[0] != "unit"}
    assert len(said) == section.count("\n|") - 2
    for name, (unit, loop, ours, difference) in said.items():
        expected_unit, _, expected_loop, expected_ours, *_ = (cell.split(" (")[0] for cell in bench[name])
        assert (unit, loop, ours) == (expected_unit, expected_loop, expected_ours), name
        assert difference == f"{round(100 * (float(ours) / float(loop) - 1)):+d} %", name


def test_what_costs_more_is_not_left_out() -> None:
    """The rows in which the SDK's own loop is cheapest, a steady pace and a tool call in the process, are there."""
    section = (ROOT / "docs/promises.md").read_text().split("\n## What it costs\n")[1].split("\n## ")[0]
    for name in ("in process: 20 deltas and a tool call, 16 streams", "100 live at 50/s: CPU"):
        assert f"| {name} |" in section
