"""The report folder: `summary.json`, `report.md`, `pareto.png` and `pareto.svg`, all or nothing."""

from pathlib import Path

from autotune.cache import new_folder
from autotune.reports.facts import RunFacts
from autotune.reports.figures import save_pareto
from autotune.reports.markdown import markdown
from autotune.reports.summarise import summarise
from autotune.reports.summary import RunSummary


def write_report(facts: RunFacts, folder: Path) -> RunSummary:
    """The summary it wrote; `folder` is replaced as a whole, once everything in it is complete."""
    summary = summarise(facts)
    with new_folder(folder) as beside:
        (beside / "summary.json").write_text(summary.to_json(), encoding="utf-8")
        (beside / "report.md").write_text(markdown(summary), encoding="utf-8")
        save_pareto(facts, beside)
    return summary
