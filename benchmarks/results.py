"""RESULTS.md: the figures of each device as they were last measured, written by ``run.py --markdown``."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from run import COLUMNS, cells

INTRODUCTION = """# Benchmarks

Written by `python benchmarks/run.py --markdown`; nothing here is typed by hand. Each side is called once or
twice to warm up, then all take turns; times are medians. *ratio* = peer / ours, *to floor* = ours / floor. Before
anything is timed, both sides are checked to compute the same thing.
"""
DEVICES = {"cpu": "CPU", "cuda": "GPU"}
MISSING = "Not measured yet: these rows need a GPU (`run.py --device cuda --markdown`).\n"
PLOT = "scaling.svg"


def update(path: Path, document: dict[str, Any], curves: Sequence[Any] = ()) -> None:
    """Puts the figures of the document's device in the place of its earlier ones; the other device's stay."""
    kept = _sections(path)
    device = document["machine"]["device"]
    if any(row["ours"] is not None for row in document["rows"]) or document.get("scaling"):
        kept[device] = section(document)
    text = INTRODUCTION
    for device, title in DEVICES.items():
        text += f"\n## {title}\n\n{kept.get(device, MISSING)}"
    path.write_text(text, encoding="utf-8")
    if curves:
        from scaling import draw

        draw(path.parent / PLOT, curves)


def section(document: dict[str, Any]) -> str:
    """The machine, the table, the notes and the growth of one run."""
    machine = document["machine"]
    facts = ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in machine.items())
    lines = [f"{facts}.", "", _cells(COLUMNS), _cells(["---"] * len(COLUMNS))]
    lines += [_cells(cells(row)) for row in document["rows"]]
    lines.append("")
    for row in document["rows"]:
        lines.append(f"- **{row['name']}** ({row['repeats']} repeats, threads: {row['threads']}): {row['note']}.")
    growth = document.get("scaling", [])
    if growth:
        lines += ["", "### Growth with the work", "", f"![times the seconds by times the work]({PLOT})", ""]
        lines += [_cells(["what", *(f"{factor}×" for factor in (1, 10, 100)), "growth"]), _cells(["---"] * 5)]
        for curve in growth:
            points = zip(curve["amounts"], curve["seconds"], curve["megabytes"], strict=True)
            texts = [f"{a:,} {curve['unit']}: {1e3 * s:.3g} ms, {m:.0f} MB" for a, s, m in points]
            lines.append(_cells([curve["name"], *texts, f"{curve['growth']:.3g}×"]))
    return "\n".join(lines) + "\n"


def _cells(texts: Sequence[str]) -> str:
    return "| " + " | ".join(texts) + " |"


def _sections(path: Path) -> dict[str, str]:
    """What RESULTS.md holds of each device."""
    if not path.is_file():
        return {}
    parts = path.read_text(encoding="utf-8").split("\n## ")[1:]
    titles = {title: device for device, title in DEVICES.items()}
    return {titles[part.split("\n")[0]]: part.split("\n", 2)[2] for part in parts if part.split("\n")[0] in titles}
