"""Tokens per text: further sizes of samples that have a text beside their graph."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from nodebudget.errors import InputError

Tokenizer = Callable[[str], Any]  #: Text → its tokens: a list, a tensor, or what Hugging Face's tokenizers return.


class TokenCounter:
    """Counts the tokens of samples, for `size_of` of `measure`, and of batches, for `sizes` of `MemoryMonitor`.

    Sizes of a batch are the sums over its samples, so count what each text takes in a batch: texts that are padded to
    a multiple of 32 with texts of similar length take their length rounded up. Padding all texts of a batch to its
    longest one is not such a sum, and can't be predicted from one.

    Args:
        tokenizer: Text → tokens: a function, a tokenizer of Hugging Face, or an object with `encode`.
        multiple: Lengths are rounded up to a multiple of this.
        longest: Number of tokens to which texts are cut.
        pairs: Also count `token_pairs`, the square of a text's length: the size of stored attention weights.
        key: The key of the text in samples that are dicts; in tuples it is the first string.

    Raises:
        InputError: `tokenizer` can't be called and has no `encode`, or a number is less than 1.
    """

    def __init__(
        self,
        tokenizer: Tokenizer | Any,
        *,
        multiple: int = 1,
        longest: int | None = None,
        pairs: bool = False,
        key: str = "text",
    ) -> None:
        if not callable(tokenizer) and not hasattr(tokenizer, "encode"):
            raise InputError(
                f"a {type(tokenizer).__name__} is not a tokenizer",
                limit="something to call with a text, or with a method encode",
                hint="give the tokenizer itself",
            )
        for name, value in (("multiple", multiple), ("longest", longest)):
            if value is not None and value < 1:
                raise InputError(f"{name} is {value}", limit="1 or more", hint="give a number of tokens")
        self._encode = tokenizer if callable(tokenizer) else tokenizer.encode
        self._multiple, self._longest, self._pairs, self._key = multiple, longest, pairs, key

    def __call__(self, sample: Any) -> dict[str, int]:
        """Return `tokens` of a sample (a dict, a tuple or the text itself), and `token_pairs` if asked for."""
        count = self.length(self._text(sample))
        return {"tokens": count, **({"token_pairs": count * count} if self._pairs else {})}

    def of_batch(self, batch: Any) -> dict[str, int]:
        """Return the same, summed over a batch: a list of texts, or a tuple or dict that holds one.

        Raises:
            InputError: The batch has no list of texts.
        """
        counts = [self(text) for text in self._texts(batch)]
        return {name: sum(entry[name] for entry in counts) for name in counts[0]}

    def length(self, text: str) -> int:
        """Return the tokens of a text as they count in a batch."""
        tokens: Any = self._encode(text)
        # Hugging Face's tokenizers return a mapping, those of the package tokenizers an object with ids.
        if isinstance(tokens, Mapping) or hasattr(tokens, "input_ids"):
            tokens = tokens["input_ids"]
        tokens = tokens.ids if hasattr(tokens, "ids") else tokens
        # One text gives one row of ids, with return_tensors= a row of a matrix.
        count = int(tokens.numel()) if hasattr(tokens, "numel") else len(tokens)
        if self._longest is not None:
            count = min(count, self._longest)
        return -(-count // self._multiple) * self._multiple

    def _text(self, sample: Any) -> str:
        text = sample
        if isinstance(sample, Mapping):
            text = sample.get(self._key)
        elif isinstance(sample, (tuple, list)):
            text = next((part for part in sample if isinstance(part, str)), None)
        if isinstance(text, str):
            return text
        raise InputError(
            f"a sample of type {type(sample).__name__} has no text",
            limit=f"a text, a tuple with one, or a dict with one under {self._key!r}",
            hint="name its key (key=…), or count with a function of your own",
        )

    def _texts(self, batch: Any) -> list[str]:
        parts: Iterable[Any] = batch.values() if isinstance(batch, Mapping) else batch
        for part in (batch, *parts) if isinstance(batch, (Mapping, tuple, list)) else ():
            if isinstance(part, (tuple, list)) and part and all(isinstance(text, str) for text in part):
                return list(part)
        raise InputError(
            f"a batch of type {type(batch).__name__} has no list of texts",
            limit="a list of texts, or a tuple or dict that holds one",
            hint="give the monitor a function of your own that counts a batch's tokens",
        )
