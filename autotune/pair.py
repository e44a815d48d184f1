"""The pair: a shipped draft and its target, ready to generate text.  Needs neither torch nor Optuna."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict, Unpack

from autotune.artifact import DRAFT_FOLDER, TOKENIZER_FOLDER, Manifest, check_belongs, verify_runnable
from autotune.batch_pair import Batches, largest_batch
from autotune.devices import check_compiled_for
from autotune.errors import BadRequest
from autotune.program import Program
from autotune.programs import compile_target
from autotune.runtime.batch_decode import BatchStatistics
from autotune.runtime.decode import Decoder, DecodeRequest, Statistics
from autotune.runtime.pairing import Pairing
from autotune.runtime.session import open_session
from autotune.runtime.stops import StopStrings
from autotune.sampling import SamplingSettings
from autotune.stopping import AdaptivePlan
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


class _Text:
    """The text of one generation as it becomes certain."""

    def __init__(self, tokenizer: Tokenizer, options: Options) -> None:
        self._stream = tokenizer.stream()
        self._stops = StopStrings(options.get("stop", ()))

    @property
    def stopped(self) -> bool:
        """Whether a stop string has ended it."""
        return self._stops.stopped

    def push(self, tokens: Sequence[int]) -> str:
        """What became certain with these tokens."""
        return self._stops.push("".join(self._stream.push(token) for token in tokens))

    def finish(self) -> str:
        """What was held back, once no more tokens come."""
        return self._stops.push(self._stream.finish()) + self._stops.finish()


def pairing_of(folder: Path, manifest: Manifest, adaptive: AdaptivePlan | None = None) -> Pairing:
    """What the artifact in the folder drafts with; adaptive: chooses the draft's lookahead."""
    return Pairing(
        program=str(folder / DRAFT_FOLDER) if manifest.draft else None,
        lookahead=adaptive.most if adaptive else manifest.lookahead,
        adaptive=adaptive,
        lookup=manifest.model_free,
        lookup_lookahead=manifest.model_free_lookahead,
    )


class Pair:
    """A target with the draft an artifact ships for it, decoding speculatively.  One generation at a time."""

    def __init__(
        self,
        manifest: Manifest,
        tokenizer: Tokenizer,
        decoder: Decoder,
        *,
        owner: bool = True,
        batches: Batches | None = None,
    ) -> None:
        self.manifest = manifest
        self.tokenizer = tokenizer
        self.decoder = decoder
        self._owner = owner
        self._batches = batches
        self.statistics = Statistics()
        """Of the latest generation; up to date whenever a piece of text was yielded."""

    @staticmethod
    def open(
        artifact: str | Path, target: str | None = None, *, threads: int | None = None, adaptive: bool | None = None
    ) -> "Pair":
        """The pair of an artifact and its target, after every file of the artifact was verified.

        `target` names the target as `--target` does (a name or a checkpoint folder); by default the one the artifact
        was made for, as it was named then.  `adaptive`: whether the lookahead is chosen round by round; by default
        where the artifact says how, without which it cannot be (BadRequest).  Raises ArtifactError if the artifact is
        damaged or belongs to another target, or to a device that is not here.
        """
        folder = Path(artifact)
        manifest = verify_runnable(folder)
        plan = manifest.adaptive if adaptive is not False else None
        if adaptive and plan is None:
            raise BadRequest(
                f"{folder} does not say how to choose k round by round: no run with --adaptive-k found it to pay"
            )
        resolved = resolve_target(target or manifest.target.id)
        check_belongs(manifest, folder, resolved.id, resolved.fingerprint, resolved.tokenizer_fingerprint)
        made_for = manifest.target
        check_compiled_for(made_for.device, folder)
        capacity = Program.read(folder / DRAFT_FOLDER).capacity_tokens if manifest.draft else None
        count = threads or manifest.threads
        target_program = compile_target(
            resolved, made_for.backend, capacity, device=made_for.device, precision=made_for.precision
        )
        decoder = pairing_of(folder, manifest, plan).decoder(open_session(target_program, count), count)
        tokenizer = Tokenizer.open(folder / TOKENIZER_FOLDER)
        batches = Batches(folder, manifest, resolved, count)
        return Pair(manifest, tokenizer, decoder, batches=batches)

    def close(self) -> None:
        """Free the models, unless they are another pair's (see `alone`)."""
        if self._owner:
            self.decoder.close()
            if self._batches is not None:
                self._batches.close()

    def __enter__(self) -> "Pair":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def alone(self) -> "Pair":
        """The same target without the draft, to compare with; shares the target's session."""
        return Pair(self.manifest, self.tokenizer, Decoder(self.decoder.target, None, 0), owner=False)

    def sibling(self) -> "Pair":
        """The same pair for another sequence, with caches of its own; the two are never used at once."""
        return Pair(self.manifest, self.tokenizer, self.decoder.sibling())

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

    def generate_batch(
        self,
        prompts: Sequence[str | Sequence[int]],
        max_new_tokens: int = 128,
        *,
        batch: int | None = None,
        lookahead: int | None = None,
        **options: Unpack[Options],
    ) -> list[Generation]:
        """Continue all prompts, up to `batch` of them at once; prompt i is drawn with the seed plus i.

        batch: by default the largest that the artifact's schedule has an entry for, or a smaller one that is enough.
        lookahead: k for any number of sequences, in place of the schedule's.  The pair's own `statistics` are of all
        prompts together; a generation's are counts of its own, without seconds.  BadRequest if the schedule does not
        say a k for the batch, or its programs are for another device than the CPU.
        """
        if self._batches is None:
            raise BadRequest("several sequences are decoded at once by a pair that was opened from its artifact")
        requests = [self._request(prompt, max_new_tokens, options, number) for number, prompt in enumerate(prompts)]
        texts = [_Text(self.tokenizer, options) for _ in prompts]
        decoder = self._batches.decoder(batch or largest_batch(self.manifest, len(prompts)), lookahead)
        self.statistics = statistics = BatchStatistics()
        pieces: list[list[str]] = [[] for _ in prompts]
        tokens: list[list[int]] = [[] for _ in prompts]
        counts = [Statistics() for _ in prompts]
        for index, done in decoder.rounds(requests, statistics):
            tokens[index] += done.tokens
            counts[index].count_round(done)
            pieces[index].append(texts[index].push(done.tokens))
            if texts[index].stopped:
                decoder.stop(index)
        return [
            Generation("".join([*pieces[index], text.finish()]), tuple(tokens[index]), counts[index])
            for index, text in enumerate(texts)
        ]

    def _pieces(
        self, prompt: str | Sequence[int], max_new_tokens: int, tokens: list[int], **options: Unpack[Options]
    ) -> Iterator[str]:
        """Pieces of text; emitted ids are appended to `tokens`."""
        request = self._request(prompt, max_new_tokens, options)
        self.statistics = Statistics()
        text = _Text(self.tokenizer, options)
        for done in self.decoder.rounds(request, self.statistics):
            tokens += done.tokens
            yield text.push(done.tokens)
            if text.stopped:
                return
        yield text.finish()

    def _request(
        self, prompt: str | Sequence[int], max_new_tokens: int, options: Options, number: int = 0
    ) -> DecodeRequest:
        """The decoding of a prompt; number: its place among several."""
        return DecodeRequest(
            prompt=self._prompt_ids(prompt),
            max_new_tokens=max_new_tokens,
            sampling=SamplingSettings(
                options.get("temperature", 0.0), options.get("top_k", 0), options.get("top_p", 1.0)
            ),
            seed=options.get("seed", 0) + number,
            eos_ids=frozenset(self.manifest.eos_ids),
        )

    def _prompt_ids(self, prompt: str | Sequence[int]) -> list[int]:
        ids = self.tokenizer.encode(prompt) if isinstance(prompt, str) else [int(token) for token in prompt]
        vocab = self.decoder.target.program.shape.vocab
        if any(not 0 <= token < vocab for token in ids):
            raise BadRequest(f"the prompt holds a token id outside 0 … {vocab - 1}")
        return ids
