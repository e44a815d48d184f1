"""Who is here: the models a run names, how much of each is on this machine, and which kind of run that makes it."""

from dataclasses import dataclass
from pathlib import Path

from autotune.config import TuneConfig
from autotune.endpoint.address import Endpoint, served_fingerprint
from autotune.endpoint.client import find_endpoint
from autotune.errors import BadRequest
from autotune.families.checkpoint import conversion_line
from autotune.results import RunKind
from autotune.targets import Blueprint, Target, TextModel, check_same_tokenizer, default_source, find_model, preset_of
from autotune.trace_files import load_traces


@dataclass(frozen=True)
class Cast:
    """The models of a run."""

    kind: RunKind
    target: Blueprint
    source: Blueprint
    why: str
    """Why it is a run of this kind, in a line."""
    recorded: Path | None = None
    """The file of the target's traces; None: they are recorded in the run, or there are none."""
    endpoint: Endpoint | None = None
    """The server that records them."""


def find_cast(config: TuneConfig) -> Cast:
    """The models that a configuration names; BadRequest where they are missing or do not go together.

    Weights of the target here: a whole run.  Its traces alone, and the source's weights: served.  Neither: a plan.
    """
    if config.traces_url is None and (config.model or config.api_key):
        raise BadRequest("--model and --api-key are those of a server: give its URL with --traces")
    target = find_model(config.target, download=config.download)
    source = _find_source(config, target)
    if isinstance(target, Target):
        if not isinstance(source, Target):
            raise BadRequest(f"the weights of the source {source.id} are not here: {_how_to_get(config, source)}")
        if source != target:
            check_same_tokenizer(target, source)
        why = f"the weights of {target.id} are here"
        return Cast(RunKind.WHOLE, target, source, why, config.traces_file, _endpoint(config))
    if config.traces is None:
        _check_vocabularies(target, source)
        why = f"neither weights nor traces of {target.id} are here"
        return Cast(RunKind.PLAN, target, source, why)
    if not isinstance(source, Target):
        raise BadRequest(
            f"--traces {config.traces}: drafts are scored on it, and the weights of the source {source.id} that they "
            f"are cut from are not here: {_how_to_get(config, source)}, or leave --traces out to make a plan"
        )
    _check_vocabularies(target, source)
    recorded, endpoint = config.traces_file, _endpoint(config)
    if endpoint is not None:
        fingerprint = served_fingerprint(endpoint, source.tokenizer_fingerprint)
        why = f"the weights of {target.id} are not here, but {endpoint} serves it"
    else:
        assert recorded is not None
        fingerprint = load_traces(recorded).target_fingerprint
        why = f"the weights of {target.id} are not here, but traces of it are"
    served = text_model(target, source, fingerprint)
    return Cast(RunKind.SERVED, served, source, why, recorded, endpoint)


def text_model(target: Blueprint, source: Target, fingerprint: str) -> TextModel:
    """A target known by its text alone, which is read with the source's tokenizer."""
    return TextModel(
        id=target.id,
        family=target.family,
        shape=target.shape,
        numerics=target.numerics,
        tokenizer_folder=source.tokenizer_folder,
        fingerprint=fingerprint,
        tokenizer_fingerprint=source.tokenizer_fingerprint,
        eos_ids=source.eos_ids,
        bos_id=source.bos_id,
    )


def _find_source(config: TuneConfig, target: Blueprint) -> Blueprint:
    """The source the user named, or the target's usual one, or the target itself."""
    if config.source is not None:
        return find_model(config.source, download=config.download)
    if isinstance(target, Target):
        return target
    usual = default_source(target)
    return target if usual is None else find_model(usual, download=config.download)


def _endpoint(config: TuneConfig) -> Endpoint | None:
    """The server that a configuration names, which must answer."""
    if config.traces_url is None:
        return None
    return find_endpoint(config.traces_url, config.model, config.api_key.get_secret_value() if config.api_key else None)


def _check_vocabularies(target: Blueprint, source: Blueprint) -> None:
    if target.shape.vocab != source.shape.vocab:
        raise BadRequest(
            f"the embeddings of target {target.id} and source {source.id} have {target.shape.vocab} and "
            f"{source.shape.vocab} rows: choose a --source that was trained with the target's tokenizer"
        )


def _how_to_get(config: TuneConfig, source: Blueprint) -> str:
    preset = preset_of(source.id)
    if preset is not None and preset.pickled:
        return f"`{conversion_line(preset.repository)}` makes a folder of its pickled ones to give with --source"
    return "give the folder that holds them with --source" + ("" if config.download else ", or add --download")
