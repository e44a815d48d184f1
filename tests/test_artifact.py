import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from autotune.artifact import (
    MANIFEST_FILE,
    MANIFEST_SCHEMA,
    ArtifactKind,
    DraftDescription,
    Manifest,
    Provenance,
    TargetIdentity,
    check_belongs,
    read_manifest,
    verify_artifact,
    verify_runnable,
    write_artifact,
)
from autotune.candidate import DraftShape, Precision
from autotune.errors import ArtifactError, BadRequest

MANIFEST = Manifest(
    target=TargetIdentity("demo", "f" * 32, "e" * 32),
    lookahead=3,
    lookahead_schedule=((1, 1, 3),),
    draft=DraftDescription(DraftShape(2, 4, 2, 8, 32, 48, 100), 12345, "onnxruntime", Precision.INT8),
    figures=None,
    device="cpu:test:1 cores",
    threads=1,
    eos_ids=(0,),
    provenance=Provenance("2030-01-01T00:00:00+00:00", "autotune run", 0, None, {"python": "3.11"}),
)


def fill(folder: Path) -> None:
    (folder / "draft" / "weights").mkdir(parents=True)
    (folder / "draft" / "program.json").write_text("{}")
    (folder / "draft" / "weights" / "data.bin").write_bytes(bytes(range(200)))
    (folder / "tokenizer").mkdir()
    (folder / "tokenizer" / "tokenizer.json").write_text('{"a": 1}')


@pytest.fixture
def artifact(tmp_path: Path) -> Path:
    write_artifact(tmp_path / "artifact", MANIFEST, fill)
    return tmp_path / "artifact"


def edit_manifest(artifact: Path, change: Callable[[dict[str, Any]], object]) -> None:
    path = artifact / MANIFEST_FILE
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def rename_first_file(artifact: Path, name: str) -> None:
    edit_manifest(artifact, lambda content: content["files"][0].update(path=name))


def refuses(artifact: Path, message: str) -> None:
    with pytest.raises(ArtifactError, match=message) as caught:
        verify_artifact(artifact)
    assert "\n" not in str(caught.value)


def test_what_was_written_is_read_and_verified(tmp_path: Path) -> None:
    written = write_artifact(tmp_path / "deep" / "artifact", MANIFEST, fill)
    assert [entry.path for entry in written.files] == [
        "draft/program.json",
        "draft/weights/data.bin",
        "tokenizer/tokenizer.json",
    ]
    assert [entry.size_bytes for entry in written.files] == [2, 200, 8]
    assert verify_artifact(tmp_path / "deep" / "artifact") == written == read_manifest(tmp_path / "deep" / "artifact")


def test_a_moved_artifact_is_intact(artifact: Path, tmp_path: Path) -> None:
    moved = artifact.rename(tmp_path / "elsewhere")
    assert verify_artifact(moved).lookahead == 3


def test_writing_again_replaces_the_artifact(artifact: Path) -> None:
    write_artifact(artifact, MANIFEST, lambda folder: (folder / "only").touch())
    assert [entry.path for entry in verify_artifact(artifact).files] == ["only"]


def test_a_failed_filling_leaves_nothing_behind(tmp_path: Path) -> None:
    def fail(folder: Path) -> None:
        fill(folder)
        raise KeyError("torn")

    with pytest.raises(KeyError, match="torn"):
        write_artifact(tmp_path / "artifact", MANIFEST, fail)
    assert list(tmp_path.iterdir()) == []


def test_a_failed_filling_leaves_the_artifact_before_it(artifact: Path) -> None:
    def no_space(folder: Path) -> None:
        raise OSError(28, "No space left on device")

    with pytest.raises(BadRequest, match=r"cannot write .*: No space left on device"):
        write_artifact(artifact, MANIFEST, no_space)
    assert [entry.name for entry in artifact.parent.iterdir()] == ["artifact"]
    verify_artifact(artifact)


def test_a_destination_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(BadRequest, match="cannot write"):
        write_artifact(tmp_path / "file" / "artifact", MANIFEST, fill)


@pytest.mark.parametrize("name", ["draft/program.json", "draft/weights/data.bin", "tokenizer/tokenizer.json"])
def test_a_changed_byte_is_found(artifact: Path, name: str) -> None:
    content = bytearray((artifact / name).read_bytes())
    content[-1] ^= 1
    (artifact / name).write_bytes(content)
    refuses(artifact, f"{name} was changed")


def test_a_truncated_file_is_found(artifact: Path) -> None:
    (artifact / "draft" / "weights" / "data.bin").write_bytes(bytes(range(199)))
    refuses(artifact, "data.bin was changed")


def test_a_missing_file_is_found(artifact: Path) -> None:
    (artifact / "draft" / "weights" / "data.bin").unlink()
    refuses(artifact, "draft/weights/data.bin is missing")


def test_a_folder_in_place_of_a_file_is_found(artifact: Path) -> None:
    (artifact / "draft" / "program.json").unlink()
    (artifact / "draft" / "program.json").mkdir()
    refuses(artifact, "draft/program.json is missing")


def test_an_extra_file_is_found(artifact: Path) -> None:
    (artifact / "draft" / "extra.so").touch()
    refuses(artifact, "draft/extra.so is not listed")


@pytest.mark.parametrize("name", ["../outside", "draft/../../outside", "/etc/hostname", "draft/../draft/program.json"])
def test_a_path_that_leaves_the_folder_is_refused(artifact: Path, name: str) -> None:
    (artifact.parent / "outside").write_text("{}")
    rename_first_file(artifact, name)
    refuses(artifact, "leaves the artifact's folder")


@pytest.mark.parametrize("name", ["", ".", "draft", "draft/other.json"])
def test_a_path_to_no_file_is_refused(artifact: Path, name: str) -> None:
    rename_first_file(artifact, name)
    refuses(artifact, "is missing")


@pytest.mark.parametrize("name", ["draft/pro\0gram.json", "draft/" + "x" * 5000])
def test_a_path_no_file_system_allows_is_refused(artifact: Path, name: str) -> None:
    rename_first_file(artifact, name)
    refuses(artifact, "leaves the artifact's folder|is missing")


def test_a_link_that_leaves_the_folder_is_refused(artifact: Path) -> None:
    file = artifact / "draft" / "program.json"
    outside = file.rename(artifact.parent / "program.json")
    file.symlink_to(outside)
    refuses(artifact, "'draft/program.json', which leaves the artifact's folder")


def test_a_folder_link_that_leaves_the_folder_is_refused(artifact: Path) -> None:
    outside = (artifact / "draft").rename(artifact.parent / "draft-outside")
    (artifact / "draft").symlink_to(outside)
    refuses(artifact, "leaves the artifact's folder")


def test_links_in_a_circle_are_refused(artifact: Path) -> None:
    file = artifact / "draft" / "program.json"
    file.unlink()
    file.symlink_to(artifact / "draft" / "other.json")
    (artifact / "draft" / "other.json").symlink_to(file)
    refuses(artifact, "leaves the artifact's folder|is missing")


@pytest.mark.parametrize("version", [MANIFEST_SCHEMA + 1, str(MANIFEST_SCHEMA + 1), 99])
def test_a_newer_schema_is_refused_whatever_else_it_holds(artifact: Path, version: object) -> None:
    (artifact / MANIFEST_FILE).write_text(json.dumps({"schema_version": version, "all": "different"}))
    refuses(artifact, f"schema {version}, newer than the {MANIFEST_SCHEMA} known here: upgrade draft-autotune")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "malformed: JSON"),
        (b"{", "malformed: JSON"),
        (b"\xff", "malformed: JSON"),
        (b"[]", "malformed"),
        (b"{}", "malformed: schema_version"),
        (b'{"schema_version": "new"}', "malformed: schema_version"),
        (b'{"schema_version": 1}', "malformed: target"),
    ],
)
def test_a_malformed_manifest_is_refused(artifact: Path, content: bytes, message: str) -> None:
    (artifact / MANIFEST_FILE).write_bytes(content)
    refuses(artifact, message)


def test_wrong_values_in_the_manifest_are_named(artifact: Path) -> None:
    edit_manifest(artifact, lambda content: content["draft"]["shape"].update(heads="many"))
    refuses(artifact, r"malformed: draft\.shape\.heads")


def test_a_shape_that_cannot_be_is_refused(artifact: Path) -> None:
    edit_manifest(artifact, lambda content: content["draft"]["shape"].update(heads=3))
    refuses(artifact, "3 heads cannot be shared evenly")


def test_a_lookahead_without_a_draft_is_refused(artifact: Path) -> None:
    edit_manifest(artifact, lambda content: content.update(draft=None))
    refuses(artifact, "lookahead 3 but describes no draft")


def test_a_folder_without_a_manifest_is_no_artifact(artifact: Path, tmp_path: Path) -> None:
    (artifact / MANIFEST_FILE).unlink()
    refuses(artifact, "is not an artifact: it has no readable manifest.json")
    refuses(tmp_path / "nowhere", "is not an artifact")
    refuses(artifact / "draft" / "program.json", "is not an artifact")


def test_a_manifest_of_the_first_schema_is_a_pairs(artifact: Path) -> None:
    def of_schema_1(content: dict[str, Any]) -> None:
        content["schema_version"] = 1
        del content["kind"]

    edit_manifest(artifact, of_schema_1)
    assert verify_runnable(artifact).kind is ArtifactKind.PAIR


@pytest.mark.parametrize("fingerprint", ["f" * 32, None])
def test_whose_it_is(artifact: Path, fingerprint: str | None) -> None:
    """By its target's weights or, where they were never there, by the tokenizer."""
    manifest = replace(MANIFEST, target=replace(MANIFEST.target, fingerprint=fingerprint))
    check_belongs(manifest, artifact, "demo", "f" * 32, "e" * 32)
    if fingerprint is None:
        check_belongs(manifest, artifact, "demo", "0" * 32, "e" * 32)
        with pytest.raises(ArtifactError, match="its tokenizer differs"):
            check_belongs(manifest, artifact, "other", "f" * 32, "0" * 32)
    else:
        with pytest.raises(ArtifactError, match="was made for demo, not for this other: its weights differ"):
            check_belongs(manifest, artifact, "other", "0" * 32, "e" * 32)
