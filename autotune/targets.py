"""Which model a name means: the embedded demo, a local Hugging Face folder, a preset, or a repository of the hub."""

from collections.abc import Iterable
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from autotune import hub
from autotune.cache import content_key
from autotune.errors import BadRequest, did_you_mean
from autotune.families import family_of, read_checkpoint
from autotune.families.checkpoint import CONFIG_FILE, CheckpointTensors, conversion_line, has_weights, weight_files
from autotune.file_hashes import known_sha256
from autotune.presets import Preset, presets
from autotune.progress import LoggingObserver, Observer
from autotune.shape import DraftShape
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


def resolve_target(name: str, *, download: bool = False, observer: Observer | None = None) -> Target:
    """The model of that name with its weights; BadRequest, with the remedy, if they are not here."""
    model = find_model(name, download=download, observer=observer)
    if isinstance(model, Target):
        return model
    preset = preset_of(name)
    repository = preset.repository if preset else name
    if Path(name).expanduser().is_dir():
        raise BadRequest(f"{name} has no weights: give a folder that has them")
    remedy = f"fetch them with `hf download {repository}`, or give the folder of a checkpoint"
    if preset is not None and preset.pickled:
        remedy = f"its repository has pickled ones only; `{conversion_line(repository)}` makes a folder to give"
    raise BadRequest(f"the weights of {name} are not here (looked for {repository} in {hub.cache_folder()}): {remedy}")


def find_model(name: str, *, download: bool = False, observer: Observer | None = None) -> Target | Blueprint:
    """The model of that name, or its blueprint where its weights are not here; BadRequest if the name is unknown.

    In this order: `demo`, a folder, a preset, a repository of the hub.  download: fetch what is missing.
    """
    if name == DEMO:
        return _describe(DEMO, demo_folder())
    folder = Path(name).expanduser()
    if folder.is_dir():
        folder = folder.resolve()
        has_all = not (folder / CONFIG_FILE).is_file() or has_weights(folder)
        return _describe(str(folder), folder) if has_all else _blueprint(str(folder), folder)
    preset = preset_of(name)
    if preset is None and not _is_repository(name):
        raise BadRequest(f"unknown target {name!r}: {_hint(name)}")
    repository = preset.repository if preset else name
    checkpoint = hub.find_checkpoint(repository)
    if checkpoint is None and download:
        checkpoint = _fetch(repository, observer or LoggingObserver())
    if checkpoint is not None:
        return _describe(name, checkpoint)
    if preset is not None:
        return Blueprint(name, preset.family, preset.shape, preset.numerics)
    described = hub.find_folder(repository)
    if described is None:
        raise BadRequest(
            f"{name} is neither a folder nor in the hub's cache {hub.cache_folder()}: --download fetches it"
        )
    return _blueprint(name, described)


def find_tokenizer(name: str, *, download: bool = False, observer: Observer | None = None) -> Path:
    """The folder with the tokenizer of the model of that name, whose weights may be elsewhere."""
    preset = preset_of(name)
    if preset is None and (Path(name).expanduser().is_dir() or name == DEMO or not _is_repository(name)):
        return resolve_target(name).tokenizer_folder
    repository = preset.tokenizer if preset else name
    found = hub.find_tokenizer(repository)
    if found is None and download:
        found = _fetch(repository, observer or LoggingObserver(), weights=False)
    if found is None:
        raise BadRequest(
            f"the tokenizer of {name} is not here (looked for {repository} in {hub.cache_folder()}): --download "
            "fetches it"
        )
    return found


def fetch_models(names: Iterable[str | None], observer: Observer) -> None:
    """Fetch what is missing of these models, and of what their drafts are cut from where that is left open (None).

    After that, they are found without a download.
    """
    target = None
    for name in names:
        chosen = name or (default_source(target) if target else None)
        if chosen is not None:
            target = find_model(chosen, download=True, observer=observer)


def default_source(target: Blueprint) -> str | None:
    """The model that drafts for the target are usually cut from; None if none is known but the target itself."""
    preset = preset_of(target.id)
    return preset.source if preset and preset.source != preset.id else None


def list_targets() -> tuple[Target, ...]:
    """The targets that are always there."""
    return (resolve_target(DEMO),)


def preset_of(name: str) -> Preset | None:
    """The preset of that name, or the one whose repository it is."""
    models = presets().models
    of_repository = (preset for preset in models.values() if preset.repository == name)
    return models.get(name) or next(of_repository, None)


def _hint(name: str) -> str:
    """What may have been meant by a name that nothing has."""
    if "/" in name:
        return "there is no such folder"
    if name.lower() in presets().drafts:
        return f"that is a draft's shape, see `autotune targets show {name.lower()}`"
    near = did_you_mean(name, (DEMO, *presets().models))
    return (
        f"{near or '`autotune targets` lists the known names.'} Or give a folder with a Hugging Face checkpoint, or a "
        "repository of the hub as owner/name"
    )


def _is_repository(name: str) -> bool:
    owner, slash, model = name.partition("/")
    return bool(owner and slash and model) and "/" not in model and not owner.startswith((".", "~"))


def _fetch(repository: str, observer: Observer, *, weights: bool = True) -> Path:
    """The folder in the hub's cache with the repository's checkpoint, fetched now."""
    listing = hub.list_files(repository, weights=weights)
    missing = listing.missing_bytes
    observer.phase(f"Fetching {hub.gigabytes(missing)} of {repository} to {hub.cache_folder()}")
    return hub.fetch(listing, lambda done: observer.progress(min(1.0, done / max(missing, 1))))


def _blueprint(name: str, folder: Path) -> Blueprint:
    """The architecture that a folder's config.json describes."""
    shape, numerics = family_of(folder).describe(folder)
    return Blueprint(name, numerics.family, shape, numerics)


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
    CheckpointTensors(folder)  # refuses files that are corrupt or cut short, before anything is built on them
    weights = weight_files(folder)
    tokenizer = Tokenizer.open(folder)
    highest = max(tokenizer.vocabulary.values(), default=-1)
    if highest >= shape.vocab:
        raise BadRequest(f"{folder}: its tokenizer has id {highest}, but the model only {shape.vocab} embedding rows")
    hashes = [(path.name, known_sha256(path)) for path in (folder / CONFIG_FILE, *weights)]
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
