"""The documentation is true: its site builds without a warning, and what it tells readers to type is typed here."""

import doctest
import io
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import typer

from autotune import cli, run, targets
from autotune.config import TuneConfig
from autotune.request import resolve
from tests.support.artifacts import artifact_of_demo
from tests.support.documentation import PAGES, ROOT, Block, Command, blocks, commands, examples, inline_code
from tests.support.runs import autotune as in_a_process

SHELL = {"bash", "console", "sh"}
LANGUAGES = SHELL | {"python", "pycon", "json", "toml", "text"}

EXEMPT = {
    "pip": "installing is what the continuous integration begins with",
    ".": "so is this",
    "vllm": "another engine",
    "llama-server": "another engine",
    "optuna-dashboard": "a server, of a package that is not required",
}
"""Programs that are not run, by their first word."""
EXEMPT_PYTHON = {
    ("-m", "venv"): "so is this",
    ("-m", "pytest"): "this is it",
    ("-m", "sglang.launch_server"): "another engine",
    ("convert_hf_to_gguf.py",): "another engine's",
}
"""Programs of Python that are not run, by the words behind `python`."""
AS_THEY_ARE = {"cp"}
"""Programs of the system that are run by a shell."""
PARSED = {
    ("serve",): "serves until it is stopped; tests/server runs it",
    ("paper",): "takes minutes; tests/paper runs it",
    ("traces", "--endpoint"): "there is no server; tests/endpoint records from one",
}
"""Commands whose words are only parsed: those that begin with the first word and hold the others."""
ELSEWHERE = ("--device cuda", "http://", "--download", "llama-65b --source", "--draft-vocab full,8192")
"""Parts of runs that need a GPU, a server, the hub, or a larger model than the demo: such a run is configured only.

All other runs are resolved against this machine, as a run begins; the search itself is one, shared by all tests.
"""
REDUCED = {
    "bench": ("--count", "4", "--repeats", "2", "--max-new-tokens", "8"),
    "verify": ("--count", "2", "--max-new-tokens", "8"),
    "generate": ("--max-new-tokens", "8"),
    "traces": ("--prompts", "mine.jsonl", "--max-new-tokens", "4"),
    "init": ("--force",),
}
"""What is added to commands that would take long, or whose file is there already; flags that come last win."""

BLOCKS = [block for page in PAGES for block in blocks(page)]
EXAMPLES = Block(ROOT / "docs" / "commands.md", 0, "bash", "\n".join(examples(cli.app)), None)
"""Those of `--help`, which the reference of commands shows."""
COMMANDS = [command for block in (*BLOCKS, EXAMPLES) if block.language in SHELL for command in commands(block)]
FLAGS_OF_OTHERS = {
    "--enable-dp-attention",
    "--logprobs-mode",
    "--draft-max",
    "--spec-draft-n-max",
    "--spec-draft-p-min",
}
OUR_FLAGS_OUTSIDE = {"--losses": "benchmarks/distillation.py", "--all-prompts": "benchmarks/temperatures.py"}
"""Flags of benchmarks that sentences name, and where they are defined."""


class Accepted(Exception):
    """The search would begin now."""


def put_right(text: str, folder: Path) -> str:
    """Text with the places of this machine: a checkpoint for `/models/…`, a folder of the workspace for `/data/…`."""
    for name in ("my-llama", "big", "small"):
        text = re.sub(rf"/models/{name}\b", lambda _: str(targets.demo_folder()), text)
    return text.replace("/data/", f"{folder}/")


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An artifact with a draft and a schedule up to four sequences, whatever the verdict of a run here would be."""
    return artifact_of_demo(tmp_path_factory.mktemp("made") / "artifact", schedule=((1, 1, 3), (2, 4, 2)))


@pytest.fixture(scope="module")
def workspace(
    finished: Path, artifact: Path, prompts: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Path]:
    """The folder that a reader would stand in: runs, prompts, traces, and the files that pages show."""
    folder = tmp_path_factory.mktemp("reader")
    for name in ("autotune-run", "my-run", "other-run", "laptop", "server"):
        shutil.copytree(finished, folder / name, ignore=shutil.ignore_patterns("artifact"))
        shutil.copytree(artifact, folder / name / "artifact")
    asked = [json.loads(line) for line in prompts.read_text().splitlines()]
    mine = [{**each, "category": ("code", "mail")[index % 2]} for index, each in enumerate(asked)]
    (folder / "mine.jsonl").write_text("".join(json.dumps(each) + "\n" for each in mine))
    for block in BLOCKS:
        if block.title:
            (folder / block.title).write_text(put_right(block.text, folder) + "\n")
    (folder / "benchmarks").symlink_to(ROOT / "benchmarks")
    for words in (
        (
            "traces",
            "--prompts",
            str(folder / "mine.jsonl"),
            "--max-new-tokens",
            "4",
            "--out",
            str(folder / "traces.safetensors"),
        ),
        ("db", "export", str(folder / "measured.jsonl.gz")),
    ):
        done = in_a_process(*words)
        assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture
def reader(workspace: Path, tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], str]:
    """Stands in that folder, where a search is accepted but not begun; what it returns puts names of places right."""
    monkeypatch.chdir(workspace)
    monkeypatch.setattr(targets, "fetch_models", lambda *_: None)
    return lambda text: put_right(text, workspace)


def accept(config: TuneConfig, _: object = None) -> None:
    """What stands in for the search: the request is resolved against this machine, then it ends."""
    resolve(config)
    raise Accepted


def accept_unseen(config: TuneConfig, _: object = None) -> None:
    """What stands in for a search that cannot begin here."""
    raise Accepted


@pytest.mark.slow
@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: f"{command.place} {command.text[:60]}")
def test_every_command_works(
    command: Command, reader: Callable[[str], str], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    program, *words = [reader(word) for word in command.words]
    if program in EXEMPT:
        return
    if program in AS_THEY_ARE:
        subprocess.run(command.text, shell=True, check=True, timeout=10)
        return
    for name, value in command.environment:
        monkeypatch.setenv(name, reader(value))
    if program.startswith("python"):
        _run_python(words)
        return
    assert program == "autotune", f"{program} is neither run nor in EXEMPT"
    if any(words[0] == first and set(others) <= set(words) for first, *others in PARSED):
        parse(words)
        return
    elsewhere = any(part in command.text for part in ELSEWHERE)
    monkeypatch.setattr(run, "tune", accept_unseen if elsewhere else accept)
    monkeypatch.setattr(sys, "argv", ["autotune", *words, *REDUCED.get(words[0], ())])
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(command.stdin.encode())))
    try:
        with pytest.raises(SystemExit) as ended:
            cli.main()
    except Accepted:
        assert words[0] == "run"
    else:
        assert not ended.value.code, capfd.readouterr().err


def _run_python(words: list[str]) -> None:
    if any(tuple(words[: len(start)]) == start for start in EXEMPT_PYTHON):
        return
    option, program = words
    assert option == "-c", f"python {option} is neither run nor in EXEMPT_PYTHON"
    exec(compile(program, "python -c", "exec"), {"__name__": "__main__"})  # where torch may be loaded already


def parse(words: list[str]) -> None:
    """Fails unless the command line takes the words."""
    command, rest = _command_of(words)
    command.make_context(words[0], list(rest))


def _command_of(words: list[str]) -> tuple[Any, list[str]]:
    """The command that words begin with, and the words behind its name."""
    command: Any = typer.main.get_command(cli.app)
    rest = list(words)
    while rest and hasattr(command, "get_command"):
        child = command.get_command(typer.Context(command), rest[0])
        if child is None:
            break
        command, rest = child, rest[1:]
    return command, rest


def test_every_block_says_what_it_is() -> None:
    for block in BLOCKS:
        assert block.language in LANGUAGES, f"{block.place} is a block of {block.language or 'nothing in particular'}"
        if block.language not in SHELL:
            assert not re.search(r"^\$? ?autotune \w+ [^:]*$", block.text, re.MULTILINE), (
                f"{block.place} hides a command"
            )


@pytest.fixture(scope="module")
def address(artifact: Path) -> Iterator[str]:
    """Where the shared pair is served."""
    from autotune.pair import Pair
    from tests.support.serving import serving

    with serving(Pair.open(artifact, "demo")) as found:
        yield found.removeprefix("http://")


PYTHON_PAGES = sorted({block.page for block in BLOCKS if block.language in ("python", "pycon")})


@pytest.mark.slow
@pytest.mark.parametrize("page", PYTHON_PAGES, ids=lambda page: page.name)
def test_every_snippet_runs(
    page: Path, reader: Callable[[str], str], address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All of a page's, one after the other; a search is checked, and answered with the shared run."""
    sentence = json.loads(Path("my-run/report/summary.json").read_text())["sentence"]

    def found(config: TuneConfig, _: object = None) -> SimpleNamespace:
        resolve(config)
        return SimpleNamespace(summary=SimpleNamespace(sentence=sentence))

    monkeypatch.setattr(run, "tune", found)
    names: dict[str, Any] = {"__name__": "snippet"}
    for block in blocks(page):
        if block.language == "python":
            text = reader(block.text).replace("127.0.0.1:8000", address)
            exec(compile(text, block.place, "exec"), names)
        elif block.language == "pycon":
            _doctest(block, names)


def _doctest(block: Block, names: dict[str, Any]) -> None:
    test = doctest.DocTestParser().get_doctest(block.text + "\n", {}, block.place, str(block.page), block.line)
    assert test.examples, f"{block.place} shows nothing"
    test.globs = names
    said = io.StringIO()
    outcome = doctest.DocTestRunner(verbose=False).run(test, out=said.write, clear_globs=False)
    assert not outcome.failed, said.getvalue()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_code_in_sentences_is_of_something_that_exists(page: Path) -> None:
    everywhere = _all_flags(typer.main.get_command(cli.app))
    for code in inline_code(page):
        first, *words = code.split()
        if first == "autotune" and words and re.fullmatch(r"[a-z]+", words[0]):
            command, _ = _command_of(words)
            assert command is not typer.main.get_command(cli.app), f"{page.name}: `{code}`"
            unknown = {word for word in words if word.startswith("--")} - _all_flags(command)
            assert not unknown, f"{page.name}: `{code}` has no {unknown}"
        elif code.startswith("python -m "):
            assert find_spec(words[1].split(".")[0]), f"{page.name}: `{code}`"
            assert find_spec(words[1]), f"{page.name}: `{code}`"
        elif first.startswith("--"):
            if first in OUR_FLAGS_OUTSIDE:
                assert first in (ROOT / OUR_FLAGS_OUTSIDE[first]).read_text(), f"{page.name}: `{code}`"
            else:
                assert first in everywhere | FLAGS_OF_OTHERS, f"{page.name}: `{code}`"


def _all_flags(command: Any) -> set[str]:
    """The options of a command and of those below it."""
    context = typer.Context(command)
    flags = {flag for each in command.get_params(context) for flag in (*each.opts, *each.secondary_opts)}
    if hasattr(command, "list_commands"):
        for name in command.list_commands(context):
            flags |= _all_flags(command.get_command(context, name))
    return flags


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, built as strictly as can be."""
    out = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(out)],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=os.environ | {"NO_MKDOCS_2_WARNING": "1"},  # of the theme, about tools that are not used here
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert not re.search(r"^WARNING", done.stderr, re.MULTILINE), done.stderr
    return out


def test_the_site_loads_nothing_from_elsewhere(site: Path) -> None:
    pages = [page for page in site.rglob("*.html") if "paper/index" not in page.as_posix()]
    assert len(pages) >= len(PAGES)
    for page in pages:
        text = page.read_text(encoding="utf-8")
        loaded = re.findall(r'<(?:script|img|iframe|source)[^>]*\ssrc="([^"]*)"', text)
        loaded += re.findall(r'<link[^>]*rel="(?:stylesheet|icon|preconnect|preload)"[^>]*href="([^"]*)"', text)
        assert loaded
        assert not [address for address in loaded if "//" in address], page


def test_the_reference_has_every_command_and_flag(site: Path) -> None:
    from html import unescape

    text = unescape((site / "commands" / "index.html").read_text(encoding="utf-8"))
    command = typer.main.get_command(cli.app)
    for name in command.list_commands(typer.Context(command)):
        assert f"autotune {name}" in text
    for flag in _all_flags(command) - {"-h", "--help", "--install-completion", "--show-completion"}:
        assert flag in text, flag
