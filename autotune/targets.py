"""Which model a name means: the embedded demo, or a local Hugging Face folder."""

from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from autotune.cache import content_key, file_sha256
from autotune.errors import BadRequest
from autotune.families import family_of, read_checkpoint
from autotune.families.checkpoint import CONFIG_FILE, weight_files
from autotune.shape import DraftShape
from autotune.tensor_file import open_tensors
from autotune.tokenizer import Tokenizer
from autotune.weights import ModelWeights, Numerics

DEMO = "demo"


@dataclass(frozen=True)
class Blueprint:
    """A model known by its architecture alone: neither its weights nor its tokenizer need be here."""

    id: str
    """What the user calls it: `demo`, a preset, a repository, or a folder's absolute path; found again by that name."""
    family: str
    shape: DraftShape
    numerics: Numerics


@dataclass(frozen=True)
class TextModel(Blueprint):
    """A model whose tokenizer is here, identified by content; its weights may be elsewhere, behind a server."""

    tokenizer_folder: Path
    fingerprint: str
    """Key of the contents of config, weights and tokenizer; of a served model, of what its server says."""
    tokenizer_fingerprint: str
    eos_ids: tuple[int, ...]
    bos_id: int | None

    def open_tokenizer(self) -> Tokenizer:
        """Its tokenizer."""
        return Tokenizer.open(self.tokenizer_folder)


@dataclass(frozen=True)
class Target(TextModel):
    """A checkpoint with its tokenizer: a model that can be run here."""

    @property
    def checkpoint(self) -> Path:
        """The folder of config, weights and tokenizer."""
        return self.tokenizer_folder

    def read_weights(self) -> ModelWeights:
        """Its weights under canonical names, fp32."""
        return read_checkpoint(self.checkpoint)


def demo_folder() -> Path:
    """The folder of the embedded demo target."""
    return Path(str(files("autotune.demo.data")))


def resolve_target(name_or_path: str) -> Target:
    """The target of that name or folder; BadRequest if there is none or it is unsupported."""
    if name_or_path == DEMO:
        return _describe(DEMO, demo_folder())
    folder = Path(name_or_path).expanduser()
    if not folder.is_dir():
        raise BadRequest(f"unknown target {name_or_path!r}: give '{DEMO}' or a folder with a Hugging Face checkpoint")
    folder = folder.resolve()
    return _describe(str(folder), folder)


def find_model(name_or_path: str, *, download: bool = False) -> Target | Blueprint:
    """The model of that name or folder, or its blueprint where only its architecture is known here."""
    folder = Path(name_or_path).expanduser()
    if folder.is_dir() and (folder / CONFIG_FILE).is_file() and not list(folder.glob("*.safetensors")):
        folder = folder.resolve()
        family = family_of(folder)
        shape, numerics = family.describe(folder)
        return Blueprint(str(folder), family.name, shape, numerics)
    return resolve_target(name_or_path)


def default_source(target: Blueprint) -> str | None:
    """The model that drafts for the target are usually pruned from; None if none is known but the target itself."""
    return None


def list_targets() -> tuple[Target, ...]:
    """The targets that are always there."""
    return (resolve_target(DEMO),)


def check_same_tokenizer(target: TextModel, source: TextModel) -> None:
    """BadRequest, naming the first difference, unless both models mean the same by every token id."""
    difference = None
    if target.tokenizer_fingerprint != source.tokenizer_fingerprint or target.eos_ids != source.eos_ids:
        difference = _tokenizer_difference(target.open_tokenizer(), source.open_tokenizer())
    if difference is None and target.shape.vocab != source.shape.vocab:
        difference = f"their embeddings have {target.shape.vocab} and {source.shape.vocab} rows"
    if difference:
        raise BadRequest(
            f"target {target.id} and source {source.id} have different tokenizers: {difference}; "
            "choose a source that was trained with the target's tokenizer"
        )


def _describe(target_id: str, folder: Path) -> Target:
    family = family_of(folder)
    shape, numerics = family.describe(folder)
    weights = weight_files(folder)
    for path in weights:  # the index of a sharded checkpoint is one of them
        if path.suffix == ".safetensors":
            open_tensors(path)  # refuses a file that is corrupt or cut short, before anything is built on it
    tokenizer = Tokenizer.open(folder)
    highest = max(tokenizer.vocabulary.values(), default=-1)
    if highest >= shape.vocab:
        raise BadRequest(f"{folder}: its tokenizer has id {highest}, but the model only {shape.vocab} embedding rows")
    hashes = [(path.name, file_sha256(path)) for path in (folder / CONFIG_FILE, *weights)]
    return Target(
        id=target_id,
        tokenizer_folder=folder,
        fingerprint=content_key(hashes, tokenizer.fingerprint, tokenizer.eos_ids),
        tokenizer_fingerprint=tokenizer.fingerprint,
        family=family.name,
        shape=shape,
        numerics=numerics,
        eos_ids=tokenizer.eos_ids,
        bos_id=tokenizer.bos_id,
    )


def _tokenizer_difference(target: Tokenizer, source: Tokenizer) -> str | None:
    """The first difference of two tokenizers in words, named target first; None if there is none that matters."""
    ours, theirs = target.vocabulary, source.vocabulary
    if len(ours) != len(theirs):
        return f"their vocabularies have {len(ours)} and {len(theirs)} tokens"
    moved = [token for token, token_id in ours.items() if theirs.get(token) != token_id]
    if moved:
        token = min(moved, key=ours.__getitem__)
        return f"{len(moved)} tokens have other ids, the first is {token!r} ({ours[token]} and {theirs.get(token)})"
    if target.special_tokens != source.special_tokens:
        differing = sorted(set(target.special_tokens) ^ set(source.special_tokens))
        return f"{', '.join(differing)} is special in one of them only"
    if set(target.eos_ids) != set(source.eos_ids):
        return f"their EOS ids are {list(target.eos_ids)} and {list(source.eos_ids)}"
    if target.bos_id != source.bos_id:
        return f"their BOS ids are {target.bos_id} and {source.bos_id}"
    return None
