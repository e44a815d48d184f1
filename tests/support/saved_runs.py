"""Run folders that hold made-up facts, as a run leaves them."""

from pathlib import Path

from autotune.reports.facts import RunFacts
from autotune.saved_run import save_facts
from autotune.store import RunFolder


def save_run(path: Path, facts: RunFacts) -> Path:
    """A folder of a run with these facts, its records one line each."""
    with RunFolder.open(path, {"target": facts.target}, resume=False) as folder:
        folder.write_latency(facts.latency)
        save_facts(folder, facts)
        for record in facts.records:
            folder.append(record)
    return path
