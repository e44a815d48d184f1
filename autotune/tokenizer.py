"""Text to token ids and back, on the `tokenizers` library (a folder's tokenizer.json; no transformers)."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tokenizers

from autotune.cache import content_key
from autotune.errors import BadRequest
from autotune.json_file import read_json

TOKENIZER_FILE = "tokenizer.json"
TOKENIZER_CONFIG_FILE = "tokenizer_config.json"
_ID_FILES = ("generation_config.json", "config.json")
"""Where Hugging Face folders keep the special ids, the authoritative file first."""
_UNFINISHED = "\N{REPLACEMENT CHARACTER}"


def tokenizer_files(folder: Path) -> tuple[Path, ...]:
    """The files of a checkpoint folder that `Tokenizer.open` reads, those that are there."""
    names = (TOKENIZER_FILE, TOKENIZER_CONFIG_FILE, *_ID_FILES)
    return tuple(folder / name for name in names if (folder / name).exists())


@dataclass(frozen=True)
class Tokenizer:
    """A checkpoint's tokenizer.

    `encode` adds what the tokenizer's own files ask for (a BOS where `add_bos_token` or its template says so) and
    nothing else: a prompt is often an excerpt, and a BOS would claim that a document begins there.
    """

    folder: Path
    eos_ids: tuple[int, ...]
    """Tokens that end a text; may be empty."""
    bos_id: int | None
    add_bos: bool | None
    """`add_bos_token` of the configuration; None leaves it to the template in tokenizer.json."""
    fingerprint: str
    """Equal for tokenizers that give equal ids to equal texts."""
    _library: tokenizers.Tokenizer

    @staticmethod
    def open(folder: Path) -> "Tokenizer":
        """The tokenizer of a checkpoint folder; BadRequest if it is missing or corrupt."""
        path = folder / TOKENIZER_FILE
        if not path.exists():
            raise BadRequest(f"{folder} has no {TOKENIZER_FILE}: save its tokenizer with transformers' save_pretrained")
        try:
            content = path.read_bytes()
            library = tokenizers.Tokenizer.from_buffer(content)
        except OSError as error:
            raise BadRequest(f"cannot read {path}: {error.strerror or error}") from error
        except ValueError as error:
            raise BadRequest(f"{path} is corrupt: {error}") from error
        config = read_json(folder / TOKENIZER_CONFIG_FILE) if (folder / TOKENIZER_CONFIG_FILE).exists() else {}
        eos_ids, bos_id = _special_ids(folder, config, library)
        add_bos = config.get("add_bos_token")
        fingerprint = content_key(hashlib.sha256(content).hexdigest(), add_bos, bos_id)
        return Tokenizer(folder, eos_ids, bos_id, add_bos, fingerprint, library)

    @property
    def vocabulary(self) -> Mapping[str, int]:
        """Id of every token, special ones included."""
        return self._library.get_vocab(with_added_tokens=True)

    @property
    def special_tokens(self) -> Mapping[str, int]:
        """Ids of the tokens that `decode` leaves out."""
        added = self._library.get_added_tokens_decoder()
        return {token.content: token_id for token_id, token in added.items() if token.special}

    def encode(self, text: str) -> list[int]:
        """Token ids of a text; an empty text becomes BOS (if there is one), so that it can be continued."""
        ids = self._library.encode(text, add_special_tokens=self.add_bos is not False).ids
        wants_bos = self.add_bos or not ids
        if wants_bos and self.bos_id is not None and ids[:1] != [self.bos_id]:
            ids = [self.bos_id, *ids]
        return ids

    def decode(self, ids: list[int]) -> str:
        """Text of token ids, without special tokens."""
        return self._library.decode(ids, skip_special_tokens=True)

    def stream(self) -> "TextStream":
        """A fresh incremental decoder."""
        return TextStream(self)


class TextStream:
    """Decodes ids as they come; the pieces it returns join to what `Tokenizer.decode` gives for all of them.

    A token may hold part of a character, so text is held back until its last character is whole.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        # Some decoders treat the first token specially (a leading space): the last finished piece stays in front.
        self._finished: list[int] = []
        self._pending: list[int] = []

    def push(self, token_id: int) -> str:
        """The text that became certain with this token; often empty in the middle of a character."""
        self._pending.append(token_id)
        piece = self._piece()
        if not piece or piece.endswith(_UNFINISHED):
            return ""
        self._finished, self._pending = self._pending, []
        return piece

    def finish(self) -> str:
        """What was held back; an unfinished character shows as U+FFFD."""
        piece = self._piece()
        self._finished, self._pending = self._pending, []
        return piece

    def _piece(self) -> str:
        before = self._tokenizer.decode(self._finished)
        return self._tokenizer.decode(self._finished + self._pending)[len(before) :]


def _special_ids(
    folder: Path, tokenizer_config: Mapping[str, Any], library: tokenizers.Tokenizer
) -> tuple[tuple[int, ...], int | None]:
    """EOS ids and BOS id: from the model's files, else from the token names in tokenizer_config.json."""
    found: dict[str, tuple[int, ...]] = {}
    for kind in ("eos", "bos"):
        name = tokenizer_config.get(f"{kind}_token")
        text = name.get("content") if isinstance(name, dict) else name
        token_id = library.token_to_id(text) if isinstance(text, str) else None
        found[kind] = () if token_id is None else (token_id,)
    for file in reversed(_ID_FILES):  # the authoritative file last, so that it wins
        config = read_json(folder / file) if (folder / file).exists() else {}
        for kind in found:
            value = config.get(f"{kind}_token_id")
            if value is not None:
                found[kind] = tuple(value) if isinstance(value, list) else (value,)
    for kind, ids in found.items():
        if not all(isinstance(token_id, int) for token_id in ids):
            raise BadRequest(f"{folder}: {kind}_token_id must be a token id or a list of them, not {list(ids)}")
    return found["eos"], found["bos"][0] if found["bos"] else None
