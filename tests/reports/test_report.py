import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from autotune.errors import BadRequest
from autotune.reports.charts.pareto import pareto_picture
from autotune.reports.charts.rendering import svg_text
from autotune.reports.facts import RunFacts
from autotune.reports.markdown import markdown
from autotune.reports.report import write_report
from autotune.reports.summarise import summarise
from autotune.results import TrialRecord
from tests.support.figures import BUILD, screened

MakeFacts = Callable[..., RunFacts]
FILES = ["index.html", "pareto.png", "pareto.svg", "report.md", "summary.json", "trials.csv"]


def test_report_folder_is_complete_and_replaced_as_a_whole(make_facts: MakeFacts, tmp_path: Path) -> None:
    folder = tmp_path / "report"
    write_report(make_facts(), folder)
    (folder / "stray.txt").write_text("from before")
    write_report(make_facts(), folder)

    assert sorted(path.name for path in folder.iterdir()) == FILES
    assert (folder / "pareto.png").read_bytes().startswith(b"\x89PNG")
    assert [path.name for path in tmp_path.iterdir()] == ["report"]


def test_same_facts_write_the_same_bytes(make_facts: MakeFacts, tmp_path: Path) -> None:
    write_report(make_facts(), tmp_path / "a")
    write_report(make_facts(), tmp_path / "b")

    for path in (tmp_path / "a").iterdir():
        assert path.read_bytes() == (tmp_path / "b" / path.name).read_bytes(), path.name


def test_unwritable_folder_is_a_bad_request(make_facts: MakeFacts, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(BadRequest, match="cannot write"):
        write_report(make_facts(), tmp_path / "file" / "report")


def test_report_opens_with_the_verdict(make_facts: MakeFacts) -> None:
    summary = summarise(make_facts())
    text = markdown(summary)

    assert text.splitlines()[2] == f"**{summary.sentence}**"
    assert "](pareto.png)" in text


def test_tables_stay_rectangular_whatever_the_cells_hold(make_facts: MakeFacts) -> None:
    text = markdown(replace(summarise(make_facts()), device="a | b <script>\nnew line"))

    assert r"killed after 60 s \| while optimising" in text
    assert r"a \| b \<script\> new line" in text
    for block in re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE):
        widths = {len(re.findall(r"(?<!\\)\|", line)) for line in block.splitlines()}
        assert len(widths) == 1, block


def test_divergences_loops_and_interruption_are_told(make_facts: MakeFacts) -> None:
    facts = make_facts()
    facts = replace(facts, validated=[replace(draft, divergences=2) for draft in facts.validated], interrupted=True)
    text = markdown(summarise(facts))

    assert "6 greedy outputs differ" in text
    assert "41% of the target's continuations loop" in text
    assert "`--resume` continues it" in text


def test_a_draft_that_alters_the_output_is_named_and_never_recommended(make_facts: MakeFacts) -> None:
    facts = make_facts()
    facts = replace(facts, validated=[replace(draft, mismatches=3) for draft in facts.validated], chosen=None)
    text = markdown(summarise(facts))
    assert "altered the target's greedy output for 3 prompts: it never ships" in text
    assert "Do not speculate: all 3 decoded drafts altered the target's output." in text


def test_before_the_first_trial_nothing_is_advised(make_facts: MakeFacts) -> None:
    facts = replace(make_facts(), records=[], front=[], validated=[], chosen=None, interrupted=True)
    assert "Not validated: no draft was tried yet." in markdown(summarise(facts))


def test_figure_places_every_score_and_names_the_chosen_draft(make_facts: MakeFacts) -> None:
    facts = make_facts()
    picture = pareto_picture(facts)

    drawn = {(point["trial"], point["k"]) for point in picture["datasets"]["points"]}
    assert {(record.number, score.lookahead) for record in facts.records for score in record.scores} < drawn
    assert "3 of which have no score" in picture["title"]["subtitle"]
    assert facts.chosen is not None
    assert f"{facts.chosen.build.shape}, k = {facts.chosen.lookahead}: " in svg_text(picture)


@pytest.mark.parametrize("builds", [0, 1])
def test_figure_of_a_run_with_hardly_a_candidate(make_facts: MakeFacts, builds: int) -> None:
    assert "the target alone, k = 0" in svg_text(pareto_picture(make_facts(builds=builds, validated=0)))


def test_a_trimmed_vocabulary_is_shown_and_explained(make_facts: MakeFacts) -> None:
    facts = make_facts()
    assert facts.chosen is not None
    assert "trimmed vocabulary" not in markdown(summarise(facts))
    build = facts.chosen.build
    chosen = replace(facts.chosen, build=replace(build, shape=replace(build.shape, draft_vocab=512)))
    facts = replace(facts, validated=[chosen], chosen=chosen)
    summary, text = summarise(facts), markdown(summarise(facts))
    assert summary.best.shape is not None
    assert summary.best.shape.draft_vocab == 512
    assert text.splitlines()[2].startswith(f"**Draft {build.shape}-512V (")
    assert f"{build.shape}-512V proposes only the 512 tokens" in text
    assert "`checkpoint/`, for other engines, has the whole vocabulary" in text
    assert "* **…V** at the end of a draft's name: a trimmed vocabulary" in text
    assert f"{build.shape}-512V, k = " in svg_text(pareto_picture(facts))


def test_screened_builds_have_a_table_of_their_own(make_facts: MakeFacts) -> None:
    facts = make_facts()
    assert "screened out\n" not in markdown(summarise(facts))
    extra = [TrialRecord(40 + n, BUILD, BUILD.shape.parameters, 0.1, screened()) for n in range(30)]
    facts = replace(facts, records=[*facts.records, *extra])
    text = markdown(summarise(facts))
    assert "## Builds screened out" in text
    assert "The nearest 25 of 30 are shown." in text
    assert "| builds screened out, not compiled | 30 |" in text
    assert "| 40 | 2L-4H-48F-32D | onnxruntime fp32 | 4 | 3.00 | 4.000 | 10.0% |" in text
    note = pareto_picture(facts)["title"]["subtitle"]
    assert "3 of which have no score and no point and 30 were screened out" in note
