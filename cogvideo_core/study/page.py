"""The page of a study: tables between markers of a markdown file, and the figures that it shows."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cogvideo_core.errors import BadSpec
from cogvideo_core.study.chart import Axis, Series, chart

Row = dict[str, Any]
CURVES = ("ddim", "fixed_point_1", "fixed_point_5", "multistep_15")
COST_LOW, COST_HIGH = 20, 400
PARTS = {  # what stands between marks on the page, and its heading on a new one
    "about": "",
    "findings": "Findings",
    "inverters": "Inverters",
    "causes": "Causes, one at a time",
    "combined": "Causes together",
    "published": "Beside K-RNR's own table",
    "noise": "The noise that is found",
    "gate": "What the gate's quick form sees",
}

OPTIONAL = ("findings", "combined", "published")  # on pages that have their marks


def between(text: str, name: str, table: str) -> str:
    """The page with the part between <!-- name --> and <!-- /name --> replaced."""
    begin, end = f"<!-- {name} -->", f"<!-- /{name} -->"
    if begin not in text or end not in text:
        raise BadSpec(f"field page: there is no place {begin} ... {end}; put both marks where the table belongs")
    return re.sub(f"{re.escape(begin)}.*?{re.escape(end)}", lambda _: f"{begin}\n{table}\n{end}", text, flags=re.DOTALL)


def table(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines)


def span(row: Row, name: str, mean: str = "") -> str:
    """Mean, which may have a name of its own, with its interval."""
    value = row["recon_db"] if name == "recon" else row[mean or name]
    return f"{value:.1f} ({row[f'{name}_low']:.1f} to {row[f'{name}_high']:.1f})"


def rows_table(rows: Sequence[Row]) -> str:
    columns = ["inverter", "evaluations", "reconstruction, dB", "over `ddim`, dB", "over `fixed_point_5`, dB"]
    columns += ["std of x_T", "exact", "bytes beside x_T"]
    return table(
        columns,
        [
            [
                f"`{row['inverter']}`" + (f" (left; in {row['commit']})" if "commit" in row else ""),
                f"{row['evaluations']:g}",
                *(span(row, name) for name in ("recon", "over_ddim", "over_fixed_point_5")),
                f"{row['x_T_std']:.2f}",
                "yes" if row["exact"] else "",
                f"{row['stored_bytes']:,}" if row["stored_bytes"] else "",
            ]
            for row in rows
        ],
    )


def noise_table(rows: Sequence[Row]) -> str:
    names = ("x_T_std", "x_T_low", "x_T_high", "x_T_kurtosis", "x_T_neighbour")
    columns = ["inverter", "std", "power, low", "power, high", "excess kurtosis", "neighbours' correlation"]
    white = ["white noise", "1.00", "1.00", "1.00", "0.00", "0.00"]
    found = [[f"`{row['inverter']}`", *(f"{row[name]:.2f}" for name in names)] for row in rows if not row["exact"]]
    return table(columns, [white, *found])


def causes_table(rows: Sequence[Row]) -> str:
    cells = [[row["cause"], row["what"], span(row, "recon")] for row in rows]
    return table(["cause", "what was done", "reconstruction, dB"], cells)


def combined_table(rows: Sequence[Row]) -> str:
    cells = [[row["what"], *(span(row, name) for name in ("ddim", "solved", "gain"))] for row in rows]
    columns = [f"between up and down ({clips_of(rows, 'ddim')})", "DDIM inversion, dB", "implicit step solved, dB"]
    return table([*columns, "solved over DDIM, dB"], cells)


def published_table(rows: Sequence[Row]) -> str:
    """Their figures beside those of this model."""
    theirs = (("" if row["theirs"] is None else f"{row['theirs']:.1f}") for row in rows)
    cells = [[row["start"], number, span(row, "pixel_db")] for row, number in zip(rows, theirs, strict=True)]
    return table(["start", "their 5B-I2V, dB", f"this model, dB ({clips_of(rows)})"], cells)


def clips_of(rows: Sequence[Row], name: str = "") -> str:
    """How many clips a table is of, in words."""
    return f"{len(rows[0]['by_clip'][name] if name else rows[0]['by_clip'])} clips" if rows else "no clips"


def findings_table(rows: Sequence[Row]) -> str:
    cells = [
        [row["claim"], span(row, "margin", "margin_db"), f"{row['least']:g}", row["holds"], row["expected"]]
        for row in rows
    ]
    return table(["finding", "margin, dB", "needs more than", "holds here", "expected on the released weights"], cells)


def gate_table(rows: Sequence[Row]) -> str:
    """The gate's quick form beside sampling from x_T."""
    cells = [[f"`{r['inverter']}`", f"{r['quick_db']:.1f}", f"{r['recon_db']:.1f}"] for r in rows if "quick_db" in r]
    return table(["inverter", "from level 10, dB", "from x_T, dB"], cells)


def figures(page: Path, rows: Sequence[Row]) -> None:
    """Draws reconstruction against cost, and the sampling error by level; named after their page."""
    folder = page.parent / "figures"
    plain = [row for row in rows if row["evaluations"] and not (row["exact"] or "commit" in row or "level" in row)]
    places = [(row["evaluations"], row["recon_db"]) for row in plain]
    best = sorted(p for p in places if not any(q != p and q[0] <= p[0] and q[1] >= p[1] for q in places))
    cost = Axis("evaluations a clip", COST_LOW, COST_HIGH, (25, 50, 100, 200, 300), log=True)
    quality = Axis("dB", 20, 90, range(20, 91, 10))
    series = [Series("Pareto front", best), Series("", places, [row["inverter"] for row in plain], line=False)]
    chart(folder / f"{page.stem}_pareto.png", "Reconstruction from x_T alone", cost, quality, series)
    level = Axis("level (0 = clean)", 0, len(plain[0].get("off", [0] * 51)) - 1, range(0, 51, 10))
    error = Axis("rms distance to the inversion's own states", 1e-5, 1, (1e-5, 1e-4, 1e-3, 1e-2, 0.1, 1), log=True)
    curves = [Series(row["inverter"], curve(row["off"])) for row in rows if row["inverter"] in CURVES and "off" in row]
    chart(folder / f"{page.stem}_levels.png", "Sampling back: distance from the inversion", level, error, curves)


def curve(off: Sequence[float]) -> list[tuple[float, float]]:
    return [(float(level), max(value, 1e-5)) for level, value in enumerate(off)]


def check(page: Path) -> None:
    """Raises BadSpec for a page that lacks a mark which it must have."""
    text = page.read_text("utf-8")
    for name in PARTS:
        if name not in OPTIONAL:
            between(text, name, "")


def new_page(model: str) -> str:
    """A page of tables alone, for a model and clips of the user's own."""
    parts = [f"## {title}\n\n" * bool(title) + f"<!-- {name} -->\n<!-- /{name} -->\n" for name, title in PARTS.items()]
    return f"# Study of inversion on {model}\n\n" + "\n".join(parts)


def write(page: Path, study: Row) -> None:
    """Renews the tables of the page and the figures beside it; a page that is not there is begun."""
    text = page.read_text("utf-8") if page.is_file() else new_page(study["model"])
    rows = study["rows"]
    parts = {"inverters": rows_table(rows), "noise": noise_table(rows), "gate": gate_table(rows)}
    makers = {"causes": causes_table, "combined": combined_table, "published": published_table}
    parts |= {name: make(study[name]) for name, make in (makers | {"findings": findings_table}).items()}
    about = f"Model `{study['model']}`, {study['clips']} {'' if 'data' in study else 'held-out '}clips,"
    about += f" {study['steps']} steps. The first turn off the clean latents is {study['first_turn']}°."
    for name, part in (parts | {"about": about}).items():
        if name not in OPTIONAL or f"<!-- {name} -->" in text:
            text = between(text, name, part)
    figures(page, rows)
    page.write_text(text, "utf-8")
