import pytest
import torch

from autotune.errors import BadRequest
from autotune.proxy.place import Place, find_place


@pytest.fixture
def gpus(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: request.param > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: request.param)


@pytest.mark.parametrize("gpus", [0], indirect=True)
@pytest.mark.usefixtures("gpus")
def test_without_a_gpu_the_cpu_trains(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("autotune.proxy.place.cpu_cores", lambda: 3)
    assert find_place("auto", None, 1) == Place("cpu", 1, 1)
    assert find_place("cpu", 3, 2) == Place("cpu", 3, 2)
    with pytest.raises(BadRequest, match=r"^--train-device cuda: torch \S+ finds no GPU: leave it out, or install"):
        find_place("cuda", None, 1)
    with pytest.raises(BadRequest, match=r"^--train-processes 4: each needs a core of its own, and there are 3; ask"):
        find_place("cpu", 4, 4)


@pytest.mark.parametrize("gpus", [2], indirect=True)
@pytest.mark.usefixtures("gpus")
def test_every_gpu_is_used_unless_said_otherwise() -> None:
    assert find_place("auto", None, 1) == find_place("cuda", None, 1) == Place("cuda", 2, 1)
    assert find_place("cuda", 1, 1) == Place("cuda", 1, 1)
    assert find_place("cpu", None, 1) == Place("cpu", 1, 1)
    with pytest.raises(BadRequest, match=r"--train-processes 3: each needs a GPU of its own, and there are 2; ask for"):
        find_place("auto", 3, 1)


def test_processes_share_the_threads() -> None:
    assert [Place("cpu", processes, 4).threads_each for processes in (1, 2, 3, 4, 9)] == [4, 2, 1, 1, 1]
