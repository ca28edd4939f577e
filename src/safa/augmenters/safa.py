"""SAFA: sample-adaptive feature augmentation.  [Hong et al., ECCV 2022]"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from safa.augmenters import terms
from safa.augmenters.layout import Layout, TailAugmenter, zero_beside, zero_of
from safa.augmenters.pairing import (
    Match,
    match_tail_to_head,
    random_pairs,
    rows_of,
    same_class_pairs,
    with_nearest_head,
)
from safa.augmenters.reading import Reading, chosen
from safa.classes import HEAD_RATIO
from safa.devices import CPU, placed
from safa.precision import lifted
from safa.types import Augmented
from safa.weighting import ClassCounts, checked_counts


class SAFA(TailAugmenter):
    """Learn how images of one head class differ, and move tail features by such deltas, adapted to each.

    E, D and G are Conv-BN-ReLU-Conv, Q has a pooled linear layer more. All exist in training only.

    Args:
        channels: c of the features: (n, c, h, w), (n, t, c) or (n, c).
        class_counts: training images per class, shape (k,): a list, array or tensor. The top ``head_ratio``
            of the classes by count are head classes, whatever their index; ties go to the lower index.
        head_ratio: beta of section 4.1; the paper's 0.2.
        layout: ``map`` for (n, c, h, w), ``tokens`` for (n, t, c), ``vector`` for (n, c).
        reading: a key of ``READINGS``, or a ``Reading``.
        choices: single fields of ``Reading`` that differ from it.

    Raises:
        UserError: if an option is unknown or out of range, or there are fewer than two classes.

    Not to be confused with RSG, which moves a tail feature by a head sample's variation without looking at
    the tail feature itself: SAFA's D sees it.
    """

    steps: Tensor

    def __init__(
        self,
        channels: int,
        class_counts: ClassCounts,
        *,
        head_ratio: float = HEAD_RATIO,
        layout: Layout = "map",
        reading: str | Reading = "measured",
        **choices: Any,
    ) -> None:
        super().__init__(channels, class_counts, head_ratio=head_ratio, layout=layout)
        self.reading, self.active = chosen(reading, choices), True
        self.learns_while_idle = self.reading.practice
        # No buffer, which would go to the device: pairs are drawn on the CPU.
        self.shares = _rarity(class_counts) if self.reading.tails == "classes" else None
        if self.reading.reach == "growing":  # how often rows were generated; saved, so that a resumed stage goes on
            self.register_buffer("steps", torch.zeros((), dtype=torch.long))
        identity, kernel = self.reading.start == "identity", self.kernel
        self.delta_extractor = _block(channels, channels, kernel, silent=identity)  # E
        self.delta_adapter = _block(2 * channels, channels, kernel, silent=identity)  # D
        self.generator = _block(channels, channels, kernel, silent=identity)  # G
        self.pair_classifier = _PairClassifier(channels, kernel) if self.reading.contrastive else None  # Q

    def forward(self, features: Tensor, labels: Tensor) -> Augmented:
        """Real rows in order, then the generated ones: none idle, in evaluation, or without head pair or tail row.

        Args:
            features: shape (n, c, h, w), (n, t, c) or (n, c), as ``layout`` says.
            labels: shape (n,), int64.

        Raises:
            UserError: if the features have another number of channels or dimensions than SAFA was built for.
        """
        maps = self.as_maps(features)
        if not (self.training and (self.active or self.learns_while_idle)):
            return Augmented(features, labels, zero_beside(features))
        source = maps.detach() if self.reading.detach else maps
        read, is_head = self.labels_and_heads(labels, len(features))
        positions = maps.shape[2] * maps.shape[3]
        reading = self.reading
        match = match_tail_to_head(
            read, is_head, positions, times=reading.deltas, shares=self.shares, heads_too=reading.moves == "all"
        )
        if match is None:
            return Augmented(features, labels, zero_of(self))
        read, match = torch.cat([read, read[match.rows]]), match.to(features.device)
        if self.reading.heads == "nearest":
            match = with_nearest_head(match, source)
        generated = self._generate(source, match)
        values, diagnostics = self._terms(source, generated, read)
        # Rows that are added touch E, D and G, and the contrastive term Q; in practice perhaps no term does.
        nothing = zero_beside(features) if self.active else zero_of(self)
        loss = sum((getattr(self.reading, name) * value for name, value in values.items()), nothing)
        logged = {name: value.detach() for name, value in values.items()}
        if not self.active:
            return Augmented(features, labels, loss, logged, diagnostics)
        new_labels = torch.cat([labels, labels[match.rows]])
        made = generated.features
        if self.reading.reach != "whole":
            share = self._share(generated)
            made, diagnostics = generated.on_the_way(share), {**diagnostics, "reach": share.mean()}
        rows = self.grown(features, made)
        return Augmented(rows, new_labels, loss, logged, diagnostics)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, reading={self.reading}"

    def extract(self, difference: Tensor) -> Tensor:
        """E: the delta of a pair of features from their difference, (n, c, h, w) -> (n, c, h, w).  [Eq. 2]"""
        learnt: Tensor = self.delta_extractor(difference)
        return difference + learnt if self.reading.start == "identity" else learnt

    def translate(self, delta: Tensor, sample: Tensor, floor: Tensor) -> Tensor:
        """G(D(delta, sample) + sample): move one sample along a delta adapted to it.  [Eq. 3]

        Args:
            delta, sample: shape (n, c, h, w).
            floor: scalar that no generated feature falls below.
        """
        return self.move(self.adapt(delta, sample), sample, floor)

    def adapt(self, delta: Tensor, sample: Tensor) -> Tensor:
        """D: a delta adapted to the sample it is to move, (n, c, h, w) each.  [Eq. 3, left]"""
        learnt: Tensor = self.delta_adapter(torch.cat([delta, sample], dim=1))
        return delta + learnt if self.reading.start == "identity" else learnt

    def move(self, adapted: Tensor, sample: Tensor, floor: Tensor) -> Tensor:
        """G: a sample moved by its adapted delta, (n, c, h, w) each, nowhere below the floor.  [Eq. 3, right]"""
        moved = adapted + sample
        generated: Tensor = self.generator(moved)
        if self.reading.start == "identity":
            generated = moved + generated
        if not self.reading.rectify:
            return generated
        # Not torch.maximum or where, whose gradients are ten times slower; lifted, for half precision would round what
        # is above the floor to the steps of numbers as large as the floor.
        return ((lifted(generated) - floor).relu() + floor).to(generated.dtype)

    def _generate(self, source: Tensor, match: Match) -> _Generated:
        """Both tail features of a pair take the same delta, so that L_ms^t can compare them."""
        sign = 1 if self.reading.direction == "to_partner" else -1
        difference = sign * (rows_of(source, match.head_j) - rows_of(source, match.head_i))
        delta = self.extract(difference)  # Eq. 2
        tail = rows_of(source, match.rows)
        floor = source.detach().amin()
        # Rows match.pairs of delta; taken at once, their gradients would add up to other bits than in recorded runs.
        taken = torch.cat([delta, rows_of(delta, match.partnered)])
        adapted = self.adapt(taken, tail)
        features, watched = self.move(adapted, tail, floor), _adaptation(taken, adapted, tail)  # Eq. 3
        return _Generated(match, features, tail, delta, difference, floor, watched)

    def _terms(
        self, source: Tensor, generated: _Generated, labels: Tensor
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Unweighted terms of Eq. 1 that have a weight and something to be computed on; then the diagnostics.

        ``labels`` are those of the grown batch, on the CPU.
        """
        reading, values, diagnostics = self.reading, {}, generated.diagnostics
        if reading.reconstruction:
            values["reconstruction"] = self._reconstruction(source, generated)
        if reading.mode_seeking_tail and len(generated.match.partnered):
            values["mode_seeking_tail"] = self._mode_seeking_tail(generated)
        if reading.mode_seeking_head:
            values["mode_seeking_head"] = self._mode_seeking_head(source, generated)
        if self.pair_classifier is not None:
            features = torch.cat([source, generated.features.to(source.dtype)])
            values["contrastive"], accuracy = self._contrastive(features, labels, len(source))
            diagnostics = {**diagnostics, **accuracy}
        return values, diagnostics

    def _reconstruction(self, source: Tensor, generated: _Generated) -> Tensor:
        """L_r: read the delta back from what it generated, and move the head feature by it.  [Eq. 4, 5]"""
        n, match = len(generated.delta), generated.match
        read_back = self.extract(generated.features[:n] - generated.tail[:n])
        rebuilt = self.translate(read_back, rows_of(source, match.head_i), generated.floor)
        target = rows_of(source, match.head_j if self.reading.target == "partner" else match.head_i)
        reduction = self.reading.reduction
        of_delta = terms.cycle_delta(read_back, generated.delta, reduction)
        return of_delta + terms.cycle_features(rebuilt, target, reduction)

    def _mode_seeking_tail(self, generated: _Generated) -> Tensor:
        """L_ms^t: one delta, two tail features of one class.  [Eq. 7]"""
        n, pairs = len(generated.delta), generated.match.partnered
        features, tail = generated.features, generated.tail
        return self._ratio(rows_of(tail, pairs), tail[n:], rows_of(features, pairs), features[n:])

    def _mode_seeking_head(self, source: Tensor, generated: _Generated) -> Tensor:
        """L_ms^h: the tail feature moves as far as the head pair lies apart.  [Eq. 7]"""
        n = len(generated.delta)
        if self.reading.head_ratio_of == "shift":
            heads = rows_of(source, generated.match.head_i), rows_of(source, generated.match.head_j)
            return self._ratio(*heads, generated.features[:n], generated.tail[:n])
        reverse = self.extract(-generated.difference)
        back = self.translate(reverse, generated.tail[:n], generated.floor)
        return self._ratio(generated.delta, reverse, generated.features[:n], back)

    def _ratio(self, input_a: Tensor, input_b: Tensor, output_a: Tensor, output_b: Tensor) -> Tensor:
        per_pair = self.reading.ratio == "per_pair"
        form = terms.mode_seeking if per_pair else terms.mode_seeking_over_batch
        return form(input_a, input_b, output_a, output_b)

    def _contrastive(self, features: Tensor, labels: Tensor, real: int) -> tuple[Tensor, dict[str, Tensor]]:
        """L_c over s/2 pairs of real head, real tail and generated features, and how often Q is right.  [Eq. 6]"""
        assert self.pair_classifier is not None
        first, second = random_pairs(len(labels))
        balanced = self.reading.pairs == "balanced"
        if balanced:  # half of the random pairs give way to same-class pairs
            same_first, same_second, _ = same_class_pairs(labels)
            half = len(first) // 2
            some = torch.randperm(len(same_first), device=CPU)[:half]
            first = torch.cat([first[half:], same_first[some]])
            second = torch.cat([second[half:], same_second[some]])
        same, generated = placed(features.device, labels[first] == labels[second], torch.maximum(first, second) >= real)
        (rows,) = placed(features.device, torch.cat([first, second]))
        logits = self.pair_classifier(torch.cat(rows_of(features, rows).chunk(2), dim=1))
        return terms.contrastive(logits, same, balanced), _accuracy(logits, same, generated)

    def _share(self, generated: _Generated) -> Tensor:
        """How much of the way from its sample to what was generated of it each row goes, shape (m,).

        A growing reach takes its next step by it, unless rows are only looked at, without gradients.
        """
        if self.reading.reach == "drawn":
            return generated.drawn_share()
        if self.reading.reach == "judged":
            return self._judged_share(generated)
        self.steps += torch.is_grad_enabled()
        return (self.steps / self.reading.growing_steps).clamp(max=1).expand(len(generated.tail))

    @torch.no_grad()
    def _judged_share(self, generated: _Generated) -> Tensor:
        """How probable Q finds it that each row is of the class of the sample it was made from, shape (m,)."""
        assert self.pair_classifier is not None
        tail = generated.tail
        logits: Tensor = self.pair_classifier(torch.cat([tail, generated.features.to(tail.dtype)], dim=1))
        return lifted(logits).sigmoid()


@dataclass(frozen=True)
class _Generated:
    """Generated features and their origin: n head pairs give n rows, then one more per partnered tail row.

    Row p < n of ``features`` is ``tail_i`` of pair p moved by delta p; row n + q is ``tail_k`` of the pair
    ``partnered[q]`` of the match, moved by the same delta. ``diagnostics`` says what D made of the deltas.
    """

    match: Match
    features: Tensor
    tail: Tensor
    delta: Tensor
    difference: Tensor
    floor: Tensor
    diagnostics: dict[str, Tensor]

    def drawn_share(self) -> Tensor:
        """For each row a share of its own of the way from the sample to what was generated of it, shape (m,)."""
        (share,) = placed(self.tail.device, torch.rand(len(self.tail), device=CPU))
        return share

    def on_the_way(self, share: Tensor) -> Tensor:
        """Each row at its share of the way from the sample to what was generated of it."""
        features = self.features.to(self.tail.dtype)  # under autocast the modules may give another than they were given
        return torch.lerp(self.tail, features, share.to(self.tail.dtype)[:, None, None, None])


@torch.no_grad()
def _adaptation(delta: Tensor, adapted: Tensor, tail: Tensor) -> dict[str, Tensor]:
    """How D changes a delta: mean |adapted delta| over mean |tail feature|, and its cosine with the delta.

    Args:
        delta, adapted, tail: shape (n, c, h, w).
    """
    # In the order that they have in memory, for another is a copy of all.
    delta, adapted, tail = (lifted(maps).movedim(1, -1).flatten(1) for maps in (delta, adapted, tail))
    return {
        "delta_size": adapted.abs().mean() / tail.abs().mean(),
        "delta_cosine": F.cosine_similarity(delta, adapted).mean(),
    }


@torch.no_grad()
def _accuracy(logits: Tensor, same: Tensor, generated: Tensor) -> dict[str, Tensor]:
    """In how many per cent Q is right on pairs of real features, and on pairs that hold a generated one.

    Args:
        logits: shape (n,), of the two features belonging to one class.
        same, generated: shape (n,), bool: who is of one class, who holds a generated feature.

    Reading:
        Same-class pairs and others weigh alike, as in ``terms.contrastive``: the two kinds hold different shares of
        them, and so whoever guesses has 50 on both. A kind that lacks one of them has NaN.
    """
    right = (logits > 0) == same

    def share(pairs: Tensor) -> Tensor:
        return 100 * (right & pairs).sum() / pairs.sum()

    return {
        f"pair_accuracy_{name}": (share(kind & same) + share(kind & ~same)) / 2
        for name, kind in (("real", ~generated), ("generated", generated))
    }


class _PairClassifier(nn.Module):
    """Q: logit of two features, concatenated by channel, belonging to one class."""

    def __init__(self, channels: int, kernel: int) -> None:
        super().__init__()
        self.block = _block(2 * channels, channels, kernel, silent=False)
        self.fc = nn.Linear(channels, 1)

    def forward(self, pairs: Tensor) -> Tensor:
        """(n, 2c, h, w) -> (n,)."""
        logits: Tensor = self.fc(self.block(pairs).mean(dim=(2, 3)))
        return logits.squeeze(1)


def _block(inputs: int, outputs: int, kernel: int, *, silent: bool) -> nn.Sequential:
    """Conv-BN-ReLU-Conv [section 3.1]; silent, it starts at 0 and a residual around it as the identity."""
    last = nn.Conv2d(outputs, outputs, kernel, padding=kernel // 2)
    if silent:
        for parameter in last.parameters():
            nn.init.zeros_(parameter)
    first = nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, bias=False)
    return nn.Sequential(first, nn.BatchNorm2d(outputs), nn.ReLU(inplace=True), last)


def _rarity(class_counts: ClassCounts) -> Tensor:
    """In inverse proportion to the training images of each class, shape (k,), on the CPU."""
    return 1 / torch.tensor(checked_counts(class_counts, least=0), device=CPU).clamp(min=1)
