"""How fast this library trains, as ratios measured in one run: what ``safa bench`` prints."""

from safa.bench.command import run

__all__ = ["run"]
