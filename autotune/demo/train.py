"""`python -m autotune.demo.train`: train a demo target of your own on Python's standard library."""

import signal
import sys
import time
from pathlib import Path
from types import FrameType
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from autotune.demo.job import TrainingRequest, train_demo
from autotune.demo.plan import DEFAULTS, TrainingPlan
from autotune.errors import AutotuneError, BadRequest, Interrupted

_PLAIN_LINE_EVERY_S = 30.0


class TerminalWatcher:
    """Shows a training on stderr: a bar on a terminal, a line now and then elsewhere.  Ctrl-C stops after a step."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._bar: Progress | None = None
        self._plan: TrainingPlan | None = None
        self._began_s = self._last_line_s = 0.0
        self._first_step = 0
        self._loss = 0.0
        self._stop = False

    def phase(self, title: str) -> None:
        """Print what takes a while."""
        self.close()
        self._console.print(f"{title} …")

    def begin(self, plan: TrainingPlan, step: int) -> None:
        """Print what will be trained, and start the bar."""
        self._plan, self._first_step = plan, step
        self._began_s = time.monotonic()
        self._console.print(
            f"training {plan.shape.parameters:,} parameters ({plan.shape}) on {plan.tokens:,} tokens: "
            f"steps {step} … {plan.steps} of {plan.step_tokens:,} tokens each",
            soft_wrap=True,
        )
        signal.signal(signal.SIGINT, self._interrupt)
        if self._console.is_terminal:
            columns = (BarColumn(), MofNCompleteColumn(), TextColumn("{task.description}"), TimeRemainingColumn())
            self._bar = Progress(*columns, console=self._console)
            self._bar.add_task("", total=plan.steps, completed=step)
            self._bar.start()

    def step(self, step: int, loss: float) -> bool:
        """Show the smoothed loss; False once Ctrl-C was pressed."""
        assert self._plan is not None
        self._loss = loss if step == self._first_step else 0.98 * self._loss + 0.02 * loss
        passed_s = time.monotonic() - self._began_s
        rate = (step - self._first_step) * self._plan.step_tokens / max(passed_s, 1e-9)
        text = f"loss {self._loss:.3f} nats · {rate:,.0f} tokens/s"
        if self._bar:
            self._bar.update(self._bar.task_ids[0], completed=step, description=text)
        elif passed_s - self._last_line_s >= _PLAIN_LINE_EVERY_S:
            self._last_line_s = passed_s
            self._console.print(f"step {step} of {self._plan.steps} · {text}")
        return not self._stop

    def close(self) -> None:
        """Take the bar off the terminal, and give Ctrl-C its usual meaning back."""
        if self._plan:
            signal.signal(signal.SIGINT, signal.default_int_handler)
        if self._bar:
            self._bar.stop()
            self._bar = None

    def _interrupt(self, number: int, frame: FrameType | None) -> None:
        self._stop = True


def main(
    out: Annotated[Path, typer.Option(help="Folder to write the demo to: new, empty, or one to --resume.")],
    tokens: Annotated[int | None, typer.Option(help=f"Tokens to train on [{DEFAULTS['tokens']:,}].")] = None,
    minutes: Annotated[
        float | None, typer.Option(help="Or: minutes, turned into tokens by timing a few steps.")
    ] = None,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    processes: Annotated[int | None, typer.Option(help="Data-parallel processes of one thread each (CPU).")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue the training in --out.")] = False,
    layers: Annotated[int | None, typer.Option(help=f"[{DEFAULTS['layers']}]")] = None,
    heads: Annotated[int | None, typer.Option(help=f"[{DEFAULTS['heads']}]")] = None,
    kv_heads: Annotated[int | None, typer.Option(help="[as many as heads]")] = None,
    head_dim: Annotated[int | None, typer.Option(help=f"[{DEFAULTS['head_dim']}]")] = None,
    hidden: Annotated[int | None, typer.Option(help=f"[{DEFAULTS['hidden']}]")] = None,
    ffn: Annotated[int | None, typer.Option(help=f"[{DEFAULTS['ffn']}]")] = None,
    vocab: Annotated[int | None, typer.Option(help=f"[{DEFAULTS['vocab']}]")] = None,
    context: Annotated[int | None, typer.Option(help=f"Longest sequence, in tokens [{DEFAULTS['context']}].")] = None,
    batch_tokens: Annotated[
        int | None, typer.Option(help=f"Tokens of a process's batch [{DEFAULTS['batch_tokens']}].")
    ] = None,
    learning_rate: Annotated[float | None, typer.Option(help=f"[{DEFAULTS['learning_rate']}]")] = None,
    seed: Annotated[int | None, typer.Option(help=f"[{DEFAULTS['seed']}]")] = None,
    prompts: Annotated[int, typer.Option(help="Most prompts to cut from held-out files.")] = 400,
    library: Annotated[Path | None, typer.Option(help="Other Python source to train on.")] = None,
) -> None:
    """Train a small LLaMA and its tokenizer on the running Python's standard library.

    Exit codes: 0 done, 1 the loss diverged (the last good model is written), 2 bad request, 130 interrupted.
    """
    asked = {
        "tokens": tokens,
        "processes": processes,
        "layers": layers,
        "heads": heads,
        "kv_heads": kv_heads,
        "head_dim": head_dim,
        "hidden": hidden,
        "ffn": ffn,
        "vocab": vocab,
        "context": context,
        "batch_tokens": batch_tokens,
        "learning_rate": learning_rate,
        "seed": seed,
    }
    settings = {name: value for name, value in asked.items() if value is not None}
    request = TrainingRequest(out, settings, minutes, device, resume, prompts, library=library)
    console = Console(stderr=True, highlight=False)
    watcher = TerminalWatcher(console)
    try:
        folder = train_demo(request, watcher)
    except AutotuneError as error:
        watcher.close()
        console.print(str(error), markup=False, soft_wrap=True)
        sys.exit({BadRequest: 2, Interrupted: 130}.get(type(error), 1))
    except KeyboardInterrupt:
        console.print("interrupted before training began")
        sys.exit(130)
    typer.echo(folder)


if __name__ == "__main__":
    typer.run(main)
