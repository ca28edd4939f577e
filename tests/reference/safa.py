"""SAFA written out from Eq. 2 to 7: loops over pairs and elements, nothing shared with safa.

Only convolutions are torch's, and every number is a tensor without dimensions, so that autograd differentiates the
equations as they stand here. Rows are lists (n) of lists of numbers, features tensors (n, c, h, w), pairs lists of
(row, row). A block is the state dict of Conv-BN-ReLU-Conv, its layers numbered 0, 1 and 3.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import permutations, product

import torch
import torch.nn.functional as F
from torch import Tensor

Rows = list[list[Tensor]]
Pairs = list[tuple[int, int]]
Block = dict[str, Tensor]


def rows(features: Tensor) -> Rows:
    return [list(row) for row in features.double().flatten(1)]


# --- the terms ---------------------------------------------------------------------------------------------


def cycle_delta(read_back: Rows, delta: Rows, reduction: str = "mean") -> Tensor:
    """Eq. 4; with "mean" the mean over pairs of the root mean square, with "sum" as printed."""
    total = torch.zeros(())
    for a, b in zip(read_back, delta, strict=True):
        squares = torch.zeros(())
        for x, y in zip(a, b, strict=True):
            squares = squares + (x - y) ** 2
        total = total + (squares if reduction == "sum" else squares / len(a)) ** 0.5
    return total if reduction == "sum" else total / len(delta)


def cycle_features(rebuilt: Rows, target: Rows, reduction: str = "mean") -> Tensor:
    """Eq. 5; squared, over pairs and elements."""
    total, elements = torch.zeros(()), 0
    for a, b in zip(rebuilt, target, strict=True):
        for x, y in zip(a, b, strict=True):
            total = total + (x - y) ** 2
            elements += 1
    return total if reduction == "sum" else total / elements


def contrastive(logits: list[Tensor], same: list[bool], balanced: bool = True) -> Tensor:
    """Eq. 6; balanced, the mean of the two kinds' means, where a kind that is missing counts 0."""
    losses: dict[bool, list[Tensor]] = {True: [], False: []}
    for logit, y in zip(logits, same, strict=True):
        p = 1 / (1 + (-logit).exp())
        losses[y].append(-(y * p.log() + (1 - y) * (1 - p).log()))
    if balanced:
        return sum(sum(kind) / max(len(kind), 1) for kind in losses.values()) / 2
    return sum(losses[True] + losses[False]) / len(logits)


def distance(a: list[Tensor], b: list[Tensor]) -> Tensor:
    return sum(abs(x - y) for x, y in zip(a, b, strict=True)) / len(a)


def mode_seeking(input_a: Rows, input_b: Rows, output_a: Rows, output_b: Rows, ratio: str = "per_pair") -> Tensor:
    """Eq. 7 inverted, so that it is minimised; "batch" is the scalar of Mao et al.'s released code."""
    inputs, outputs, total = torch.zeros(3)
    for a, b, c, d in zip(input_a, input_b, output_a, output_b, strict=True):
        inputs = inputs + distance(a, b) / len(input_a)
        outputs = outputs + distance(c, d) / len(input_a)
        total = total + distance(a, b) / (distance(c, d) + 1e-5)
    return total / len(input_a) if ratio == "per_pair" else 1 / (outputs / inputs + 1e-5)


# --- the modules -------------------------------------------------------------------------------------------


def block(weights: Block, features: Tensor) -> Tensor:
    """Conv-BN-ReLU-Conv with the statistics of the batch."""
    padding = weights["0.weight"].shape[-1] // 2
    hidden = F.conv2d(features, weights["0.weight"], padding=padding)
    mean = hidden.mean(dim=(0, 2, 3), keepdim=True)
    variance = ((hidden - mean) ** 2).mean(dim=(0, 2, 3), keepdim=True)
    scale, shift = weights["1.weight"][:, None, None], weights["1.bias"][:, None, None]
    hidden = (hidden - mean) / (variance + 1e-5) ** 0.5 * scale + shift
    return F.conv2d(hidden * (hidden > 0), weights["3.weight"], weights["3.bias"], padding=padding)


def pair_logits(weights: Block, linear: tuple[Tensor, Tensor], pairs: Tensor) -> list[Tensor]:
    """Q: the block, the mean over positions, a fully connected layer to one number."""
    pooled = block(weights, pairs).mean(dim=(2, 3))
    return [(row * linear[0][0]).sum() + linear[1][0] for row in pooled]


@dataclass(frozen=True)
class Modules:
    """E, D and G, and what the readings say of them."""

    e: Block
    d: Block
    g: Block
    identity: bool = True
    floor: float | None = None

    def extract(self, difference: Tensor) -> Tensor:
        learnt = block(self.e, difference)
        return difference + learnt if self.identity else learnt

    def generate(self, delta: Tensor, sample: Tensor) -> Tensor:
        adapted = block(self.d, torch.cat([delta, sample], dim=1))
        if self.identity:
            adapted = delta + adapted
        generated = block(self.g, adapted + sample)
        if self.identity:
            generated = adapted + sample + generated
        return generated if self.floor is None else generated.clamp(min=self.floor)


# --- a step ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Step:
    """The equations on head pairs (i, j) and as many tail pairs (i, k), where k is i if it has none."""

    modules: Modules
    features: Tensor
    heads: Pairs
    tails: Pairs
    printed: bool = False

    def difference(self) -> Tensor:
        i, j = (torch.stack([self.features[pair[side]] for pair in self.heads]) for side in (0, 1))
        return i - j if self.printed else j - i

    def delta(self) -> Tensor:
        """Eq. 2."""
        return self.modules.extract(self.difference())

    def shared(self) -> list[int]:
        """Numbers of the pairs whose delta two tail features take."""
        return [p for p, (i, k) in enumerate(self.tails) if i != k]

    def sources(self) -> list[int]:
        """The real rows that are moved, first the i of all pairs, then the k of those that have one."""
        return [i for i, _ in self.tails] + [self.tails[p][1] for p in self.shared()]

    def generated(self) -> Tensor:
        """Eq. 3."""
        deltas = list(range(len(self.heads))) + self.shared()
        return self.modules.generate(self.delta()[deltas], self.features[self.sources()])

    def reconstruction(self, target: str = "partner", reduction: str = "mean") -> Tensor:
        """Eq. 4 and 5."""
        n = len(self.heads)
        source = torch.stack([self.features[i] for i, _ in self.tails])
        read_back = self.modules.extract(self.generated()[:n] - source)
        rebuilt = self.modules.generate(read_back, torch.stack([self.features[i] for i, _ in self.heads]))
        aim = [self.features[j if target == "partner" else i] for i, j in self.heads]
        of_delta = cycle_delta(rows(read_back), rows(self.delta()), reduction)
        return of_delta + cycle_features(rows(rebuilt), rows(torch.stack(aim)), reduction)

    def mode_seeking_tail(self, ratio: str = "per_pair") -> Tensor:
        """Eq. 7, left: one delta, two tail features."""
        n, real, made = len(self.heads), rows(self.features), rows(self.generated())
        pairs = [self.tails[p] for p in self.shared()]
        first, second = [real[i] for i, _ in pairs], [real[k] for _, k in pairs]
        return mode_seeking(first, second, [made[p] for p in self.shared()], made[n:], ratio)

    def mode_seeking_head(self, ratio: str = "per_pair", of: str = "shift") -> Tensor:
        """Eq. 7, right: a tail feature's shift against the head pair; or two deltas, one tail feature."""
        n, real, made = len(self.heads), rows(self.features), rows(self.generated())
        if of == "shift":
            i, j = [real[i] for i, _ in self.heads], [real[j] for _, j in self.heads]
            return mode_seeking(i, j, made[:n], [real[t] for t, _ in self.tails], ratio)
        reverse = self.modules.extract(-self.difference())
        back = self.modules.generate(reverse, torch.stack([self.features[t] for t, _ in self.tails]))
        return mode_seeking(rows(self.delta()), rows(reverse), made[:n], rows(back), ratio)


def pairings(labels: list[int], head: set[int]) -> Iterator[tuple[Pairs, Pairs]]:
    """All (heads, tails) that a batch of at most two rows per class allows, with as many tails as heads."""
    by_class = {c: [row for row, y in enumerate(labels) if y == c] for c in sorted(set(labels))}
    assert all(len(members) <= 2 for members in by_class.values())
    head_pairs = [members for c, members in by_class.items() if c in head and len(members) == 2]
    tail_pairs = [members if len(members) == 2 else 2 * members for c, members in by_class.items() if c not in head]
    for heads in product(*([(a, b), (b, a)] for a, b in head_pairs)):
        for chosen in permutations(tail_pairs, len(heads)):
            for tails in product(*({(a, b), (b, a)} for a, b in chosen)):
                for order in permutations(range(len(heads))):
                    yield [heads[p] for p in order], [tails[p] for p in order]
