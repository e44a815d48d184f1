"""The report folder: `index.html`, `report.md`, `summary.json`, `trials.csv`, `pareto.png` and `pareto.svg`, all or
nothing."""

from pathlib import Path

from autotune.cache import new_folder
from autotune.reports.charts.pareto import pareto_picture
from autotune.reports.charts.rendering import png_bytes, svg_text
from autotune.reports.facts import RunFacts
from autotune.reports.markdown import markdown
from autotune.reports.page.page import PAGE_FILE, report_page
from autotune.reports.summarise import summarise
from autotune.reports.summary import RunSummary
from autotune.reports.trials_csv import CSV_FILE, trials_csv

SUMMARY_FILE = "summary.json"


def write_report(facts: RunFacts, folder: Path) -> RunSummary:
    """The summary it wrote; `folder` is replaced as a whole, once everything in it is complete."""
    summary = summarise(facts)
    picture = svg_text(pareto_picture(facts))
    texts = {
        SUMMARY_FILE: summary.to_json(),
        "report.md": markdown(summary),
        PAGE_FILE: report_page(facts, summary),
        CSV_FILE: trials_csv(facts),
        "pareto.svg": picture,
    }
    with new_folder(folder) as beside:
        for name, text in texts.items():
            (beside / name).write_text(text, encoding="utf-8")
        (beside / "pareto.png").write_bytes(png_bytes(picture))
    return summary
