"""Drafts that are trained one by one, each kept on disk so that it is trained once."""

import shutil
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

from autotune.cache import content_key, new_folder
from autotune.shape import DraftShape
from autotune.weights import ModelWeights
from autotune.weights_io import load_weights, save_weights

Make = Callable[[DraftShape, Path], ModelWeights]
"""Trains the draft of a shape; the folder is for what an interrupted training is continued from."""


class KeptDrafts:
    """Drafts by shape, in a folder that names what all of them have in common."""

    def __init__(self, folder: Path, make: Make) -> None:
        self._folder = folder
        self._make = make

    def weights(self, shape: DraftShape) -> ModelWeights:
        """The draft of that shape, memory-mapped, made first if it is not there."""
        place = self._folder / f"{shape}-{content_key(asdict(shape))[:8]}".replace("/", "over")
        if not place.is_dir():
            work = place.with_name(f"{place.name}-work")
            draft = self._make(shape, work)
            with new_folder(place) as folder:
                save_weights(draft, folder)
            shutil.rmtree(work, ignore_errors=True)  # the checkpoint has served its purpose
        return load_weights(place)
