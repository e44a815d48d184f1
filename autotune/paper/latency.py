"""Experiments (a) and (b): what a draft's step takes, by depth, by width, and for the paper's own shapes."""

from collections.abc import Callable, Mapping, Sequence

from autotune.paper.published import DEEP, DRAFTS, OPT_DRAFTS, SECOND_HAND, UNKNOWN, WIDE
from autotune.paper.statistics import fit_line
from autotune.paper.timing import Steps, step_s
from autotune.reports.experiments import Cell, Chart, Experiment, Series, Table
from autotune.results import Evidence, LatencyTable, Rejected
from autotune.shape import DraftShape

Shapes = Mapping[str, DraftShape]

_FORMATS = {
    "parameters, M": ",.1f",
    "step, ms": ".2f",
    "paper's step, ms": ".2f",
    "ms a layer": ".3f",
    "paper's ms a layer": ".3f",
}


def by_depth(deep: Shapes, heads: Shapes, steps: Steps, device: str) -> Experiment:
    """(a): latency against depth, and against heads, at a constant number of parameters."""
    layers, depth_ms = _points(deep, steps, lambda shape: shape.layers)
    counts, heads_ms = _points(heads, steps, lambda shape: shape.heads)
    words = [*_depth_words(layers, depth_ms, device), *_heads_words(counts, heads_ms)]
    return Experiment(
        key="a",
        title="Latency against depth and against heads, at constant size",
        claim="At about 350 M parameters, going from 24 to 4 layers cuts the decode latency almost linearly; 16 to 36 "
        "heads (twice the width) leave it almost unchanged.",
        claim_source=f"{SECOND_HAND}; the exact shapes and milliseconds are {UNKNOWN}",
        finding=" ".join(words) or "No shape could be measured.",
        evidence=_evidence(steps, {**deep, **heads}),
        tables=(_table("By depth", deep, steps), _table("By heads, at equal depth", heads, steps)),
        charts=(
            _chart("By depth", "layers", layers, depth_ms, _spreads(deep, steps)),
            _chart("By heads, at equal depth", "heads", counts, heads_ms, _spreads(heads, steps)),
        ),
    )


def named_drafts(shapes: Shapes, steps: Steps, device: str) -> Experiment:
    """(b): the deep and the wide draft of 1.3 B parameters, the paper's other drafts, and OPT."""
    published = {**DRAFTS, **OPT_DRAFTS}
    rows: list[tuple[Cell, ...]] = []
    for name, shape in shapes.items():
        paper_s, ours_s = published[name].step_s, step_s(steps, name)
        rows.append(
            (
                name,
                str(shape),
                shape.parameters / 1e6,
                _ms(paper_s),
                _ms(ours_s),
                _ms(paper_s, published[name].shape.layers),
                _ms(ours_s, shape.layers),
                _failure(steps, name),
            )
        )
    deep_s, wide_s = step_s(steps, DEEP), step_s(steps, WIDE)
    finding = "The two drafts could not both be measured here."
    if deep_s and wide_s:
        finding = (
            f"On {device}, {WIDE}'s step takes {wide_s / deep_s:.2f} of {DEEP}'s "
            f"({wide_s * 1e3:.2f} and {deep_s * 1e3:.2f} ms) at {_size_ratio(shapes):.2f} of its parameters: "
            + (
                "here too depth, not size, decides."
                if wide_s < 0.75 * deep_s
                else "here the bytes that a step reads decide, not the depth; half the layers buy little on a device "
                "that computes no faster than it reads."
            )
        )
    return Experiment(
        key="b",
        title="The paper's drafts: one decode step",
        claim=f"{DEEP} takes 13.13 ms a step and {WIDE} 6.69 ms, at equal size: 0.51. Both take about 0.55 ms a layer. "
        "OPT drafts take 6.23 ms (125 M) to 18.56 ms (6.7 B).",
        claim_source=f"{SECOND_HAND}; the steps of the smaller drafts are {UNKNOWN}",
        finding=finding,
        evidence=_evidence(steps, shapes),
        tables=(
            Table(
                (
                    "draft",
                    "shape",
                    "parameters, M",
                    "paper's step, ms",
                    "step, ms",
                    "paper's ms a layer",
                    "ms a layer",
                    "not measured because",
                ),
                tuple(rows),
                _FORMATS,
            ).without_empty_columns(),
        ),
        notes=("OPT's parameters are counted with embedding and head apart.",),
    )


def _depth_words(layers: Sequence[float], ms: Sequence[float], device: str) -> list[str]:
    if len(set(layers)) < 2:
        return []
    line = fit_line(layers, ms)
    ratio = ms[layers.index(max(layers))] / ms[layers.index(min(layers))]
    return [
        f"On {device}, {max(layers):.0f} layers take {ratio:.2f} times as long as {min(layers):.0f} at equal size; "
        f"the line through all depths rises by {line.slope:.3f} ms a layer from {line.intercept:.2f} ms, R² = "
        f"{line.r_squared:.2f}.",
        "Depth decides, as in the paper."
        if ratio > 2
        else "The size decides more than the depth: a step is bound by reading the weights, not by starting layers.",
    ]


def _heads_words(heads: Sequence[float], ms: Sequence[float]) -> list[str]:
    if not heads:
        return []
    return [f"Over {min(heads):.0f} … {max(heads):.0f} heads the slowest step is {max(ms) / min(ms):.2f}× the fastest."]


def _points(shapes: Shapes, steps: Steps, size: Callable[[DraftShape], int]) -> tuple[list[float], list[float]]:
    measured = [(float(size(shape)), seconds) for name, shape in shapes.items() if (seconds := step_s(steps, name))]
    return [x for x, _ in measured], [seconds * 1e3 for _, seconds in measured]


def _spreads(shapes: Shapes, steps: Steps) -> tuple[tuple[float, float], ...]:
    tables = [table for name in shapes if isinstance(table := steps[name], LatencyTable)]
    quartiles = [table.spread(1) for table in tables]
    return tuple((low * 1e3, high * 1e3) for low, high in quartiles)


def _table(title: str, shapes: Shapes, steps: Steps) -> Table:
    rows = tuple(
        (
            name,
            str(shape),
            shape.parameters / 1e6,
            _ms(step_s(steps, name)),
            _quartiles(steps, name),
            _failure(steps, name),
        )
        for name, shape in shapes.items()
    )
    columns = ("draft", "shape", "parameters, M", "step, ms", "quartiles, ms", "not measured because")
    return Table(columns, rows, _FORMATS, title).without_empty_columns()


def _chart(
    title: str, x_label: str, x: Sequence[float], ms: Sequence[float], spread: tuple[tuple[float, float], ...]
) -> Chart:
    return Chart(title, x_label, "step, ms", (Series("measured", tuple(x), tuple(ms), spread),))


def _quartiles(steps: Steps, name: str) -> str | None:
    table = steps[name]
    if not isinstance(table, LatencyTable):
        return None
    low, high = table.spread(1)
    return f"{low * 1e3:.2f} … {high * 1e3:.2f}"


def _evidence(steps: Steps, shapes: Shapes) -> tuple[Evidence, ...]:
    return (Evidence.MEASURED,) if any(step_s(steps, name) for name in shapes) else ()


def _failure(steps: Steps, name: str) -> str:
    table = steps[name]
    return str(table) if isinstance(table, Rejected) else ""


def _ms(seconds: float | None, parts: int = 1) -> float | None:
    return None if seconds is None else seconds * 1e3 / parts


def _size_ratio(shapes: Shapes) -> float:
    return shapes[WIDE].parameters / shapes[DEEP].parameters
