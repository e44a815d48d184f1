import csv
from collections.abc import Callable
from dataclasses import replace
from io import StringIO

from autotune.reports.facts import RunFacts
from autotune.reports.trials_csv import COLUMNS, trials_csv
from autotune.results import Rejected, RejectReason, TrialRecord
from tests.support.figures import BUILD, screened

MakeFacts = Callable[..., RunFacts]


def lines_of(facts: RunFacts) -> list[dict[str, str]]:
    return list(csv.DictReader(StringIO(trials_csv(facts))))


def test_every_build_and_lookahead_is_a_line(make_facts: MakeFacts) -> None:
    facts = make_facts()
    lines = lines_of(facts)
    assert tuple(lines[0]) == COLUMNS
    assert len(lines) == sum(max(len(record.scores), 1) for record in facts.records)
    record, score = facts.front[0]
    (line,) = [
        each for each in lines if (each["trial"], each["lookahead"]) == (str(record.number), str(score.lookahead))
    ]
    assert line["on_front"] == "1"
    assert float(line["round_s"]) == score.round_s.value
    assert float(line["tokens_per_round_low"]) == score.tokens_per_round.low
    assert line["tokens_per_round_evidence"] == "estimated"
    assert int(line["layers"]) == record.build.shape.layers
    assert sum(int(each["on_front"]) for each in lines) == len(facts.front)


def test_what_has_no_score_has_its_reason_and_empty_figures(make_facts: MakeFacts) -> None:
    facts = make_facts(builds=8)
    (line,) = [each for each in lines_of(facts) if each["trial"] == "7"]
    assert (line["state"], line["reason"]) == ("failed", "build-timeout")
    assert line["lookahead"] == line["tokens_per_s"] == line["draft_vocab"] == ""


def test_screened_builds_have_their_forecasts(make_facts: MakeFacts) -> None:
    extra = TrialRecord(40, BUILD, BUILD.shape.parameters, 0.1, screened())
    lines = [each for each in lines_of(replace(make_facts(), records=[extra], front=[])) if each["trial"] == "40"]
    assert [each["lookahead"] for each in lines] == ["1", "2", "3", "4"]
    assert {each["state"] for each in lines} == {"screened out"}
    assert lines[1]["round_s_evidence"] == "estimated"
    assert lines[1]["tokens_per_s"] == ""


def test_words_are_no_formulas_and_no_line_breaks(make_facts: MakeFacts) -> None:
    facts = make_facts(builds=1)
    outcome = Rejected(RejectReason.CRASHED, '=HYPERLINK("x")\n,"', "")
    (line,) = lines_of(replace(facts, records=[replace(facts.records[0], outcome=outcome)], front=[]))
    assert line["detail"] == '\'=HYPERLINK("x") ,"'
