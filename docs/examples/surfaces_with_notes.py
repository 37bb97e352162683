"""Write pictures with notes to try: one generated product line, to teach and to classify.

    .venv/bin/python docs/examples/surfaces_with_notes.py data/notes

The folder gets `support` and `queries`, each with one sub-folder per class and a table of notes beside it. The pictures
show the kind of the defect, the notes say on which side of the part it is, and a class is both.
"""

from __future__ import annotations

import csv
import sys
from pathlib import Path

from PIL import Image

from models.data.synthetic.noted_surfaces import CLASSES_PER_LINE, TEST_SIDES, NotedSurfaces

SUPPORT, QUERIES = 10, 3
folder = Path(sys.argv[1])
# The lines that `anole evaluate --dataset surface-notes` draws: no training line has their words. This is the first.
line = NotedSurfaces(side=128, seed=1, lines=1, sides=TEST_SIDES, invented=0)

for part, first, count in (("support", 0, SUPPORT), ("queries", SUPPORT, QUERIES)):
    rows = []
    for number in range(CLASSES_PER_LINE):
        kind, side = line.class_names[number].partition("/")[2].split(", ")  # such as line000/pit 2, left
        label = f"{kind.rstrip(' 0123456789')}-{side}"
        (folder / part / label).mkdir(parents=True, exist_ok=True)
        images, notes = line.images(number), line.notes(number)
        for index in range(first, first + count):
            name = f"{number}-{index:02d}.png"
            Image.fromarray(images[index, 0].numpy()).save(folder / part / label / name)
            rows.append({"file": name, "text": notes[index]})
    with (folder / f"{part}.csv").open("w", encoding="utf-8", newline="") as table:
        writer = csv.DictWriter(table, ["file", "text"])
        writer.writeheader()
        writer.writerows(rows)
print(f"{folder} has {SUPPORT} + {QUERIES} pictures with notes of each of {CLASSES_PER_LINE} classes")
