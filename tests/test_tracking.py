"""The log's figures as scalars."""

from __future__ import annotations

from safa.tracking import TensorBoard


class Written:
    """In the place of TensorBoard's writer: keeps what it is given."""

    def __init__(self) -> None:
        self.scalars: dict[str, tuple[float, int]] = {}
        self.flushed = 0

    def add_scalar(self, name: str, value: float, step: int) -> None:
        self.scalars[name] = (value, step)

    def flush(self) -> None:
        self.flushed += 1


def test_every_figure_of_an_entry_is_written_once_under_its_kind_and_none_that_it_lacks():
    board = TensorBoard.__new__(TensorBoard)
    board.writer = written = Written()
    board.add(
        {
            "epoch": 7,
            "loss": 2.5,
            "lr": 0.1,
            "terms": {"classification": 2.0, "contrastive": 0.5},
            "diagnostics": {"delta_size": 1.5, "delta_cosine": None},
            "test": {"error": 30.0, "error_few": None},
        }
    )
    assert written.scalars == {
        "train/loss": (2.5, 7),
        "train/lr": (0.1, 7),
        "train/classification": (2.0, 7),
        "train/contrastive": (0.5, 7),
        "diagnostics/delta_size": (1.5, 7),
        "test/error": (30.0, 7),
    }
    assert written.flushed == 1
    board.add({"epoch": 8, "loss": 2.0, "lr": 0.1, "terms": {}, "test": None})
    assert written.scalars["train/loss"] == (2.0, 8)
