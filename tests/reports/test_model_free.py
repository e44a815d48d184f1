"""What the report says of drafting without a model."""

from collections.abc import Callable
from dataclasses import replace

from autotune.candidate import Lookup, LookupKind
from autotune.lookup_results import Decoded, LookupFirstOutcome, LookupOutcome
from autotune.reports.facts import RunFacts
from autotune.reports.markdown import markdown
from autotune.reports.summarise import summarise
from autotune.reports.summary import Verdict
from autotune.results import Evidence, Figure, Score

MakeFacts = Callable[..., RunFacts]


def outcome(kind: LookupKind, speedup: float | None = None) -> LookupOutcome:
    scores = tuple(
        Score(
            k,
            Figure(1.0 + 0.25 * k, Evidence.ESTIMATED, 1.0 + 0.2 * k, 1.0 + 0.3 * k),
            Figure(0.01, Evidence.ESTIMATED),
            Figure(100.0 + 25 * k, Evidence.ESTIMATED),
            Figure(1.0 + 0.125 * k, Evidence.ESTIMATED),
        )
        for k in (1, 2)
    )
    found = LookupOutcome(Lookup(kind, 2), scores, 2)
    if speedup is None:
        return found
    measured = Figure(speedup, Evidence.MEASURED, speedup - 0.05, speedup + 0.05)
    return replace(found, decoded=Decoded(Figure(1.48, Evidence.MEASURED), Figure(140.0, Evidence.MEASURED), measured))


def test_they_stand_beside_the_target_alone(make_facts: MakeFacts) -> None:
    lookups = [outcome(LookupKind.SUFFIX_AUTOMATON, 1.2), outcome(LookupKind.PROMPT_LOOKUP)]
    summary = summarise(replace(make_facts(), lookups=lookups))
    first, second = summary.without_model
    assert (first.lookahead, first.tar.measured, first.speedup.measured) == (2, 1.48, 1.2)
    assert first.tar_by_lookahead == (1.25, 1.5)
    assert second.speedup.measured is None
    section = markdown(summary).split("## Without a draft model")[1].split("##")[0]
    assert "suffix-automaton, matches of 2 or more tokens" in section
    assert "1.20× (1.15 … 1.25) (measured)" in section
    assert "1.25× (estimated)" in section


def test_the_verdict_says_when_no_draft_model_is_worth_its_memory(make_facts: MakeFacts) -> None:
    chosen = outcome(LookupKind.SUFFIX_AUTOMATON, 1.7)
    facts = replace(make_facts(choose=False), lookups=[chosen], chosen_lookup=chosen)
    summary = summarise(facts)
    assert summary.verdict is Verdict.SPECULATE
    name = "suffix-automaton, matches of 2 or more tokens"
    assert summary.sentence.startswith(f"No draft model is worth its memory: {name}, k = 2: 1.70× the target alone")
    assert "and the best draft reached" in summary.sentence
    assert (summary.best.parameters, summary.best.lookahead, summary.best.shape) == (0, 2, None)
    assert summary.best.tokens_per_s.measured == 140.0
    assert "← chosen" not in markdown(summary)


def test_without_them_there_is_no_section(make_facts: MakeFacts) -> None:
    assert "Without a draft model" not in markdown(summarise(make_facts()))


def test_a_lookup_before_the_draft_is_told_wherever_the_draft_is(make_facts: MakeFacts) -> None:
    alone = outcome(LookupKind.SUFFIX_AUTOMATON, 1.2)
    facts = make_facts()
    assert facts.chosen is not None
    assert alone.decoded is not None
    decoded = replace(alone.decoded, speedup=Figure(2.1, Evidence.MEASURED, 2.0, 2.2))
    both = LookupFirstOutcome(facts.chosen.build, alone.lookup, 5, alone.best, decoded)
    summary = summarise(replace(facts, lookups=[alone], lookup_first=both, chosen_first=both))
    assert summary.verdict is Verdict.SPECULATE
    assert "k = 2, asked where suffix-automaton, matches of 2 or more tokens (k = 5) finds nothing: 2.10×" in (
        summary.sentence
    )
    assert "a lookup by itself 1.20×" in summary.sentence
    assert summary.best.lookup_first == "suffix-automaton, matches of 2 or more tokens, k = 5"
    assert summary.best.speedup.measured == 2.1
    assert summary.best.shape is not None
    section = markdown(summary).split("## Without a draft model")[1].split("##")[0]
    assert "suffix-automaton, matches of 2 or more tokens, then the draft | 5 |" in section
    assert "2.10× (2.00 … 2.20) (measured)" in section
    only_tried = summarise(replace(facts, lookups=[alone], lookup_first=both))
    assert only_tried.best.lookup_first is None
    assert only_tried.lookup_first is not None
