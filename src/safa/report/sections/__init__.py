"""The sections of the page in reading order, each from a comparison to HTML."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from safa.report.comparison import Comparison
from safa.report.sections.classes import accuracy, changes
from safa.report.sections.features import features
from safa.report.sections.generated import generated
from safa.report.sections.mistakes import mistakes
from safa.report.sections.settings import settings
from safa.report.sections.summary import summary
from safa.report.sections.tail import tail
from safa.report.sections.training import training


@dataclass(frozen=True)
class Section:
    """A section of the page: its anchor, its title, and what it is made of."""

    anchor: str
    title: str
    body: Callable[[Comparison], str]


SECTIONS = (
    Section("summary", "Error by group", summary),
    Section("tail", "The tail", tail),
    Section("classes", "Accuracy per class", accuracy),
    Section("changes", "What changed per class", changes),
    Section("training", "Training", training),
    Section("mistakes", "What the rare classes are mistaken for", mistakes),
    Section("features", "Features, real and generated", features),
    Section("generated", "What generated features are worth", generated),
    Section("settings", "Settings and provenance", settings),
)
