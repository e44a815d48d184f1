"""Chats as prompts: the tokenizer's own template, in a sandbox, as transformers renders it."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from jinja2 import TemplateError
from jinja2.sandbox import ImmutableSandboxedEnvironment

from autotune.json_file import read_json
from autotune.server.errors import ApiError
from autotune.server.requests import Message
from autotune.tokenizer import TOKENIZER_CONFIG_FILE

TEMPLATE_FILE = "chat_template.jinja"


def _complain(message: str) -> NoReturn:
    raise TemplateError(message)


class ChatTemplate:
    """What makes a prompt of a chat; a tokenizer without a template has none."""

    def __init__(self, tokenizer: Path) -> None:
        config = read_json(tokenizer / TOKENIZER_CONFIG_FILE) if (tokenizer / TOKENIZER_CONFIG_FILE).exists() else {}
        source = _source(tokenizer, config)
        environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
        environment.globals["raise_exception"] = _complain
        self._template = None if source is None else environment.from_string(source)
        self._special = {name: _text(config.get(name)) for name in ("bos_token", "eos_token", "pad_token", "unk_token")}

    def render(self, messages: Sequence[Message]) -> str:
        """The prompt that the assistant's next turn continues; ApiError where there is none."""
        if self._template is None:
            raise ApiError(
                "the served model's tokenizer has no chat template: send the text to /v1/completions",
                code="no_chat_template",
            )
        turns = [{"role": message.role, "content": message.text} for message in messages]
        try:
            return self._template.render(messages=turns, add_generation_prompt=True, **self._special)
        except TemplateError as error:
            raise ApiError(f"the chat template refuses these messages: {error}", param="messages") from None


def _source(tokenizer: Path, config: dict[str, Any]) -> str | None:
    """The template: a file of its own, or in the configuration, where it may be one of several."""
    if (tokenizer / TEMPLATE_FILE).exists():
        return (tokenizer / TEMPLATE_FILE).read_text(encoding="utf-8")
    template = config.get("chat_template")
    if isinstance(template, list):
        named = {each["name"]: each["template"] for each in template}
        template = named.get("default")
    return template if isinstance(template, str) else None


def _text(token: Any) -> str:
    """A special token's text; it may be described by an object."""
    return str(token.get("content", "")) if isinstance(token, dict) else str(token or "")
