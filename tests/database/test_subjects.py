"""The key of a number changes with everything it depends on, and with nothing else."""

from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest

from autotune import cache
from autotune.candidate import Precision
from autotune.database.subjects import (
    Subject,
    acceptance_versions,
    latency_versions,
    parse_subject,
    subject_json,
    subject_key,
    traces_digest,
)
from autotune.errors import BadRequest
from autotune.sampling import SamplingSettings
from autotune.traces import Trace, Traces
from tests.support.entries import all_kinds, burst_subject
from tests.support.figures import SHAPE


def changed(value: object) -> object:
    """Another value of the same kind."""
    match value:
        case Precision():
            return Precision.BF16
        case str():
            return value + "x"
        case int():
            return value + 1
        case tuple():
            return (*value, 7)
        case dict():
            return {**value, "sources": "other"}
        case SamplingSettings():
            return replace(value, temperature=0.5)
    first = next(field for field in fields(value) if isinstance(getattr(value, field.name), int))  # type: ignore[arg-type]
    return replace(value, **{first.name: getattr(value, first.name) * 2})  # type: ignore[type-var]


@pytest.mark.parametrize("entry", all_kinds(), ids=lambda entry: entry.subject.kind)
def test_every_field_is_part_of_the_key(entry: object) -> None:
    subject: Subject = entry.subject  # type: ignore[attr-defined]
    names = [field.name for field in fields(subject) if field.name != "kind"]
    others = [replace(subject, **{name: changed(getattr(subject, name))}) for name in names]
    keys = {subject_key(each) for each in [subject, *others]}
    assert len(keys) == 1 + len(names)


def test_a_trimmed_vocabulary_is_another_shape() -> None:
    assert subject_key(burst_subject()) != subject_key(burst_subject(shape=replace(SHAPE, draft_vocab=50)))


@pytest.mark.parametrize("entry", all_kinds(), ids=lambda entry: entry.subject.kind)
def test_a_subject_survives_json_and_leaves_out_what_is_none(entry: object) -> None:
    subject: Subject = entry.subject  # type: ignore[attr-defined]
    written = subject_json(subject)
    assert parse_subject(written) == subject
    assert "draft_vocab" not in written["shape"]
    assert subject_key(parse_subject(written)) == subject_key(subject)


def test_kinds_never_share_a_key() -> None:
    assert len({subject_key(entry.subject) for entry in all_kinds()}) == 3


def trace(prompt: list[int], continuation: list[int], logprob: float = 0.0) -> Trace:
    both = np.array([*prompt, *continuation], np.int32)
    return Trace(
        both[: len(prompt)], both[len(prompt) :], np.full(len(continuation), logprob, np.float32), both, "text"
    )


def test_traces_have_a_digest_of_what_scoring_reads() -> None:
    def digest(*items: Trace, settings: SamplingSettings = SamplingSettings(), target: str = "t") -> str:
        return traces_digest(Traces(items, settings, target, "tokenizer", 0))

    one, two = trace([1, 2], [3, 4, 5]), trace([6], [7])
    distinct = [
        digest(one, two),
        digest(two, one),
        digest(one),
        digest(trace([1, 2, 3], [4, 5]), two),
        digest(trace([1, 2], [3, 4, 5], -0.5), two),
        digest(one, two, settings=SamplingSettings(temperature=0.5)),
    ]
    assert len(set(distinct)) == len(distinct)
    assert digest(one, two, target="other") == digest(one, two)


def test_versions_name_the_packages_and_our_sources() -> None:
    assert {"onnx", "numpy", "python", "sources"} <= latency_versions("onnxruntime").keys()
    assert {"apache-tvm", "sources"} <= latency_versions("tvm").keys()
    assert {"torch", "numpy", "sources"} <= acceptance_versions().keys()
    assert latency_versions("tvm")["sources"] != acceptance_versions()["sources"]
    with pytest.raises(BadRequest, match="unknown backend 'gcc'"):
        latency_versions("gcc")


def test_versions_given_out_cannot_be_spoilt() -> None:
    latency_versions("tvm")["sources"] = "changed"
    assert latency_versions("tvm")["sources"] != "changed"


def test_a_digest_of_sources_changes_with_any_of_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "part").mkdir()
    for name in ("part/a.py", "part/b.py", "single.py"):
        (tmp_path / name).write_text("x = 1\n")
    homes = {"ours": tmp_path, "ours.part": tmp_path / "part"}
    monkeypatch.setattr(cache, "files", homes.__getitem__)

    def digest() -> str:
        return cache.source_digest(["ours.part", "ours.single"])

    seen = [digest()]
    for name in ("part/b.py", "single.py"):
        (tmp_path / name).write_text("x = 2\n")
        seen.append(digest())
    assert len(set(seen)) == 3
    assert digest() == seen[-1]
