"""Random pairs of rows of one batch, and the rows they name, without a loop over rows.

Pairs are drawn from torch's global generator on the CPU, out of labels on the CPU, and then ``placed`` on the device:
a seed gives the same pairs on every device, and matching waits for none. So are all numbers that an augmenter draws for
a batch or a row. Those for every element of features, ``Noise`` and dropout, are drawn where the features are: on
another device they are others, and so is what the CPU draws after them in that step, as the Delta-encoder's tail rows.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from safa.devices import CPU, placed
from safa.precision import lifted


@dataclass(frozen=True)
class Match:
    """Head pairs (i, j), and the tail pair (i, k) that each of them makes rows of; all are rows of one batch.

    Attributes:
        head_i, head_j: shape (n,); the two rows are of one head class.
        tail_i, tail_k: shape (n,); two rows of one class that is moved, or a row without a partner twice.
        partnered: the pairs whose tail rows are two, shape (m,).
    """

    head_i: Tensor
    head_j: Tensor
    tail_i: Tensor
    tail_k: Tensor
    partnered: Tensor

    @property
    def rows(self) -> Tensor:
        """Tail row of each of the n + m generated rows: ``tail_i`` of all pairs, then ``tail_k`` of the partnered."""
        return torch.cat([self.tail_i, self.tail_k[self.partnered]])

    @property
    def pairs(self) -> Tensor:
        """The pair that each of the n + m generated rows belongs to."""
        return torch.cat([torch.arange(len(self.head_i), device=self.partnered.device), self.partnered])

    def to(self, device: torch.device) -> Match:
        return Match(*placed(device, self.head_i, self.head_j, self.tail_i, self.tail_k, self.partnered))


def same_class_pairs(labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Pair the rows of every class at random, each row at most once.

    Args:
        labels: shape (n,), int64, on the CPU.

    Returns:
        (first, second, single): indices into ``labels``. ``labels[first] == labels[second]``; ``single`` are
        the rows left over, one for every class with an odd number of rows.
    """
    n = len(labels)
    shuffled = torch.randperm(n, device=CPU)
    order = shuffled[torch.argsort(labels[shuffled], stable=True)]
    grouped = labels[order]
    position = torch.arange(n, device=CPU)
    follows = torch.zeros(n, dtype=torch.bool, device=CPU)  # same class as the row before it
    follows[1:] = grouped[1:] == grouped[:-1]
    start = torch.where(follows, 0, position).cummax(0).values
    even = (position - start) % 2 == 0
    continued = follows.roll(-1)  # row 0 never follows, so the roll brings False to the last place
    paired = (even & continued).nonzero().squeeze(1)
    return order[paired], order[paired + 1], order[even & ~continued]


def rows_of(maps: Tensor, rows: Tensor) -> Tensor:
    """As ``maps[rows]`` for (n, c, h, w), in channels-last memory; ``rows`` has shape (m,), int64.

    The gradient of plain indexing is scattered element by element, that of ``index_select`` added row by row:
    together with the way there about three times faster on the CPU.
    """
    return maps.movedim(1, -1).index_select(0, rows).movedim(-1, 1)


def random_pairs(n: int) -> tuple[Tensor, Tensor]:
    """Split n rows at random into n // 2 pairs: two index tensors, shape (n // 2,)."""
    order = torch.randperm(n, device=CPU)
    return order[: n // 2], order[n // 2 : n // 2 * 2]


def spread(n: int, over: int) -> Tensor:
    """n random indices below ``over``, every one used before any is used once more, shape (n,)."""
    order = torch.randperm(over, device=CPU)
    return order[torch.arange(n, device=CPU) % over]


def match_tail_to_head(
    labels: Tensor,
    is_head: Tensor,
    positions: int,
    *,
    times: int = 1,
    shares: Tensor | None = None,
    heads_too: bool = False,
) -> Match | None:
    """Draw pairs of one class, and give every head pair a tail pair: all tail rows once before any twice.  [SAFA 4.1]

    Args:
        labels: shape (n,), int64, on the CPU.
        is_head: shape (n,), bool, on the CPU; which rows are of head classes.
        positions: of one feature, h * w. With a single one, SAFA's batch norm needs two head pairs.
        times: tail pairs that every head pair gets.
        shares: shape (k,), on the CPU. With them every head pair gets a tail pair whatever the others got, with a
            probability in proportion to the share of its class.
        heads_too: draw from the pairs of all classes, as if each were a tail class.

    Returns:
        None where nothing is to be generated, for want of head pairs or tail rows.
    """
    first, second, single = same_class_pairs(labels)
    head, is_moved = is_head[first], torch.ones_like(is_head) if heads_too else ~is_head
    moved, lonely = is_moved[first], single[is_moved[single]]
    head_i, head_j = first[head].repeat(times), second[head].repeat(times)
    tail_i, tail_k = torch.cat([first[moved], lonely]), torch.cat([second[moved], lonely])
    if len(head_i) < (1 if positions > 1 else 2) or len(tail_i) == 0:
        return None
    if shares is None:
        drawn = spread(len(head_i), len(tail_i))
    else:
        drawn = torch.multinomial(shares[labels[tail_i]], len(head_i), replacement=True)
    tail_i, tail_k = tail_i[drawn], tail_k[drawn]
    return Match(head_i, head_j, tail_i, tail_k, (tail_i != tail_k).nonzero().squeeze(1))


def with_nearest_head(match: Match, maps: Tensor) -> Match:
    """The match with each tail pair's head pair replaced by that whose first feature is nearest to ``tail_i``.

    Args:
        match: on the device of the features.
        maps: features of the batch, (b, c, h, w), compared by their means over positions.
    """
    means = lifted(maps.detach()).mean(dim=(2, 3))
    nearest = torch.cdist(means[match.tail_i], means[match.head_i]).argmin(dim=1)
    return replace(match, head_i=match.head_i[nearest], head_j=match.head_j[nearest])
