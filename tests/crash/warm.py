"""What the process that all others are forked from has done before: one short life, so that theirs begin at once.

Importing it does so; it is named to the fork server alone.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from tests.crash.judge import Said, judge
from tests.crash.life import Life, live
from tests.crash.statements import keep_statements
from tests.crash.steps import EVERY_KIND

keep_statements()
with tempfile.TemporaryDirectory(prefix="anole-crash-") as _folder:
    _said: list[Said] = []
    live(Life(Path(_folder), {}, kinds=EVERY_KIND), _said.append)
    judge(Path(_folder), {}, _said)
