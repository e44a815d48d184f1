"""The pair: a shipped draft and its target, ready to generate text.  Needs neither torch nor Optuna."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict, Unpack

from autotune.artifact import DRAFT_FOLDER, TOKENIZER_FOLDER, Manifest, check_belongs, verify_runnable
from autotune.devices import check_compiled_for
from autotune.errors import BadRequest
from autotune.program import Program
from autotune.programs import compile_target
from autotune.runtime.decode import Decoder, DecodeRequest, Statistics
from autotune.runtime.session import open_session
from autotune.runtime.stops import StopStrings
from autotune.sampling import SamplingSettings
from autotune.targets import resolve_target
from autotune.tokenizer import Tokenizer


@dataclass(frozen=True)
class Generation:
    """A finished generation; `tokens` are all emitted ids, `text` is cut before a stop string."""

    text: str
    tokens: tuple[int, ...]
    statistics: Statistics


class Options(TypedDict, total=False):
    """How to draw tokens and when to stop; greedy and without stop strings by default."""

    temperature: float
    top_k: int
    top_p: float
    seed: int
    stop: Sequence[str]


class Pair:
    """A target with the draft an artifact ships for it, decoding speculatively.  One generation at a time."""

    def __init__(self, manifest: Manifest, tokenizer: Tokenizer, decoder: Decoder, *, owner: bool = True) -> None:
        self.manifest = manifest
        self.tokenizer = tokenizer
        self.decoder = decoder
        self._owner = owner
        self.statistics = Statistics()
        """Of the latest generation; up to date whenever a piece of text was yielded."""

    @staticmethod
    def open(artifact: str | Path, target: str | None = None, *, threads: int | None = None) -> "Pair":
        """The pair of an artifact and its target, after every file of the artifact was verified.

        `target` names the target as `--target` does (a name or a checkpoint folder); by default the one the artifact
        was made for, as it was named then.  Raises ArtifactError if the artifact is damaged or belongs to another
        target, or to a device that is not here.
        """
        folder = Path(artifact)
        manifest = verify_runnable(folder)
        resolved = resolve_target(target or manifest.target.id)
        check_belongs(manifest, folder, resolved.id, resolved.fingerprint, resolved.tokenizer_fingerprint)
        made_for = manifest.target
        check_compiled_for(made_for.device, folder)
        draft_program = Program.read(folder / DRAFT_FOLDER) if manifest.draft else None
        capacity = draft_program.capacity_tokens if draft_program else None
        count = threads or manifest.threads
        target_program = compile_target(
            resolved, made_for.backend, capacity, device=made_for.device, precision=made_for.precision
        )
        target_session = open_session(target_program, count)
        draft_session = open_session(folder / DRAFT_FOLDER, count) if draft_program else None
        tokenizer = Tokenizer.open(folder / TOKENIZER_FOLDER)
        return Pair(manifest, tokenizer, Decoder(target_session, draft_session, manifest.lookahead))

    def close(self) -> None:
        """Free the models, unless they are another pair's (see `alone`)."""
        if self._owner:
            self.decoder.close()

    def __enter__(self) -> "Pair":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def alone(self) -> "Pair":
        """The same target without the draft, to compare with; shares the target's session."""
        return Pair(self.manifest, self.tokenizer, Decoder(self.decoder.target, None, 0), owner=False)

    def generate(
        self, prompt: str | Sequence[int], max_new_tokens: int = 128, **options: Unpack[Options]
    ) -> Generation:
        """Continue a prompt (text or token ids) until EOS, a stop string, `max_new_tokens` or the context's end."""
        tokens: list[int] = []
        text = "".join(self._pieces(prompt, max_new_tokens, tokens, **options))
        return Generation(text, tuple(tokens), self.statistics)

    def stream(
        self, prompt: str | Sequence[int], max_new_tokens: int = 128, **options: Unpack[Options]
    ) -> Iterator[str]:
        """As `generate`, but yielding text as it becomes certain: no half characters, no beginnings of stop strings."""
        return self._pieces(prompt, max_new_tokens, [], **options)

    def _pieces(
        self, prompt: str | Sequence[int], max_new_tokens: int, tokens: list[int], **options: Unpack[Options]
    ) -> Iterator[str]:
        """Pieces of text; emitted ids are appended to `tokens`."""
        request = DecodeRequest(
            prompt=self._prompt_ids(prompt),
            max_new_tokens=max_new_tokens,
            sampling=SamplingSettings(
                options.get("temperature", 0.0), options.get("top_k", 0), options.get("top_p", 1.0)
            ),
            seed=options.get("seed", 0),
            eos_ids=frozenset(self.manifest.eos_ids),
        )
        self.statistics = Statistics()
        text_stream, stops = self.tokenizer.stream(), StopStrings(options.get("stop", ()))
        for emitted in self.decoder.rounds(request, self.statistics):
            tokens += emitted
            yield stops.push("".join(text_stream.push(token) for token in emitted))
            if stops.stopped:
                return
        yield stops.push(text_stream.finish()) + stops.finish()

    def _prompt_ids(self, prompt: str | Sequence[int]) -> list[int]:
        ids = self.tokenizer.encode(prompt) if isinstance(prompt, str) else [int(token) for token in prompt]
        vocab = self.decoder.target.program.shape.vocab
        if any(not 0 <= token < vocab for token in ids):
            raise BadRequest(f"the prompt holds a token id outside 0 … {vocab - 1}")
        return ids
