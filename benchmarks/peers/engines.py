"""The engines of the comparison: how each is made ready for a pair of models, in fp32."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from autotune.cache import new_folder
from autotune.candidate import Drafting
from autotune.compile.base import CompileSettings, build_program
from autotune.number_formats import Precision
from autotune.targets import Target
from benchmarks.peers.environments import GENAI, OPENVINO, OURS, environment, run
from benchmarks.peers.genai_export import export
from benchmarks.peers.gguf_export import write_gguf
from benchmarks.peers.protocol import EngineProcess, Setup


@dataclass(frozen=True)
class Pair:
    """Two models that share a tokenizer, and how they are to be run."""

    target: Target
    draft: Target
    lookahead: int
    threads: int
    capacity_tokens: int
    work: Path
    """Where what an engine needs of the pair is kept."""
    compilers: tuple[str, str]
    """The artifact's, of target and draft."""
    environments: Path
    """Where environments are kept."""
    prompts: list[list[int]]
    new_tokens: int

    def setup(self, target: Path, draft: Path, **settings: object) -> Setup:
        """What an engine opens of it."""
        return Setup(
            str(target),
            str(draft),
            self.lookahead,
            self.threads,
            self.capacity_tokens,
            list(self.target.eos_ids),
            self.target.shape.vocab,
            settings,
        )

    def program(self, role: str, backend: str) -> Path:
        """The compiled target or draft."""
        model = self.target if role == "target" else self.draft
        folder = self.work / f"{role}-{backend}"
        longest = self.lookahead if role == "draft" else 0
        settings = CompileSettings(Precision.FP32, self.capacity_tokens, longest_burst=longest)
        return kept(folder, lambda part: build_program(backend, model.read_weights(), settings, part))


def kept(folder: Path, make: Callable[[Path], object]) -> Path:
    """The folder; if it is not there, `make` fills an empty one beside, which is renamed."""
    if not folder.exists():
        with new_folder(folder) as part:
            make(part)
    return folder


Open = Callable[[Pair, Path], EngineProcess]
"""Makes an engine ready for a pair and starts it; a log file beside; raises EngineFailed."""


def _ours(backend: str | None = None) -> Open:
    """By one compiler, or by the artifact's two."""

    def start(pair: Pair, log: Path) -> EngineProcess:
        target, draft = pair.compilers if backend is None else (backend, backend)
        drafting = Drafting.BURST if draft == "tvm" else Drafting.CALLS
        setup = pair.setup(pair.program("target", target), pair.program("draft", draft), drafting=drafting.value)
        return EngineProcess(OURS, "benchmarks.peers.engine_ours", setup, log)

    return start


def _ours_alone(backend: str | None = None) -> Open:
    def start(pair: Pair, log: Path) -> EngineProcess:
        program = pair.program("target", backend or pair.compilers[0])
        return EngineProcess(OURS, "benchmarks.peers.engine_ours", pair.setup(program, program, alone=True), log)

    return start


def _transformers(**settings: object) -> Open:
    def start(pair: Pair, log: Path) -> EngineProcess:
        setup = pair.setup(pair.target.checkpoint, pair.draft.checkpoint, **settings)
        return EngineProcess(OURS, "benchmarks.peers.engine_transformers", setup, log)

    return start


def _genai(*, alone: bool) -> Open:
    def start(pair: Pair, log: Path) -> EngineProcess:
        python = environment(pair.environments / "genai", GENAI)

        def make(part: Path) -> None:
            draft = None if alone else pair.draft
            settings = {"capacity_tokens": pair.capacity_tokens, "lookahead": pair.lookahead, "threads": pair.threads}
            export(pair.target, draft, part, **settings)

        folder = kept(pair.work / ("genai-alone" if alone else "genai"), make)
        setup = pair.setup(folder, folder, alone=alone)
        return EngineProcess(python, "benchmarks.peers.engine_genai", setup, log)

    return start


def _openvino(*, alone: bool) -> Open:
    def start(pair: Pair, log: Path) -> EngineProcess:
        python = environment(pair.environments / "openvino", OPENVINO)

        def exported(role: str, model: Target) -> Path:
            tool = [python.with_name("optimum-cli"), "export", "openvino", "--model", model.checkpoint]
            settings = ["--task", "text-generation-with-past", "--weight-format", "fp32"]
            return kept(pair.work / f"openvino-{role}", lambda part: run([*tool, *settings, part]))

        setup = pair.setup(exported("target", pair.target), exported("draft", pair.draft), alone=alone)
        return EngineProcess(python, "benchmarks.peers.engine_openvino", setup, log)

    return start


def _llama_cpp(*, alone: bool) -> Open:
    def start(pair: Pair, log: Path) -> EngineProcess:
        def exported(role: str, model: Target) -> Path:
            def make(part: Path) -> None:
                write_gguf(model.checkpoint, part / "model.gguf")

            return kept(pair.work / f"gguf-{role}", make) / "model.gguf"

        setup = pair.setup(exported("target", pair.target), exported("draft", pair.draft), alone=alone)
        return EngineProcess(OURS, "benchmarks.peers.engine_llama_cpp", setup, log)

    return start


ENGINES: Mapping[str, Open] = {
    "ours": _ours(),
    "ours, ONNX Runtime": _ours("onnxruntime"),
    "ours, TVM": _ours("tvm"),
    "ours, no draft": _ours_alone(),
    "ours, TVM, no draft": _ours_alone("tvm"),
    "transformers, assisted, same k": _transformers(schedule="fixed"),
    "transformers, assisted, its default": _transformers(schedule="default"),
    "transformers, no draft": _transformers(alone=True),
    "ONNX Runtime GenAI, speculative": _genai(alone=False),
    "ONNX Runtime GenAI, no draft": _genai(alone=True),
    "OpenVINO GenAI, speculative": _openvino(alone=False),
    "OpenVINO GenAI, no draft": _openvino(alone=True),
    "llama.cpp, speculative": _llama_cpp(alone=False),
    "llama.cpp, no draft": _llama_cpp(alone=True),
}
"""All of them, by name; the first is what others are compared with."""
