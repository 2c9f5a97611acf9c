"""Reports of `scripts/benchmark.py`: ratios, targets (bars), a table and a figure."""

import math
import os
import platform
import statistics
from dataclasses import asdict
from importlib import metadata
from pathlib import Path
from typing import Any

BARS: dict[str, list[tuple[str, str, float]]] = {  # (arm, other arm, largest ratio of their times)
    "epoch": [
        ("by hand", "floor", 2.0),
        ("pyro_vae", "by hand", 1.05),
        ("pyro_vae --compile", "by hand, compiled", 1.05),
        ("pyro_vae", "pyro", 0.55),
        ("pyro_vae", "pythae", 0.55),
        ("pyro_vae", "numpyro", 1.1),
    ],
    "elbo": [],
    "sizes": [("pyro_vae", "pyro", 1.0)],
    "evidence": [("pyro_vae", "floor", 1.8)],
    "em": [("pyro_vae", "scikit-learn", 0.25)],
    "start-up": [("import pyro_vae", "import pyro", 1.0)],
}
REFERENCE = {
    "epoch": "by hand",
    "elbo": "by hand",
    "sizes": "by hand",
    "evidence": "floor",
    "em": "scikit-learn",
    "start-up": "",
}
PACKAGES = ("pyro-vae", "torch", "pyro-ppl", "jax", "jaxlib", "numpyro", "pythae", "scikit-learn")


def ratio(found: dict[str, Any], arm: str, to: str, bar: float | None = None) -> dict[str, Any]:
    """The time of an arm divided by another's in the same turn: median, smallest and largest over turns."""
    seconds = [found.get(name, {}).get("seconds") for name in (arm, to)]
    about = {"arm": arm, "to": to, "bar": bar}
    if not all(seconds):
        return about | {"median": None, "low": None, "high": None}
    values = [a / b for a, b in zip(*seconds, strict=True)]
    return about | {"median": statistics.median(values), "low": min(values), "high": max(values)}


def record(command: str, case: Any, found: dict[str, dict[str, Any]], turns: int) -> dict[str, Any]:
    """The result of timing one case, as plain values."""
    for values in found.values():
        if values.get("seconds"):
            median = statistics.median(values["seconds"])
            values |= {"median": median, "ms_per_step": 1e3 * median / case.steps, "per_second": case.units / median}
    return {
        "command": command,
        "case": asdict(case),
        "turns": turns,
        "arms": found,
        "ratios": [ratio(found, name, REFERENCE[command]) for name in found],
        "bars": [ratio(found, *bar) for bar in BARS[command] if bar[0] in found and bar[1] in found],
        "machine": machine(),
    }


def machine() -> dict[str, Any]:
    versions = {}
    for name in PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = ""
    load = list(os.getloadavg()) if hasattr(os, "getloadavg") else []
    return {"python": platform.python_version(), "cores": os.cpu_count(), "load": load, "versions": versions}


def table(result: dict[str, Any]) -> str:
    """A Markdown table of one case: each arm's time and ratio, then the targets."""
    case, to = result["case"], REFERENCE[result["command"]]
    settings = ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in case.items() if value is not None)
    lines = [f"{settings}; medians of {result['turns']} turns", ""]
    head = ("arm", "ms per step", "per second", f"to {to}", "turns from", "to", "first turn, s", "value")
    lines += ["| " + " | ".join(head) + " |", "|---" + "|---:" * (len(head) - 1) + "|"]
    for (name, values), against in zip(result["arms"].items(), result["ratios"], strict=True):
        if "missing" in values:
            lines.append(f"| {name} | not run: {values['missing'].splitlines()[0]} |" + " |" * (len(head) - 2))
            continue
        ratios = [f"{against[key]:.2f}" if against[key] else "" for key in ("median", "low", "high")]
        value = "" if values["value"] is None else f"{values['value']:.2f}"
        cells = [f"{values['ms_per_step']:.3f}", f"{values['per_second']:,.0f}", *ratios, f"{values['first']:.2f}"]
        lines.append(f"| {name} | " + " | ".join([*cells, value]) + " |")
    return "\n".join([*lines, "", *map(verdict, result["bars"])])


def seconds_to(values: dict[str, Any], mark: float) -> float | None:
    """The seconds of an arm until its first turn that ends at a value of at least the mark, compilation included."""
    total = 0.0
    for seconds, value in zip([values["first"], *values["seconds"]], values["values"], strict=True):
        total += seconds
        if value is not None and value >= mark:
            return total
    return None


def tables_of_marks(results: list[dict[str, Any]], marks: list[float]) -> str:
    """Seconds to each mark: all arms at each learning rate, then each arm at its best one, which is named."""
    names = list(results[0]["arms"])
    head = ["| arm | " + " | ".join(f"{mark:g}" for mark in marks) + " | reached |", "|---" * (len(marks) + 2) + "|"]
    best: dict[tuple[str, float], tuple[float, float]] = {}
    lines: list[str] = []
    for result in results:
        rate = result["case"]["learning_rate"]
        lines += ["", f"Learning rate {rate:g}, {result['turns'] + 1} epochs:", "", *head]
        for name in names:
            values, cells = result["arms"][name], []
            if "missing" in values:
                lines.append(f"| {name} | not run: {values['missing'].splitlines()[0]} |" + " |" * len(marks))
                continue
            reached = [value for value in values["values"] if value is not None]
            for mark in marks:
                seconds = seconds_to(values, mark)
                cells.append("" if seconds is None else f"{seconds:.0f}")
                if seconds is not None:
                    best[name, mark] = min(best.get((name, mark), (seconds, rate)), (seconds, rate))
            lines.append(f"| {name} | " + " | ".join([*cells, f"{max(reached, default=math.nan):.2f}"]) + " |")
    lines += ["", "Each arm at the best of these rates:", "", head[0].replace(" reached |", ""), head[1][:-4]]
    for name in names:
        found = [best.get((name, mark)) for mark in marks]
        lines.append(f"| {name} | " + " | ".join("" if f is None else f"{f[0]:.0f} ({f[1]:g})" for f in found) + " |")
    return "\n".join(lines[1:])


def verdict(found: dict[str, Any]) -> str:
    words = f"{found['arm']} ÷ {found['to']}"
    if found["median"] is None:
        return f"{words}: not measured"
    kept = "kept" if found["median"] <= found["bar"] else "missed"
    turns = f"turns {found['low']:.2f} to {found['high']:.2f}"
    return f"{words}: {found['median']:.2f} ({turns}), bar {found['bar']:g} {kept}"


def plot_medians(results: list[dict[str, Any]], path: Path) -> None:
    """Each arm's ratio: a dot and the range of turns where there is one cell, a line over each size where many."""
    from matplotlib.figure import Figure

    from pyro_vae.plots.style import figure_style

    with figure_style():
        varied = {name: cells for name in results[0]["case"] if len(cells := _along(results, name)) > 1}
        figure = Figure(figsize=(3.4 * len(varied) + 2, 3.6) if varied else (7, 0.6 + 0.32 * len(results[0]["arms"])))
        all_axes = figure.subplots(1, max(1, len(varied)), sharey=True, squeeze=False)[0]
        if varied:
            for axes, (name, cells) in zip(all_axes, varied.items(), strict=True):
                _lines(axes, cells, name)
            all_axes[0].set_ylabel(f"time, in that of {REFERENCE[results[0]['command']]}")
            figure.legend(*all_axes[0].get_legend_handles_labels(), loc="outside right center")
        else:
            _dots(all_axes[0], results[0])
        figure.savefig(path)


def _along(results: list[dict[str, Any]], name: str) -> list[dict[str, Any]]:
    """The cells that differ from the first in this setting alone, in its order."""
    rest = {key: value for key, value in results[0]["case"].items() if key != name}
    found = {r["case"][name]: r for r in results if {k: v for k, v in r["case"].items() if k != name} == rest}
    return [found[value] for value in sorted(found, key=lambda value: (value is not None, value))]


def _lines(axes: Any, cells: list[dict[str, Any]], name: str) -> None:
    from matplotlib.ticker import LogLocator

    from pyro_vae.plots.style import COLOURS

    for i, arm in enumerate(cells[0]["arms"]):
        points = [(c["case"][name], r["median"]) for c in cells for r in c["ratios"] if r["arm"] == arm and r["median"]]
        if points:
            colour, line = COLOURS[i % len(COLOURS)], "-" if i < len(COLOURS) else ":"
            axes.plot(*zip(*points, strict=True), marker=".", linestyle=line, color=colour, label=arm)
    axes.set(xscale="log", yscale="log", xlabel=name.replace("_", " "))
    places = [cell["case"][name] for cell in cells]
    axes.set_xticks(places, [f"{place:,}" for place in places])
    axes.minorticks_off()
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter("{x:g}")


def _dots(axes: Any, result: dict[str, Any]) -> None:
    from pyro_vae.plots.style import BLUE, ORANGE

    found = [r for r in result["ratios"] if r["median"]][::-1]
    for i, r in enumerate(found):
        colour = ORANGE if r["arm"].startswith("pyro_vae") else BLUE
        axes.plot([r["low"], r["high"]], [i, i], color=colour, alpha=0.4, linewidth=4, solid_capstyle="round")
        axes.plot(r["median"], i, "o", color=colour)
        axes.annotate(f"{r['median']:.2f}", (r["median"], i), xytext=(0, 6), textcoords="offset points", ha="center",
                      fontsize=8)  # fmt: skip
    axes.axvline(1, color="0.6", linewidth=1, linestyle=":")
    axes.set_yticks(range(len(found)), [r["arm"] for r in found])
    axes.set(xlim=(0, None), ylim=(-0.6, len(found)), xlabel=f"time, in that of {REFERENCE[result['command']]}")
