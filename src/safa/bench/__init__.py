"""How fast this library trains, and what every method costs, as ratios measured in one run: ``safa bench``."""

from safa.bench.command import run, run_methods

__all__ = ["run", "run_methods"]
