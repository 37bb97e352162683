"""Content negotiation, and lists as CSV for spreadsheets."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Iterable, Sequence
from typing import Any, Final

from fastapi import Request, Response
from pydantic import BaseModel

CSV: Final = "text/csv"

CSV_RESPONSE: Final[dict[int | str, dict[str, Any]]] = {
    200: {"content": {CSV: {"schema": {"type": "string"}}}, "description": "JSON; CSV if `Accept` prefers `text/csv`"}
}
"""For the `responses` of a list that `as_csv` can answer."""

_Q: Final = re.compile(r"(?:^|;)\s*q\s*=\s*([01](?:\.\d*)?)\s*(?:;|$)")
_FORMULA: Final = ("=", "+", "-", "@", "\t", "\r")
"""Spreadsheets run a cell that begins with one of these as a formula."""


def quality(request: Request, media_type: str) -> float:
    """Return the q value that the Accept header gives to a media type by name; 0 if it does not name it."""
    accepted = ",".join(request.headers.getlist("accept")).lower()
    ranges = [each.partition(";") for each in accepted.split(",")]
    found = [_Q.search(parameters) for name, _, parameters in ranges if name.strip() == media_type]
    return max((1.0 if each is None else float(each[1]) for each in found), default=0.0)


def prefers_csv(request: Request) -> bool:
    """Whether the sender wants CSV. Senders that accept anything get JSON."""
    return quality(request, CSV) > quality(request, "application/json")


def as_csv(kind: type[BaseModel], rows: Iterable[BaseModel], page: Response) -> Response:
    """Return rows as CSV (RFC 4180) with a header line and with the `Link` of the page.

    Texts that a spreadsheet would run as formulas get an apostrophe in front.
    """
    text = io.StringIO()
    writer = csv.writer(text)
    names = list(kind.model_fields)
    writer.writerow(names)
    for row in rows:
        values = row.model_dump(mode="json")
        writer.writerow([_cell(values[name]) for name in names])
    link = {"Link": page.headers["link"]} if "link" in page.headers else {}
    return Response(text.getvalue(), media_type=f"{CSV}; charset=utf-8", headers={"Vary": "Accept", **link})


def _cell(value: Any) -> Any:
    if isinstance(value, str):
        return f"'{value}" if value.startswith(_FORMULA) else value
    return json.dumps(value) if isinstance(value, dict | Sequence) else value
