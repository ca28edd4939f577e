"""What each command of ``safa.cli`` does. It imports what it needs when it runs: the quick ones stay quick."""

from safa.commands.inspecting import bench, data, list_names
from safa.commands.reporting import report
from safa.commands.trained import evaluate, export, predict
from safa.commands.training import compare, train

__all__ = ["bench", "compare", "data", "evaluate", "export", "list_names", "predict", "report", "train"]
