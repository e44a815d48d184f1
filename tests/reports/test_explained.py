"""Why a run came to what it came to, in words."""

from collections.abc import Callable
from dataclasses import replace

import pytest

from autotune.candidate import Lookup, LookupKind
from autotune.category_results import CategoryOutcome
from autotune.lookup_results import Decoded, LookupOutcome
from autotune.reports.explained import explain
from autotune.reports.facts import RunFacts
from autotune.reports.summarise import summarise
from autotune.results import Evidence, Figure, Score, Validated
from tests.support.figures import BUILD, measured, record, target_latency

MakeFacts = Callable[..., RunFacts]


def told(facts: RunFacts) -> dict[str, str]:
    statements = explain(facts)
    assert len({each.topic for each in statements}) == len(statements)
    return {each.topic: each.text for each in statements}


def decoded_facts(make_facts: MakeFacts, tokens: float, burst_s: float = 0.002, verify_s: float = 0.012) -> RunFacts:
    """A draft that decoded with k = 2 beside a target of 100 tokens/s; half a millisecond goes outside the models."""
    speedup = tokens * 0.010 / (burst_s + verify_s + 0.0005)
    one = Figure(1.0, Evidence.ESTIMATED)
    draft = Validated(
        BUILD, 2, one, Figure(tokens, Evidence.MEASURED), one, Figure(100 * speedup, Evidence.MEASURED), one,
        Figure(speedup, Evidence.MEASURED), 10, burst_s, verify_s, 0.0005,
    )  # fmt: skip
    return replace(
        make_facts(builds=0, validated=0, choose=False),
        latency=target_latency(),
        baseline=Figure(100.0, Evidence.MEASURED),
        records=[record(0, measured(0.5, 0.001))],
        validated=[draft],
        chosen=draft if speedup > 1 else None,
    )


def test_the_verdict_comes_first(make_facts: MakeFacts) -> None:
    facts = make_facts()
    first = explain(facts)[0]
    assert (first.topic, first.text) == ("verdict", summarise(facts).sentence)


def test_a_winners_round_is_taken_apart(make_facts: MakeFacts) -> None:
    said = told(decoded_facts(make_facts, tokens=2.9))
    assert (
        "takes 14.5 ms: 2 ms for the draft's burst, 12 ms for the target to verify 3 positions, 0.5 ms" in said["round"]
    )
    assert "2.90 · 10 ms / 14.5 ms = 2.00×" in said["round"]
    assert said["break-even"] == (
        "It breaks even at 1.45 tokens per round: acceptance may fall by 50% before the target alone is as fast."
    )
    # 2.9 tokens · 10 ms - 12 ms - 0.5 ms = 16.5 ms, over the burst's 2 ms.
    assert "8.2 times as long, 16.5 ms" in said["draft"]
    # 4 · 29 / (2.5 + 4 · 12) = 2.30; f · (29 - 12) = 2.5 at f = 0.147.
    assert "4 times slower, equally accepting, it would come to 2.30×" in said["target"]
    assert "until the target takes 0.15 of the time" in said["target"]
    assert said["lookahead"] == "Around its k the search predicted: k = 1 1.22×, k = 2 1.41×, k = 3 1.55×."


def test_a_loser_is_told_what_it_lacks(make_facts: MakeFacts) -> None:
    said = told(decoded_facts(make_facts, tokens=1.3))
    assert said["verdict"].startswith("Do not speculate")
    assert "it would need 12% more tokens per round than it has" in said["break-even"]
    # 13 ms - 12.5 ms leave 0.5 ms for a burst of 2 ms.
    assert said["draft"] == "Its burst would have to be 4.0 times faster, 0.5 ms, to pay."
    assert "it pays from a target on that takes 2.5 times as long as this one" in said["target"]


def test_where_verifying_alone_costs_more_than_it_gives_no_draft_would_pay(make_facts: MakeFacts) -> None:
    said = told(decoded_facts(make_facts, tokens=1.1))
    assert said["draft"].startswith("However fast the draft were")
    assert said["target"].endswith("it pays beside none.")


def test_the_rival_is_the_best_of_another_shape(make_facts: MakeFacts) -> None:
    facts = decoded_facts(make_facts, tokens=2.9)
    other = replace(BUILD, shape=replace(BUILD.shape, layers=3))
    facts = replace(facts, records=[*facts.records, record(1, measured(0.8, 0.004), other)])
    said = told(facts)
    own, rival = facts.records[0].scores[1], facts.records[1].best()
    assert rival is not None
    assert f"{other.shape} with k = {rival.lookahead}" in said["rival"]
    needed = own.tokens_per_s.value * rival.round_s.value
    assert f"{needed:.2f} tokens per round" in said["rival"] or f"{needed:.2f} of its" in said["rival"]
    assert said["accurate"].startswith(f"The draft that agrees most, {other.shape}, gives 30.0% more")


def test_a_prediction_is_explained_where_nothing_decoded(make_facts: MakeFacts) -> None:
    facts = decoded_facts(make_facts, tokens=2.9)
    (only,) = facts.records
    best = only.best()
    assert best is not None
    said = told(replace(facts, validated=(), chosen=None, front=[(only, best)]))
    assert f"with k = {best.lookahead}" in said["round"]
    assert "(estimated)" in said["round"]
    assert f"= {best.speedup.value:.2f}×" in said["round"]


@pytest.mark.parametrize(("second", "level"), [((1.9, 1.85, 1.99), True), ((1.7, 1.6, 1.8), False)])
def test_the_second_is_named_with_the_doubt(
    make_facts: MakeFacts, second: tuple[float, float, float], level: bool
) -> None:
    facts = decoded_facts(make_facts, tokens=2.9)
    first = replace(facts.validated[0], speedup_measured=Figure(2.0, Evidence.MEASURED, 1.95, 2.05))
    behind = replace(first, speedup_measured=Figure(second[0], Evidence.MEASURED, *second[1:]))
    said = told(replace(facts, validated=[first, behind], chosen=first))
    assert ("level within the doubt" in said["doubt"]) is level


def test_lookups_and_categories_are_told(make_facts: MakeFacts) -> None:
    facts = decoded_facts(make_facts, tokens=2.9)
    one = Figure(1.0, Evidence.ESTIMATED)
    speedup = Figure(1.4, Evidence.MEASURED, 1.3, 1.5)
    score = Score(3, one, one, one, replace(one, value=1.37))
    lookup = LookupOutcome(Lookup(LookupKind.SUFFIX_AUTOMATON), (score,), 3, Decoded(one, one, speedup))
    outcomes = [CategoryOutcome(name, 1, 1, speedup_measured=Figure(value, Evidence.MEASURED)) for name, value in
                (("code", 2.5), ("chat", 1.1))]  # fmt: skip
    said = told(replace(facts, lookups=[lookup], by_category={BUILD.key(): outcomes}))
    assert said["model-free"].endswith("k = 3: 1.40× (1.30 … 1.50) (measured).")
    assert said["categories"] == "By category it reaches from 1.10× (chat) to 2.50× (code)."
    undecoded = replace(lookup, decoded=None)
    assert "is predicted to reach 1.37×" in told(replace(facts, lookups=[undecoded]))["model-free"]


def test_a_run_of_failures_only_and_an_empty_one_are_explained(make_facts: MakeFacts) -> None:
    facts = make_facts(validated=0, choose=False)
    failures = [each for each in facts.records if not each.scores]
    only = replace(facts, records=failures, front=[])
    assert told(only).keys() == {"verdict", "search"}
    assert f"{len(failures)} failed" in told(only)["search"]
    assert told(replace(facts, records=[], front=[])).keys() == {"verdict"}
