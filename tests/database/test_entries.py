"""Entries as JSON lines: nothing is lost on the way, and what makes no sense is refused."""

import json
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autotune.candidate import DraftShape, Precision
from autotune.database.entries import BadEntry, Entry, KnownBurst, NewerEntry, now, parse_date, parse_entry
from autotune.results import Acceptance, Built, LatencyTable, MeasureSettings
from autotune.sampling import SamplingSettings
from tests.support.entries import acceptance_entry, all_kinds, burst_entry, burst_subject

positive = st.floats(1e-9, 1e4)
counts = st.integers(1, 64)


@st.composite
def shapes(draw: st.DrawFn) -> DraftShape:
    kv_heads, groups, vocab = draw(counts), draw(counts), draw(st.integers(2, 200_000))
    return DraftShape(
        layers=draw(counts),
        heads=kv_heads * groups,
        kv_heads=kv_heads,
        head_dim=2 * draw(counts),
        hidden=draw(counts),
        ffn=draw(counts),
        vocab=vocab,
        draft_vocab=draw(st.none() | st.integers(1, vocab - 1)),
    )


@st.composite
def burst_entries(draw: st.DrawFn) -> Entry:
    lookaheads = draw(st.integers(1, 4))
    settings = MeasureSettings(draw(counts), draw(counts), draw(positive), evict_bytes=draw(counts))
    device = draw(st.text(max_size=20))
    subject = burst_subject(
        shape=draw(shapes()),
        backend=draw(st.text(max_size=10)),
        precision=draw(st.sampled_from(Precision)),
        device=device,
        max_lookahead=lookaheads,
        measuring=settings,
        sampling=SamplingSettings(draw(st.floats(0, 100)), draw(st.integers(0, 9)), draw(st.floats(0.001, 1))),
        versions=draw(st.dictionaries(st.text(max_size=5), st.text(max_size=5), max_size=3)),
    )
    row = st.lists(positive, min_size=1, max_size=5).map(tuple)
    samples = draw(st.lists(row, min_size=lookaheads, max_size=lookaheads).map(tuple))
    value = KnownBurst(Built("", draw(positive), draw(counts)), LatencyTable(samples, settings, device))
    return Entry(subject, value, now())


@st.composite
def acceptance_entries(draw: st.DrawFn) -> Entry:
    template = acceptance_entry()
    lookaheads, traces = draw(st.integers(0, 4)), draw(st.integers(1, 4))

    def many(values: st.SearchStrategy[Any], size: int) -> tuple[Any, ...]:
        return tuple(draw(st.lists(values, min_size=size, max_size=size)))

    value = Acceptance(
        tokens=many(counts, traces),
        rounds=tuple(many(positive, lookaheads + 1) for _ in range(traces)),
        accepted=many(st.floats(0, 1e6), lookaheads),
        examined=many(st.floats(0, 1e6), lookaheads),
    )
    return Entry(replace(template.subject, max_lookahead=lookaheads), value, now())


@given(burst_entries() | acceptance_entries())
def test_an_entry_survives_its_line(entry: Entry) -> None:
    line = entry.to_json()
    again = parse_entry(line)
    assert again == entry
    assert again.key == entry.key
    assert again.to_json() == line
    assert "\n" not in line


@pytest.mark.parametrize("entry", all_kinds(), ids=lambda entry: entry.subject.kind)
def test_every_kind_survives(entry: Entry) -> None:
    assert parse_entry(entry.to_json().encode()) == entry


@given(st.binary(max_size=60) | st.text(max_size=60))
def test_what_is_no_entry_is_refused(line: bytes | str) -> None:
    with pytest.raises(BadEntry):
        parse_entry(line)


def altered(change: Callable[[dict[str, Any]], object], entry: Entry) -> str:
    fields = json.loads(entry.to_json())
    change(fields)
    return json.dumps(fields)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f: f.pop("value"), "value is missing"),
        (lambda f: f.update(schema="1"), "'1' is no schema version"),
        (lambda f: f.update(created="yesterday"), "'yesterday' is no date"),
        (lambda f: f.update(created="2026-01-02"), "has no time zone"),
        (lambda f: f["subject"].pop("shape"), "shape"),
        (lambda f: f["subject"].update(kind="gossip"), "kind"),
        (lambda f: f["subject"]["shape"].update(heads=0), "heads must be at least 1"),
        (lambda f: f["subject"]["sampling"].update(temperature=-1), "temperature must lie"),
        (lambda f: f["subject"].update(max_lookahead=2), "latencies of 3 lengths, where 2 are needed"),
        (lambda f: f["subject"].update(device="another"), "not of the 'another' it says"),
        (lambda f: f["value"]["burst"]["samples_s"].pop(), "latencies of 2 lengths"),
        (lambda f: f["value"]["burst"]["samples_s"][1].clear(), "a length has no samples"),
        (lambda f: f["value"]["burst"]["samples_s"][0].append(-1.0), "samples must be positive"),
        (lambda f: f["value"]["burst"]["samples_s"][0].append(float("nan")), "samples must be positive and finite"),
        (lambda f: f["value"]["burst"]["samples_s"][0].append("fast"), "samples_s.0.3"),
        (lambda f: f["value"]["built"].update(build_s=0), "build seconds must be positive"),
        (lambda f: f.update(value=[]), "dictionary"),
    ],
)
def test_a_burst_that_makes_no_sense_is_refused(change: Callable[[dict[str, Any]], object], message: str) -> None:
    with pytest.raises(BadEntry, match=message) as caught:
        parse_entry(altered(change, burst_entry()))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda v: v.update(tokens=[], rounds=[]), "0 rows of rounds do not fit 0 traces"),
        (lambda v: v["rounds"].pop(), "1 rows of rounds do not fit 2 traces"),
        (lambda v: v["rounds"][0].pop(), "do not fit 2 traces and 4 lookaheads"),
        (lambda v: v["rounds"][0].__setitem__(1, 0.0), "rounds must be positive"),
        (lambda v: v["tokens"].__setitem__(0, -3), "tokens must be positive"),
        (lambda v: v["accepted"].pop(), "for every place in a burst"),
        (lambda v: v["examined"].__setitem__(0, float("inf")), "is negative or not finite"),
    ],
)
def test_an_acceptance_that_makes_no_sense_is_refused(change: Callable[[dict[str, Any]], object], message: str) -> None:
    with pytest.raises(BadEntry, match=message):
        parse_entry(altered(lambda fields: change(fields["value"]), acceptance_entry()))


def test_a_newer_schema_says_so() -> None:
    with pytest.raises(NewerEntry, match="schema 2 is newer than the 1 known here: upgrade draft-autotune"):
        parse_entry(altered(lambda fields: fields.update(schema=2), burst_entry()))


def test_fields_of_a_later_version_do_no_harm() -> None:
    line = altered(lambda fields: fields["value"]["built"].update(drafting="one program"), burst_entry())
    assert parse_entry(line) == burst_entry()


def test_dates_are_kept_in_utc_to_the_second() -> None:
    line = altered(lambda fields: fields.update(created="2026-01-02T05:04:05.9+02:00"), burst_entry())
    assert parse_entry(line).created == "2026-01-02T03:04:05Z"
    assert abs((parse_date(now()) - datetime.now(UTC)).total_seconds()) < 60
