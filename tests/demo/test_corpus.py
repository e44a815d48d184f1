import json
import sys
from pathlib import Path

import pytest

from autotune.demo.corpus import is_held_out, read_corpus, standard_library
from autotune.errors import BadRequest
from autotune.targets import demo_folder


def test_split_is_by_file_and_never_holds_out_a_test(library: Path) -> None:
    corpus = read_corpus(library)
    training = {document.path for document in corpus.training}
    held_out = {document.path for document in corpus.held_out}

    assert training
    assert held_out
    assert training.isdisjoint(held_out)
    assert all(is_held_out(path) for path in held_out)
    assert not any(path.startswith("test/") for path in held_out)
    assert len([path for path in training if path.startswith("test/")]) == 12


def test_tables_short_files_and_other_encodings_are_left_out(library: Path) -> None:
    corpus = read_corpus(library)
    paths = {document.path for document in (*corpus.training, *corpus.held_out)}

    assert len(paths) == 120
    assert not paths & {"./latin.py", "./short.py", "encodings/cp000.py", "idlelib/window.py"}


def test_too_little_source_is_a_bad_request(tmp_path: Path) -> None:
    with pytest.raises(BadRequest, match="too little Python source"):
        read_corpus(tmp_path)


@pytest.mark.skipif(sys.version_info[:2] != (3, 11), reason="the demo was trained on Python 3.11's library")
def test_demo_held_out_files_are_this_pythons() -> None:
    held_out = json.loads((demo_folder() / "heldout_files.json").read_text())
    missing = [path for path in held_out if not (standard_library() / path).exists()]
    if missing:
        pytest.skip(f"this Python comes without {missing[0]}")

    assert [document.path for document in read_corpus(standard_library()).held_out] == held_out
