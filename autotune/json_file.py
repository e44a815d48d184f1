"""JSON objects on disk, read with one-line errors."""

import json
from pathlib import Path
from typing import Any

from autotune.errors import BadRequest


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file; BadRequest if it is missing, unreadable or not an object."""
    try:
        value = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise BadRequest(f"{path.parent} has no {path.name}") from None
    except OSError as error:
        raise BadRequest(f"cannot read {path}: {error.strerror or error}") from error
    except ValueError as error:  # malformed JSON, or bytes that are not UTF-8
        raise BadRequest(f"{path} is not valid JSON: {error}") from error
    if not isinstance(value, dict):
        raise BadRequest(f"{path} must hold a JSON object, not a {type(value).__name__}")
    return value
