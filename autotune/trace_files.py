"""Traces on disk: one safetensors file of concatenated arrays, with a JSON header in its metadata."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from autotune.alternatives import Alternatives, damage, join_alternatives, no_alternatives
from autotune.errors import BadRequest
from autotune.sampling import SamplingSettings
from autotune.tensor_file import open_tensors, write_tensors
from autotune.traces import Trace, Traces

TRACES_SCHEMA = 2
_SCHEMA_WITHOUT_ALTERNATIVES = 1
"""What a file that holds none is written as: older versions of this program can read it."""
_HEADER_KEY = "autotune-traces"
_DTYPES = {"prompts": np.int32, "continuations": np.int32, "logprobs": np.float32, "top": np.int32}
"""Arrays of the file: each the concatenation over the traces, whose lengths the header gives."""
_ALTERNATIVES = {"alternative_counts": np.int32, "alternative_tokens": np.int32, "alternative_logprobs": np.float32}
"""Arrays of `Alternatives` over all traces; a file has all of them or none."""


@dataclass(frozen=True)
class _Header:
    settings: SamplingSettings
    target_fingerprint: str
    tokenizer_fingerprint: str
    seed: int
    categories: tuple[str, ...]
    prompt_tokens: tuple[int, ...]
    continuation_tokens: tuple[int, ...]
    schema_version: int = TRACES_SCHEMA


_HEADER = TypeAdapter(_Header)


def save_traces(traces: Traces, path: Path) -> None:
    """Write the traces; the file appears whole or not at all."""
    if not traces.items:
        raise BadRequest("there are no traces to save")
    known = any(trace.alternatives is not None for trace in traces.items)
    header = _Header(
        settings=traces.settings,
        target_fingerprint=traces.target_fingerprint,
        tokenizer_fingerprint=traces.tokenizer_fingerprint,
        seed=traces.seed,
        categories=tuple(trace.category for trace in traces.items),
        prompt_tokens=tuple(len(trace.prompt) for trace in traces.items),
        continuation_tokens=tuple(len(trace.continuation) for trace in traces.items),
        schema_version=TRACES_SCHEMA if known else _SCHEMA_WITHOUT_ALTERNATIVES,
    )
    columns: dict[str, list[NDArray[Any]]] = {
        "prompts": [trace.prompt for trace in traces.items],
        "continuations": [trace.continuation for trace in traces.items],
        "logprobs": [trace.logprobs for trace in traces.items],
        "top": [trace.top for trace in traces.items],
    }
    arrays = {name: np.concatenate(parts).astype(_DTYPES[name]) for name, parts in columns.items()}
    if known:
        likely = join_alternatives([trace.alternatives or no_alternatives(len(trace.top)) for trace in traces.items])
        parts = zip(_ALTERNATIVES.items(), (likely.counts, likely.tokens, likely.logprobs), strict=True)
        arrays |= {name: array.astype(dtype) for (name, dtype), array in parts}
    write_tensors(path, arrays, {_HEADER_KEY: _HEADER.dump_json(header).decode()})


def load_traces(path: Path) -> Traces:
    """The traces of a file; BadRequest if it is missing, corrupt, inconsistent or of a newer schema."""
    file = open_tensors(path)
    text = file.metadata.get(_HEADER_KEY)
    if text is None:
        raise BadRequest(f"{path} is not a traces file: record one with `autotune traces`")
    try:
        header = _HEADER.validate_json(text)
    except ValidationError as error:
        raise BadRequest(f"{path} has a malformed header ({error.errors()[0]['msg']}): record it again") from error
    if header.schema_version > TRACES_SCHEMA:
        raise BadRequest(
            f"{path} has schema {header.schema_version}, newer than the {TRACES_SCHEMA} known here: "
            "upgrade draft-autotune"
        )
    optional = _ALTERNATIVES if set(_ALTERNATIVES) & set(file.tensors) else {}
    missing = sorted({*_DTYPES, *optional} - set(file.tensors))
    if missing:
        raise BadRequest(f"{path} lacks {', '.join(missing)}: record it again")
    columns = {name: file.tensors[name].read() for name in (*_DTYPES, *optional)}
    problem = _inconsistency(header, columns)
    if problem:
        raise BadRequest(f"{path} is inconsistent ({problem}): record it again")
    both = [p + c for p, c in zip(header.prompt_tokens, header.continuation_tokens, strict=True)]
    items = zip(
        _split(columns["prompts"], header.prompt_tokens),
        _split(columns["continuations"], header.continuation_tokens),
        _split(columns["logprobs"], header.continuation_tokens),
        _split(columns["top"], both),
        header.categories,
        _alternatives(columns, both) if optional else [None] * len(both),
        strict=True,
    )
    return Traces(
        items=tuple(Trace(*item) for item in items),
        settings=header.settings,
        target_fingerprint=header.target_fingerprint,
        tokenizer_fingerprint=header.tokenizer_fingerprint,
        seed=header.seed,
    )


def _inconsistency(header: _Header, columns: dict[str, NDArray[Any]]) -> str | None:
    """What contradicts itself in a file, in words; None if all is well."""
    prompts, continuations = header.prompt_tokens, header.continuation_tokens
    if not len(prompts) == len(continuations) == len(header.categories) > 0:
        return "the header's lists differ in length"
    if min(prompts) < 1 or min(continuations) < 1:
        return "a trace is empty"
    lengths = {
        "prompts": sum(prompts),
        "continuations": sum(continuations),
        "logprobs": sum(continuations),
        "top": sum(prompts) + sum(continuations),
    }
    for name, length in lengths.items():
        if columns[name].shape != (length,) or columns[name].dtype != _DTYPES[name]:
            return f"{name} is {columns[name].dtype}{list(columns[name].shape)}, not {length} of its type"
    if columns["prompts"].min() < 0 or columns["continuations"].min() < 0:
        return "a token id is negative"
    if not (np.isfinite(columns["logprobs"]).all() and columns["logprobs"].max() <= 0.0):
        return "a log-probability is positive or not finite"
    return _damaged_alternatives(columns, lengths["top"])


def _damaged_alternatives(columns: dict[str, NDArray[Any]], positions: int) -> str | None:
    """What contradicts itself in the alternatives of a file, in words; None if all is well, or there are none."""
    if not set(_ALTERNATIVES) <= set(columns):
        return None
    for name, dtype in _ALTERNATIVES.items():
        if columns[name].dtype != dtype or columns[name].ndim != 1:
            return f"{name} is {columns[name].dtype}{list(columns[name].shape)}, not a list of its type"
    if len(columns["alternative_counts"]) != positions:
        return f"alternative_counts has {len(columns['alternative_counts'])} entries, not {positions}"
    return damage(Alternatives(*(columns[name] for name in _ALTERNATIVES)))


def _alternatives(columns: dict[str, NDArray[Any]], lengths: Sequence[int]) -> Iterator[Alternatives | None]:
    """The alternatives of each trace, None where it has none; lengths: the positions of each trace."""
    counts = list(_split(columns["alternative_counts"], lengths))
    kept = [int(part.sum()) for part in counts]
    tokens, logprobs = (_split(columns[f"alternative_{name}"], kept) for name in ("tokens", "logprobs"))
    for parts in zip(counts, tokens, logprobs, strict=True):
        yield Alternatives(*parts) if len(parts[1]) else None


def _split(flat: NDArray[Any], lengths: Sequence[int]) -> Iterator[NDArray[Any]]:
    """Consecutive pieces of these lengths."""
    return iter(np.split(flat, np.cumsum(lengths)[:-1]))
