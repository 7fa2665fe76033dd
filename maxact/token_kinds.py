"""What a token is: of the text, a special token, or of the chat template around the text. Codes, a byte a token."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

NAMES = ("content", "special", "template", "template_or_content")  # the last where they cannot be told apart
CONTENT, SPECIAL, TEMPLATE, EITHER = range(4)
_PLACEHOLDER = "maxact-text"


def special_ids(tokenizer: Any) -> frozenset[int]:
    """The ids that stand for no text. The unknown token does, unless it is also another (GPT-2 has but one)."""
    added = getattr(tokenizer, "added_tokens_decoder", {})
    ids = {id for id, token in added.items() if token.special} | set(getattr(tokenizer, "all_special_ids", ()))
    roles = {getattr(tokenizer, f"{role}_token_id", None) for role in ("bos", "eos", "pad", "sep", "cls", "mask")}
    unknown = getattr(tokenizer, "unk_token_id", None)
    return frozenset((ids - {unknown}) | (roles - {None}))


def with_special(ids: Sequence[int], kinds: bytes, special: frozenset[int]) -> bytes:
    """These kinds, where no special token stands."""
    if special.isdisjoint(ids):
        return kinds
    return bytes(SPECIAL if id in special else kind for id, kind in zip(ids, kinds, strict=True))


class Turn(NamedTuple):
    """A text as a user's turn; where in it the text stands, if that is known."""

    text: str
    start: int | None
    stop: int | None


class ChatTemplate:
    """A tokenizer's chat template, as what it puts before and after a user's text."""

    def __init__(self, tokenizer: Any):
        self._tokenizer = tokenizer
        self.can_place = bool(getattr(tokenizer, "is_fast", False))  # others do not say which characters a token has
        before, here, after = self._rendered(_PLACEHOLDER).partition(_PLACEHOLDER)
        self._around = (before, after) if here and _PLACEHOLDER not in after else None

    def turn(self, text: str) -> Turn:
        """Raises ValueError if the template fails."""
        rendered = self._rendered(text)
        if self._around is not None:
            before, after = self._around
            start, stop = len(before), len(rendered) - len(after)
            as_it_is = rendered[start:stop].strip() == text.strip()
            if as_it_is and rendered.startswith(before) and rendered.endswith(after):
                return Turn(rendered, start, stop)
        return Turn(rendered, None, None)

    def kinds(self, turn: Turn, n_tokens: int, offsets: Sequence[tuple[int, int]] | None) -> bytes:
        """A token with any of the text in it is of the text. offsets: from and to which character each token goes."""
        if turn.start is None or offsets is None:
            return bytes([EITHER]) * n_tokens
        return bytes(CONTENT if a < turn.stop and b > turn.start else TEMPLATE for a, b in offsets)

    def _rendered(self, text: str) -> str:
        try:
            return self._tokenizer.apply_chat_template([{"role": "user", "content": text}], tokenize=False)
        except Exception as error:  # a template is a program of the model's author
            raise ValueError(
                f"chat_template: this tokenizer's template fails: {' '.join(str(error).split())}"
            ) from error
