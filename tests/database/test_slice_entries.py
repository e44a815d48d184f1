"""Entries of extrapolated targets."""

from pathlib import Path

import pytest

from autotune.database.entries import parse_entry
from autotune.database.file import DatabaseFile
from autotune.database.subjects import SliceSubject, latency_versions, subject_key
from autotune.database.upkeep import examine
from autotune.extrapolation import Slicing
from tests.support.entries import slice_entry


def test_an_extrapolation_survives_the_database(tmp_path: Path) -> None:
    entry = slice_entry()
    file = DatabaseFile(tmp_path / "tuning.db")
    file.add([entry], replace=True)
    assert file.find(entry.subject) == entry
    assert parse_entry(entry.to_json()) == entry
    (row,) = file.rows()
    assert examine(row).fits


@pytest.mark.parametrize(
    "changes",
    [
        {"parallel_degree": 2},
        {"collective_s": 1e-5},
        {"contexts": ()},
        {"slicing": Slicing.SINGLE},
        {"max_lookahead": 9},
    ],
)
def test_everything_an_extrapolation_depends_on_is_in_its_key(changes: dict[str, object]) -> None:
    subject = slice_entry().subject
    assert isinstance(subject, SliceSubject)
    assert subject_key(SliceSubject(**{**vars(subject), **changes})) != subject_key(subject)


def test_what_slices_models_is_in_its_versions() -> None:
    assert slice_entry().subject.versions.keys() - latency_versions("onnxruntime").keys() == {"slices"}
