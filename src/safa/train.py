"""Stages of epochs of batches on Accelerate. Knows protocols and names from the catalog, no method."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from safa import assembly, checkpoint, evaluate, files, provenance
from safa import recipe as recipes
from safa.averaging import moving_average
from safa.checkpoint import CHECKPOINT
from safa.data.batches import Batches
from safa.data.dataset import LongTailed
from safa.devices import wait
from safa.errors import UserError
from safa.parts import Parts
from safa.plan import Epoch, ends_of_stages, epochs_of, optimizer_of, start_key
from safa.plugin import PlugIn
from safa.progress import Progress
from safa.seeding import seed_for
from safa.stop import StopRequest
from safa.sums import Sums, assigned, weighing
from safa.tracking import TensorBoard
from safa.types import Lookahead, Output, Refitted

ASKED_EVERY = 20
"""Steps after which several processes on accelerators agree on whether to stop, since the answer waits for them all."""


class Stopped(Exception):  # noqa: N818  (not an error: what the user asked for)
    """Training was asked to stop and has saved its state; ``signal_number`` says by which signal."""

    def __init__(self, message: str, stop: StopRequest) -> None:
        super().__init__(message)
        # Of several processes perhaps only another one was asked.
        self.signal_number = stop.signal_number or int(signal.SIGTERM)


class Trainer:
    """One run: builds what the recipe names, trains stage after stage, and leaves a checkpoint after every epoch.

    Args:
        recipe: what to train.
        data: its images.
        folder: where the run's files go.
        accelerator: device, processes and precision.
        cache: states shared between runs; none when empty.
        save_at: addresses of epochs to put into the cache besides the ends of stages.
        workers: processes that decode images which do not fit in memory.
        track: write what the log holds to TensorBoard as well.
        progress: where progress is shown.
    """

    def __init__(
        self,
        recipe: recipes.Recipe,
        data: LongTailed,
        folder: Path,
        accelerator: Accelerator,
        *,
        cache: checkpoint.StageCache | None = None,
        save_at: Iterable[str] = (),
        workers: int = 0,
        track: bool = False,
        progress: Progress | None = None,
    ) -> None:
        self.recipe, self.data, self.folder = recipe, data, folder
        self.accelerator, self.cache = accelerator, cache
        self.device = accelerator.device
        self.progress = progress or Progress(shown=False)
        self.plan = epochs_of(recipe, data.facts(), accelerator.num_processes)
        self.save_at = ends_of_stages(self.plan) | set(save_at)
        self.parts = Parts(recipe, data, accelerator, workers)
        self.model = self.parts.network()
        self.augmenter: Any = None
        self.reweighter: Any = None
        self.average: AveragedModel | None = None
        self.restored_optimizer: dict[str, Any] | None = None  # its state, until a stage takes it
        self.history: list[dict[str, Any]] = []
        self.reused_epochs = 0
        self.reused_of: dict[str, Any] = {}  # what made the epochs that the cache gave, where the state says so
        self.done = 0  # whole epochs
        self.step = 0  # steps of the epoch in hand
        self.sums = Sums()
        self.stage: recipes.Stage | None = None
        self.plug_before: str | None = None
        self._splits: dict[str, Batches] = {}
        self._tracker = TensorBoard(folder) if track and accelerator.is_main_process else None

    # -- the flow ------------------------------------------------------------------------------------------------

    def run(self) -> None:
        """Train what is left of the plan; raises ``Stopped`` when a signal asks for an end.

        ``parts.try_all`` finds beforehand what would stop a later stage.
        """
        if self.accelerator.is_main_process:
            files.remove_halves(self.folder)
        self._begin()
        self._write_log()
        with StopRequest() as stop, self.progress:
            self.progress.start(self.recipe.method, len(self.plan), self.done)
            for epoch in self.plan[self.done :]:
                if self.stage is None or (epoch.first and self.step == 0):
                    self._enter(epoch)
                if epoch.trains:
                    self._train_epoch(epoch, stop)
                self._finish_epoch(epoch)
                if self._agreed(stop):
                    raise Stopped(f"stopped after epoch {epoch.index}", stop)

    def _train_epoch(self, epoch: Epoch, stop: StopRequest) -> None:
        self.progress.epoch(epoch.index, len(self.batches), self.step)
        started = time.perf_counter()
        for _ in self.steps(epoch):
            self.progress.step(self.sums.images)
            # After the last step the epoch is whole; it is kept as such before the run stops.
            if self.step < len(self.batches) and self._agreed(stop):
                self.sums.seconds += self._seconds_since(started)
                self._refuse_broken_weights(epoch)
                self._save(epoch)
                raise Stopped(f"stopped in epoch {epoch.index} after step {self.step - 1}", stop)
        self.sums.seconds += self._seconds_since(started)

    def _seconds_since(self, started: float) -> float:
        wait(self.device)
        return time.perf_counter() - started

    def steps(self, epoch: Epoch) -> Iterator[None]:
        """Train the epoch from the step in hand on, a step for every item; its stage must have been entered."""
        self.plug.train()
        assembly.train_mode(self.model, epoch.stage.trainable)
        for group in self.optimizer.param_groups:
            group["lr"] = epoch.lr * group["lr_scale"]
        if self.reweighter is not None:
            self.meta_batches = self.parts.meta_batches(epoch.index * len(self.batches) + self.step)
        for images, labels in self.batches.epoch(epoch.index, self.step):
            self._train_step(epoch, images, labels)
            self.step += 1
            self.sums.images += len(images) * self.accelerator.num_processes
            yield

    def _train_step(self, epoch: Epoch, images: Tensor, labels: Tensor) -> None:
        # Dropout and SAFA's pairing draw from the global generator; set per step, a run resumes at any step.
        torch.manual_seed(seed_for(self.recipe.seed, "step", epoch.index, self.step, self.accelerator.process_index))
        weights = self._image_weights(epoch, images, labels) if self.reweighter is not None else None
        output: Output = self.plug(images, labels)
        classification = self.criterion(output.logits, output.labels)
        if weights is not None:
            classification = (weights * classification).sum()
        loss = classification + output.loss
        self.sums.add({"classification": classification.detach(), **output.terms}, loss.detach())
        self.sums.watch({**output.diagnostics, **assigned(output, len(images))})
        self._refuse_nan(epoch, loss)
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

    def _image_weights(self, epoch: Epoch, images: Tensor, labels: Tensor) -> Tensor:
        """One weight per image, learnt by looking one step ahead on the next batch of the meta set."""
        meta_images, meta_labels = next(self.meta_batches)
        with self.accelerator.autocast():
            look = Lookahead(self.model, self.criterion, images, labels, meta_images, meta_labels, epoch.lr)
            weights: Tensor = self.reweighter(look)
        self.sums.watch(weighing(weights))
        return weights

    def _finish_epoch(self, epoch: Epoch) -> None:
        self._refuse_nan(epoch, None)
        self._refuse_broken_weights(epoch)
        self.done, self.step = epoch.index + 1, 0
        if epoch.last and self.average is not None:
            self.model.load_state_dict(self.average.module.state_dict())
            self.average = None
        entry = {"epoch": epoch.index, "stage": epoch.stage_index, "lr": epoch.lr, **self.sums.means(), "test": None}
        if epoch.evaluate and self.accelerator.is_main_process:
            entry |= self._evaluation()
        self.history.append(entry)
        self.sums = Sums()
        self._save(epoch)
        self._write_log()
        if self._tracker is not None:
            self._tracker.add(entry)
        self.progress.finish_epoch(entry)

    # -- stages --------------------------------------------------------------------------------------------------

    def enter(self, stage_index: int) -> Epoch:
        """Begin one stage after the other up to this one without a step in between; returns its first epoch."""
        begun = [epoch for epoch in self.plan if epoch.first and epoch.stage_index <= stage_index]
        for epoch in begun:
            self._enter(epoch)
        return begun[-1]

    def _enter(self, epoch: Epoch, resumed: bool = False) -> None:
        """Build what the stage names; carry on with what it has in common with the stage before."""
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
        self.criterion = assembly.criterion(stage, self.data.class_counts, assembly.head_of(self.model)).to(self.device)
        self._set_augmenter(stage)
        assembly.set_trainable(self.model, stage.trainable)
        bare = PlugIn(self.model, self.plug_before, self.augmenter)
        other = stage.head is not None or (former is not None and former.trainable != stage.trainable)
        restart = not resumed and (stage.optimizer is not None or other)
        optimizer = self._optimizer(epoch, None if restart else momentum)
        self.accelerator.free_memory()  # forget the wrapping of the stage before
        self.plug, self.optimizer = self.accelerator.prepare(bare, optimizer)
        self.stage = stage

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
        state, self.restored_optimizer = self.restored_optimizer, None
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
        """Tensors and plain containers from which the run goes on bit for bit."""
        return {
            "key": self._key(self.done),
            "done": self.done,
            "step": self.step,
            "stage": self._in_force().stage_index,
            "sums": self.sums.state(),
            "history": self.history,
            "tested_on": provenance.tested_on(self.data),
            "made_with": provenance.made_with(self.device),
            "reused_epochs": self.reused_epochs,
            "model": self.tested.state_dict(),
            "trained": self.model.state_dict() if self.average is not None else None,
            "augmenter": self.augmenter.state_dict() if self.augmenter is not None else None,
            "reweighter": self.reweighter.state_dict() if self.reweighter is not None else None,
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.accelerator.scaler.state_dict() if self.accelerator.scaler is not None else None,
        }

    def _key(self, done: int) -> str:
        """Address of the state after so many epochs; nothing where the plan has fewer."""
        if done == 0:
            return start_key(self.recipe, self.data.facts(), self.accelerator.num_processes)
        return self.plan[done - 1].key if done <= len(self.plan) else ""

    def _in_force(self) -> Epoch:
        """The epoch in hand, or the last whole one where none is begun."""
        return self.plan[self.done if self.step else self.done - 1]

    def _restore(self, state: dict[str, Any]) -> None:
        self.done, self.step, self.history = state["done"], state["step"], state["history"]
        self.reused_epochs = state["reused_epochs"]
        self.sums = Sums.of(state["sums"])
        last = self._in_force()
        head = self.recipe.model_in(last.stage_index).head
        if head != self.recipe.model.head:
            self._set_head(self.parts.head(head, self.model, last.stage_index))
        self._load_weights(state)
        assembly.set_trainable(self.model, last.stage.trainable)
        self.restored_optimizer = state["optimizer"]
        if self.accelerator.scaler is not None and state["scaler"] is not None:
            self.accelerator.scaler.load_state_dict(state["scaler"])
        self.augmenter = self.parts.augmenter(last.stage.augmenter, self.model, 0)
        if self.augmenter is not None:
            self.augmenter.load_state_dict(state["augmenter"])
        self.reweighter = self.parts.reweighter(last.stage, 0)
        if self.reweighter is not None:
            self.reweighter.load_state_dict(state["reweighter"])
        if self.step > 0 or (self.done < len(self.plan) and not self.plan[self.done].first):
            self._enter(last, resumed=True)
        else:
            self.stage = last.stage
            self._set_augmenter(last.stage)

    def _load_weights(self, state: dict[str, Any]) -> None:
        trained = state.get("trained")
        self.model.load_state_dict(state["model"] if trained is None else trained)
        if trained is not None:
            self.average = self._average(self._in_force().stage)
            assert self.average is not None
            self.average.module.load_state_dict(state["model"])
            self.average.n_averaged.fill_(1)  # with none yet, the next step would replace the average

    def saved(self) -> dict[str, Any] | None:
        """The state in this folder's own checkpoint, if it has one.

        Raises:
            UserError: if it is damaged, or that of another run.
        """
        path = self.folder / CHECKPOINT
        if not path.exists():
            return None
        state = checkpoint.load(path)
        if state.get("key") != self._key(state.get("done", 0)):
            raise UserError(
                f"the checkpoint in {self.folder} was trained with another recipe, other images, another number of "
                "processes, or other code of your own; name another folder, or delete it to train anew"
            )
        return state

    def _begin(self) -> None:
        """Go on from this folder's own checkpoint, else from the longest prefix of the plan that the cache knows."""
        own = self.saved()
        state = own or self._known_prefix()
        self._refuse_different_starts(state)
        if state is None:
            return
        self._restore(state)
        if own is None and self.accelerator.is_main_process:  # if nothing is left to train, it will save nothing else
            checkpoint.save(self.folder / CHECKPOINT, state)

    def _known_prefix(self) -> dict[str, Any] | None:
        known = (epoch for epoch in reversed(self.plan) if self.cache is not None and epoch.key in self.cache)
        epoch = next(known, None)
        if epoch is None or self.cache is None:
            return None
        trained = sum(before.trains for before in self.plan[: epoch.index + 1])
        cached = self.cache.load(epoch.key)
        log = provenance.own_log(cached, self.data)
        for entry in log:
            entry["stage"] = self.plan[entry["epoch"]].stage_index  # another run may cut the same epochs otherwise
        own = {"history": log, "tested_on": provenance.tested_on(self.data)}
        self.reused_of = cached.get("made_with", {})
        return {**cached, **own, "reused_epochs": trained, "stage": epoch.stage_index}

    def _refuse_different_starts(self, state: dict[str, Any] | None) -> None:
        """Each process looks for itself; one that finds nothing would mix gradients of other epochs into theirs."""
        start = [0, 0] if state is None else [state["done"], state["step"]]
        starts = self.accelerator.gather(torch.tensor([start], device=self.device))
        if (starts != starts[0]).any():
            states = ", ".join(f"epoch {done} step {step}" for done, step in sorted(set(map(tuple, starts.tolist()))))
            raise UserError(
                f"the processes would not go on from one state ({states}), for they do not see the same {CHECKPOINT} "
                "or cache: let all of them read one folder, or start again if another run has just written there"
            )

    def _save(self, epoch: Epoch) -> None:
        if not self.accelerator.is_main_process:
            return
        state = self.state()
        checkpoint.save(self.folder / CHECKPOINT, state)
        if self.cache is not None and self.step == 0 and epoch.key in self.save_at:
            self.cache.save(epoch.key, {**state, "reused_epochs": 0})

    def _write_log(self) -> None:
        if self.accelerator.is_main_process:
            lines = "".join(json.dumps(entry) + "\n" for entry in self.history)
            files.write_atomically(self.folder / "log.jsonl", lines.encode())

    # -- looking -------------------------------------------------------------------------------------------------

    @property
    def tested(self) -> nn.Module:
        """The network as it is tested: the average of its weights in a stage that takes one."""
        return self.model if self.average is None else self.average.module

    def predict(self, split: str) -> evaluate.Predictions:
        """Predictions of the bare network on ``test`` or ``validation``."""
        if split not in self._splits:
            images = self.data.source.test if split == "test" else self.data.validation
            assert images is not None
            self._splits[split] = self.parts.in_order(images)
        return evaluate.predict(self.tested, self._splits[split])

    def _evaluation(self) -> dict[str, Any]:
        found = {"test": evaluate.summary(self.predict("test"), self.data.groups)}
        if self.data.validation is not None:
            found["validation"] = evaluate.summary(self.predict("validation"), self.data.groups)
        return found

    def _refuse_nan(self, epoch: Epoch, loss: Tensor | None) -> None:
        """Stop before a broken update; on an accelerator only at the epoch's end, since a look waits for the device."""
        if loss is not None and self.device.type != "cpu":
            return
        broken = self.sums.broken()
        if broken is not None:
            raise self._diverged(epoch, f"the loss term {broken!r} is")

    def _refuse_broken_weights(self, epoch: Epoch) -> None:
        """An update can break the weights after a last finite loss; the good checkpoint must outlive it."""
        parts = {"network": self.model, **({"augmenter": self.augmenter} if self.augmenter is not None else {})}
        for part, module in parts.items():
            for name, value in module.state_dict().items():
                if not torch.isfinite(value).all():
                    raise self._diverged(epoch, f"{name!r} of the {part} is")

    def _diverged(self, epoch: Epoch, what: str) -> UserError:
        path = self.folder / CHECKPOINT
        kept = f"the last good state is in {path}" if path.exists() else "no state was saved before"
        return UserError(
            f"{what} not finite in epoch {epoch.index}, step {self.step}; {kept}. "
            "A lower learning rate, a longer warm-up or clip=… usually helps"
        )

    def _agreed(self, stop: StopRequest) -> bool:
        """Whether any process was asked to stop; all must leave at the same step, or the others wait for ever."""
        if self.accelerator.num_processes == 1:
            return stop.requested
        if self.device.type != "cpu" and self.step % ASKED_EVERY:
            return False
        flag = torch.tensor([float(stop.requested)], device=self.device)
        return bool(self.accelerator.reduce(flag, "sum").item() > 0)
