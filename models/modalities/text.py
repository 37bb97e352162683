"""Text as a vector: hashed character n-grams.

Notes, part numbers and machine codes are short and full of abbreviations and typing errors, so characters tell more
than words, and no dictionary is needed. The hash is fixed: a stored text always gives the same vector.
"""

from __future__ import annotations

import unicodedata
import zlib

import torch
import torch.nn.functional as F
from torch import Tensor

TEXT_SIZE = 512
"""Numbers of a vector."""

_LENGTHS = range(1, 5)
"""Characters of an n-gram."""


def text_vector(text: str) -> Tensor:
    """Count the n-grams of a text by their hash (Weinberger et al. 2009, arXiv:0902.2206).

    Case and width of characters do not count, and neither does how many blanks there are between words. An n-gram never
    spans two words; those at the beginning and the end of a word are different from those inside.

    Returns:
        float32 (`TEXT_SIZE`,) of length 1; all zero for a text without any character.
    """
    counts = torch.zeros(TEXT_SIZE)
    for word in unicodedata.normalize("NFKC", text).casefold().split():
        marked = f"\x02{word}\x03"
        for length in _LENGTHS:
            for start in range(len(marked) - length + 1):
                hashed = zlib.crc32(marked[start : start + length].encode("utf-8", "surrogatepass"))
                counts[hashed % TEXT_SIZE] += 1.0 if hashed & 0x80000000 else -1.0
    vector: Tensor = F.normalize(counts.sign() * counts.abs().sqrt(), dim=0)
    return vector
