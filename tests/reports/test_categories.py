"""What reports say of categories and of the objective over them."""

import json
import re
from collections.abc import Callable
from dataclasses import replace

from autotune.category_results import CategoryOutcome
from autotune.objective import WORST, weighted
from autotune.reports.facts import RunFacts
from autotune.reports.markdown import markdown
from autotune.reports.summarise import summarise
from autotune.results import Evidence, Figure, Validated

MakeFacts = Callable[..., RunFacts]
SECTION = "## By category"


def estimated(value: float) -> Figure:
    return Figure(value, Evidence.ESTIMATED, 0.9 * value, 1.1 * value)


def measured(value: float) -> Figure:
    return Figure(value, Evidence.MEASURED, 0.8 * value, 1.2 * value)


OUTCOMES = (
    CategoryOutcome(
        "chat|prose",
        3,
        2,
        estimated(1.5),
        estimated(1.1),
        0,
        Figure(1.0, Evidence.ESTIMATED),
        measured(1.4),
        measured(700),
        measured(0.97),
    ),
    CategoryOutcome(
        "code", 5, 4, estimated(3), estimated(2), 6, estimated(2.2), measured(3.1), measured(1500), measured(2.1)
    ),
    CategoryOutcome("poems", 0, 1, None, None, None, None, measured(2.0), measured(900), measured(1.2)),
)


def with_categories(facts: RunFacts, *drafts: Validated) -> RunFacts:
    return replace(facts, by_category={draft.build.key(): OUTCOMES for draft in drafts})


def section(text: str) -> str:
    return text.split(SECTION)[1].split("\n## ")[0]


def test_one_category_needs_no_table(make_facts: MakeFacts) -> None:
    summary = summarise(make_facts())
    assert SECTION not in markdown(summary)
    assert "bjective" not in markdown(summary)
    assert all(draft.categories == () for draft in summary.validated)
    assert json.loads(summary.to_json())["objective"] == {"kind": "mean", "weights": {}}


def test_the_chosen_drafts_categories_have_a_table_and_their_keys(make_facts: MakeFacts) -> None:
    facts = make_facts()
    assert facts.chosen is not None
    summary = summarise(with_categories(facts, *facts.validated))
    shown = section(markdown(summary))
    assert f"{facts.chosen.build.shape} with k = {facts.chosen.lookahead} on the text of each category" in shown
    assert (
        r"| chat\|prose | 3 | 1.50 (1.35 … 1.65) | 2 | 1.40 (1.12 … 1.68) | +7.1% | 700 (560 … 840) "
        "| 0.97× (0.78 … 1.16) | 1.10× (0.99 … 1.21) | 0 | 1.00× |" in shown
    )
    assert r"Of chat|prose, code, poems there are fewer than 5 texts to estimate on or to decode." in shown
    assert "| poems | 0 | – | 1 | 2.00 (1.60 … 2.40) | – |" in shown
    assert "| all text (objective) | 8 |" in shown
    assert "The run maximised" not in shown
    for block in re.findall(r"(?:^\|.*\n)+", shown, re.MULTILINE):
        assert len({len(re.findall(r"(?<!\\)\|", line)) for line in block.splitlines()}) == 1
    content = json.loads(summary.to_json())
    chat, code, poems = content["best"]["categories"]
    assert (chat["category"], chat["best_lookahead"], chat["traces"], chat["prompts"]) == ("chat|prose", 0, 3, 2)
    assert (code["tar"]["estimated"], code["tar"]["measured"], code["speedup"]["measured"]) == (3, 3.1, 2.1)
    assert code["best_speedup"]["evidence"] == "estimated"
    assert code["tokens_per_s"] == {"value": 1500, "evidence": "measured", "interval": [1200, 1800]}
    assert (poems["tar"]["estimated"], poems["best_lookahead"]) == (None, None)


def test_without_a_winner_the_fastest_decoded_draft_is_shown(make_facts: MakeFacts) -> None:
    facts = make_facts(speed=0.05, choose=False)
    slow, fast, altering = sorted(facts.validated, key=lambda draft: draft.speedup_measured.value)
    altering = replace(altering, mismatches=1)
    facts = replace(facts, validated=[slow, fast, altering])
    text = markdown(summarise(with_categories(facts, *facts.validated)))
    assert section(text).strip().startswith(f"{fast.build.shape} with k = {fast.lookahead} on")


def test_a_draft_that_was_not_decoded_has_no_measured_columns(make_facts: MakeFacts) -> None:
    facts = make_facts(validated=0)
    record, score = facts.front[0]
    undecoded = replace(OUTCOMES[1], prompts=0, tar_measured=None, tokens_per_s_measured=None, speedup_measured=None)
    other = replace(undecoded, category="prose", traces=4)
    facts = replace(facts, ready=(record, score), by_category={record.build.key(): (undecoded, other)})
    shown = section(markdown(summarise(facts)))
    assert "measured |" not in shown
    assert "Of prose there are fewer" in shown
    assert "| code | 5 | 3.00 (2.70 … 3.30) | 2.00× (1.80 … 2.20) | 6 | 2.20× (1.98 … 2.42) |" in shown


def test_the_worst_categorys_figures_are_called_what_they_are(make_facts: MakeFacts) -> None:
    facts = make_facts()
    assert facts.chosen is not None
    summary = summarise(replace(with_categories(facts, facts.chosen), objective=WORST))
    text = markdown(summary)
    assert "× the target alone in its worst category (measured, " in summary.sentence
    assert "no category decodes slower than with the target alone" in section(text)
    assert "| worst (objective) |" in section(text)
    assert "* **Objective, worst category**" in text
    assert "| objective | the worst category |" in text
    assert json.loads(summary.to_json())["objective"]["kind"] == "worst"


def test_a_weighted_means_shares_are_told(make_facts: MakeFacts) -> None:
    facts = make_facts()
    assert facts.chosen is not None
    facts = replace(with_categories(facts, facts.chosen), objective=weighted({"code": 3, "chat|prose": 1}))
    summary = summarise(facts)
    text = markdown(summary)
    assert "by the weighted mean of categories (measured" in summary.sentence
    assert "| weighted mean (objective) | 8 |" in section(text)
    last_row = section(text).split("| weighted mean (objective) ")[1]
    assert last_row.split(" | ")[2] == "6"  # the poems that were decoded do not count
    assert r"| objective | the weighted mean: 25% chat\|prose, 75% code |" in text
    assert "are 25% chat|prose, 75% code: tokens per round are 1 / Σ (share / TAR of the category)" in text
    assert json.loads(summary.to_json())["objective"]["weights"] == {"chat|prose": 0.25, "code": 0.75}
    slower = summarise(replace(facts, chosen=None))
    assert "the target alone by the weighted mean of categories" in slower.sentence
