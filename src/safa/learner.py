"""What learns in a run, stage by stage and step by step. Knows protocols and names from the catalog, no method."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from safa import assembly
from safa import recipe as recipes
from safa.averaging import moving_average
from safa.errors import UserError
from safa.parts import Parts
from safa.plan import Epoch, optimizer_of
from safa.plugin import PlugIn
from safa.seeding import seed_for
from safa.sums import Sums, assigned, weighing
from safa.types import Lookahead, Output, Refitted


class DivergedError(UserError):
    """A loss or a weight is not finite; the message names it. Whoever trains knows the epoch and what was saved."""


class Learner:
    """The network and all that learns with it, as the stage in force has them.

    Args:
        parts: builds what the recipe names.

    Attributes:
        model: the network as it is trained.
        augmenter, reweighter: those of the stage; None where it names none.
        average: the moving average of the network's weights, in a stage that takes one.
        stage: the stage in force; None before the first.
        plug_before: the layer that the augmenter stands before.
        batches: the stage's training batches.
        plug, optimizer: of network and augmenter, as Accelerate has wrapped them.
    """

    def __init__(self, parts: Parts) -> None:
        self.parts, self.recipe, self.data = parts, parts.recipe, parts.data
        self.accelerator, self.device = parts.accelerator, parts.device
        self.model = parts.network()
        self.augmenter: Any = None
        self.reweighter: Any = None
        self.average: AveragedModel | None = None
        self.stage: recipes.Stage | None = None
        self.plug_before: str | None = None
        self._restored_optimizer: dict[str, Any] | None = None  # its state, until a stage takes it

    @property
    def tested(self) -> nn.Module:
        """The network as it is tested: the average of its weights in a stage that takes one."""
        return self.model if self.average is None else self.average.module

    # -- steps ---------------------------------------------------------------------------------------------------

    def steps(self, epoch: Epoch, first: int, sums: Sums) -> Iterator[None]:
        """Train the epoch from one of its steps on, a step for every item; its stage must have been entered.

        Args:
            epoch: which one.
            first: the step to begin with.
            sums: gets terms, diagnostics and the number of images of every step.

        Raises:
            DivergedError: before the update with a loss that is not finite; on an accelerator such a loss goes by here,
                since a look waits for the device, and ``refuse_broken`` finds it.
        """
        self.plug.train()
        assembly.train_mode(self.model, epoch.stage.trainable)
        for group in self.optimizer.param_groups:
            group["lr"] = epoch.lr * group["lr_scale"]
        if self.reweighter is not None:
            self._meta_batches = self.parts.meta_batches(epoch.index * len(self.batches) + first)
        for step, (images, labels) in enumerate(self.batches.epoch(epoch.index, first), first):
            # Dropout and SAFA's pairing draw from the global generator; set per step, a run resumes at any step.
            torch.manual_seed(seed_for(self.recipe.seed, "step", epoch.index, step, self.accelerator.process_index))
            self._step(epoch, images, labels, sums)
            sums.images += len(images) * self.accelerator.num_processes
            yield

    def _step(self, epoch: Epoch, images: Tensor, labels: Tensor, sums: Sums) -> None:
        weights = self._image_weights(epoch, images, labels, sums) if self.reweighter is not None else None
        output: Output = self.plug(images, labels)
        classification = self.criterion(output.logits, output.labels)
        if weights is not None:
            classification = (weights * classification).sum()
        loss = classification + output.loss
        sums.add({"classification": classification.detach(), **output.terms}, loss.detach())
        sums.watch({**output.diagnostics, **assigned(output, len(images))})
        if self.device.type == "cpu":
            _refuse_broken_terms(sums)
        self.optimizer.zero_grad(set_to_none=True)
        self.accelerator.backward(loss)
        if self.recipe.clip is not None:
            self._clip(self.recipe.clip)
        self.optimizer.step()
        if self.average is not None:
            self.average.update_parameters(self.model)

    def _clip(self, largest: float) -> None:
        """Bound the norms of the network's gradient and of the augmenter's, each on its own.

        In one norm for both, an augmenter whose gradient is the longer one would take the network's steps away, and a
        comparison would be one of step lengths. What a stage holds still may keep the gradient of the stage before.
        """
        self.accelerator.unscale_gradients()
        for part in (self.model, self.augmenter):
            if part is not None:
                torch.nn.utils.clip_grad_norm_([p for p in part.parameters() if p.requires_grad], largest)

    def _image_weights(self, epoch: Epoch, images: Tensor, labels: Tensor, sums: Sums) -> Tensor:
        """One weight per image, learnt by looking one step ahead on the next batch of the meta set."""
        meta_images, meta_labels = next(self._meta_batches)
        with self.accelerator.autocast():
            look = Lookahead(self.model, self.criterion, images, labels, meta_images, meta_labels, epoch.lr)
            weights: Tensor = self.reweighter(look)
        if weights.shape != (len(images),):
            name = type(self.reweighter).__name__
            raise UserError(f"{name} must give one weight per image, {(len(images),)}; it gives {tuple(weights.shape)}")
        weights = weights.detach()
        sums.watch(weighing(weights))
        return weights

    def refuse_broken(self, sums: Sums) -> None:
        """Look at the losses so far, and at the weights, which an update can break after a last finite loss.

        Raises:
            DivergedError: with the first that is not finite, so that a good checkpoint outlives it.
        """
        _refuse_broken_terms(sums)
        parts = {"network": self.model, **({"augmenter": self.augmenter} if self.augmenter is not None else {})}
        for part, module in parts.items():
            for name, value in module.state_dict().items():
                if isinstance(value, Tensor) and not torch.isfinite(value).all():  # others are a module's extra state
                    raise DivergedError(f"{name!r} of the {part} is not finite")

    # -- stages --------------------------------------------------------------------------------------------------

    def enter_up_to(self, plan: Iterable[Epoch], stage_index: int) -> Epoch:
        """Enter one stage after the other up to this one without a step in between; returns its first epoch."""
        begun = [epoch for epoch in plan if epoch.first and epoch.stage_index <= stage_index]
        for epoch in begun:
            self.enter(epoch)
        return begun[-1]

    def enter(self, epoch: Epoch, *, resumed: bool = False) -> None:
        """Build what the epoch's stage names; carry on with what it has in common with the stage before.

        Args:
            epoch: the first of the stage; resumed, any of it.
            resumed: the stage was entered before the state was saved that ``restore`` was given.
        """
        stage, former = epoch.stage, self.stage
        self.batches = self.parts.training_batches(stage)
        anew = not resumed and self._change_augmenter(stage, epoch.index)
        # Taken while the parameters that learn are still those of the stage before.
        momentum = self._momentum(of_network_alone=anew)
        if not resumed:
            self._change_head(epoch)
            if former is None or former.reweighting != stage.reweighting:
                self.reweighter = self.parts.reweighter(stage, epoch.index)
            self.average = self._average(stage)
        head = assembly.head_of(self.model)
        self.criterion = assembly.criterion(stage, self.data.class_counts, head).to(self.device)
        self._set_augmenter(stage)
        assembly.set_trainable(self.model, stage.trainable)
        bare = PlugIn(self.model, self.plug_before, self.augmenter)
        other = stage.head is not None or (former is not None and former.trainable != stage.trainable)
        restart = not resumed and (stage.optimizer is not None or other)
        optimizer = self._optimizer(epoch, None if restart else momentum)
        self.accelerator.free_memory()  # forget the wrapping of the stage before
        self.plug, self.optimizer = self.accelerator.prepare(bare, optimizer)
        self.stage = stage

    def leave(self) -> None:
        """End the stage: where it takes an average of the weights, this is the network from now on."""
        if self.average is not None:
            self.model.load_state_dict(self.average.module.state_dict())
            self.average = None

    def _change_augmenter(self, stage: recipes.Stage, index: int) -> bool:
        """Keep the augmenter while its recipe stays the same; else build a new one. Whether it is another now."""
        former = self.stage.augmenter if self.stage else None
        if stage.augmenter == former:
            return False
        self.augmenter = self.parts.augmenter(stage.augmenter, self.model, index)
        return True

    def _set_augmenter(self, stage: recipes.Stage) -> None:
        """Let the augmenter learn and generate as the stage says, and sit where it says."""
        self.plug_before = stage.augmenter.before if stage.augmenter else None
        if self.augmenter is not None:
            # DDP waits for the gradient of every parameter that can have one; an idle augmenter's get none. Set first,
            # since an augmenter may freeze a part of itself when it becomes active.
            self.augmenter.requires_grad_(stage.generate or self.augmenter.learns_while_idle)
            self.augmenter.active = stage.generate

    def _change_head(self, epoch: Epoch) -> None:
        """The stage's own classifier, if it names one, made from the former one where it wants that."""
        if epoch.stage.head is None:
            return
        head, former = self.parts.head(epoch.stage.head, self.model, epoch.stage_index), assembly.head_of(self.model)
        if isinstance(head, Refitted) and former is not None:
            head.refit(former, self.parts.fitting(self.model))
        self._set_head(head)

    def _set_head(self, head: nn.Module) -> None:
        self.model.add_module(assembly.HEAD, head.to(self.device))

    def _average(self, stage: recipes.Stage) -> AveragedModel | None:
        epochs = stage.averaged_epochs
        return None if epochs is None else moving_average(self.model, epochs * len(self.parts.sampler(stage)))

    def _momentum(self, *, of_network_alone: bool) -> dict[str, Any] | None:
        """State of the optimizer so far, restored or of the stage before; a new augmenter starts without any."""
        state, self._restored_optimizer = self._restored_optimizer, None
        if state is None and self.stage is not None:
            state = self.optimizer.state_dict()
        if state is None or not of_network_alone:
            return state
        parameters = len(self._learning())  # they come first; the former augmenter's are dropped
        return {"state": {i: s for i, s in state["state"].items() if i < parameters}}

    def _optimizer(self, epoch: Epoch, momentum: dict[str, Any] | None) -> torch.optim.Optimizer:
        groups: list[dict[str, Any]] = [{"params": self._learning(), "lr_scale": 1.0}]
        if self.augmenter is not None:
            scale = epoch.stage.augmenter.lr_scale if epoch.stage.augmenter else 1.0
            groups.append({"params": list(self.augmenter.parameters()), "lr_scale": scale})
        optimizer = assembly.optimizer(optimizer_of(self.recipe, epoch.stage_index), epoch.lr, groups)
        if momentum is not None:
            groups = optimizer.state_dict()["param_groups"]
            optimizer.load_state_dict({"state": momentum["state"], "param_groups": groups})
        return optimizer

    def _learning(self) -> list[nn.Parameter]:
        return [parameter for parameter in self.model.parameters() if parameter.requires_grad]

    # -- state ---------------------------------------------------------------------------------------------------

    def state(self) -> dict[str, Any]:
        """Tensors and plain containers from which training goes on bit for bit."""
        return {
            "model": self.tested.state_dict(),
            "trained": self.model.state_dict() if self.average is not None else None,
            "augmenter": self.augmenter.state_dict() if self.augmenter is not None else None,
            "reweighter": self.reweighter.state_dict() if self.reweighter is not None else None,
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.accelerator.scaler.state_dict() if self.accelerator.scaler is not None else None,
        }

    def restore(self, state: dict[str, Any], last: Epoch, *, within: bool) -> None:
        """Take up a state of the epoch ``last``; ``within`` its stage, where that has not ended with it."""
        head = self.recipe.model_in(last.stage_index).head
        if head != self.recipe.model.head:
            self._set_head(self.parts.head(head, self.model, last.stage_index))
        self._load_weights(state, last.stage)
        assembly.set_trainable(self.model, last.stage.trainable)
        self._restored_optimizer = state["optimizer"]
        if self.accelerator.scaler is not None and state["scaler"] is not None:
            self.accelerator.scaler.load_state_dict(state["scaler"])
        self.augmenter = self.parts.augmenter(last.stage.augmenter, self.model, 0)
        if self.augmenter is not None:
            self.augmenter.load_state_dict(state["augmenter"])
        self.reweighter = self.parts.reweighter(last.stage, 0)
        if self.reweighter is not None:
            self.reweighter.load_state_dict(state["reweighter"])
        if within:
            self.enter(last, resumed=True)
        else:
            self.stage = last.stage
            self._set_augmenter(last.stage)

    def _load_weights(self, state: dict[str, Any], stage: recipes.Stage) -> None:
        trained = state.get("trained")
        self.model.load_state_dict(state["model"] if trained is None else trained)
        if trained is not None:
            self.average = self._average(stage)
            assert self.average is not None
            self.average.module.load_state_dict(state["model"])
            self.average.n_averaged.fill_(1)  # with none yet, the next step would replace the average


def _refuse_broken_terms(sums: Sums) -> None:
    broken = sums.broken()
    if broken is not None:
        raise DivergedError(f"the loss term {broken!r} is not finite")
