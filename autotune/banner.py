"""What must be said before any figure of a run that could not do everything."""

from autotune.request import Request
from autotune.results import RunKind

_LATENCIES = {
    "measured": "measured with its own program",
    "table": "taken from the table given with --target-latency",
    "slices": "extrapolated from slices of its true size measured here",
}


def banner_lines(request: Request) -> tuple[str, ...]:
    """The banner, a sentence a line; empty for a whole run."""
    target = request.target.id
    latency = f"The target's latency is {_LATENCIES[request.latency_source]}."
    match request.kind:
        case RunKind.WHOLE:
            return ()
        case RunKind.SERVED:
            return (
                f"NOT VALIDATED: the weights of {target} are not here, so no draft is decoded with it.",
                "Drafts, their latency and their acceptance on the target's text are real.",
                latency,
            )
        case RunKind.PLAN:
            return (
                f"A PLAN, NOT A RESULT: neither weights nor text of {target} are here.",
                "Tokens per round are a STAND-IN, those of the demo's drafts of the same relative shape: they say "
                f"nothing about {target}, and speed-ups follow from them.",
                f"Latencies of drafts are measured with random weights at their true size. {latency}",
                "Decide by the break-even: the tokens per round from which a draft pays.",
            )
