"""Adapt a client from a folder, and plot what the report says about it.

    pip install ./deploy/client matplotlib
    python docs/examples/adapt_and_plot.py http://127.0.0.1:8000 line-7 data/demo/support report.png

The cells, marked with ``# %%``, run one by one in Jupyter, VS Code or Spyder.
"""

# %% Adapt: one sub-folder per class
from __future__ import annotations

import sys

import anole

url, client, folder, picture = sys.argv[1:5]
with anole.Client(url) as service:
    adapted = service.adapt(client, folder)
report = adapted.report

# %% What is known about the new version
print(f"version {adapted.version} of {client}: {report.gate.decision}, because {'; '.join(report.gate.reasons)}")
if report.estimated_accuracy is not None and report.interval is not None:
    low, high = report.interval
    print(f"estimated accuracy {report.estimated_accuracy:.1%}, 95 % interval {low:.1%} to {high:.1%}")
for suspect in report.suspects or ():
    print(f"is {suspect.sample} really {suspect.label}? It looks like {suspect.predicted}.")

# %% Plot: which classes cross-validation took for which
try:
    from matplotlib.figure import Figure
except ImportError:
    sys.exit("no plot was drawn, because matplotlib is missing; to get it: pip install matplotlib")
if report.confusion is None:
    sys.exit("no plot was drawn, because there was no cross-validation; give each class at least two images")
figure = Figure(figsize=(2 + len(adapted.classes), 2 + len(adapted.classes)), layout="constrained")
axes = figure.subplots()
axes.imshow(report.confusion, cmap="Blues")
for row, counts in enumerate(report.confusion):
    for column, count in enumerate(counts):
        axes.text(column, row, str(count), ha="center", va="center")
axes.set_xticks(range(len(adapted.classes)), adapted.classes, rotation=45, ha="right")
axes.set_yticks(range(len(adapted.classes)), adapted.classes)
axes.set_xlabel("predicted")
axes.set_ylabel("label")
axes.set_title(f"{client}, version {adapted.version}")
figure.savefig(picture)
print(f"the plot is in {picture}")
