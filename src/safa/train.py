"""Stages of epochs of batches on Accelerate. Knows protocols and names from the catalog, no method."""

from __future__ import annotations

import json
import math
import signal
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from safa import checkpoint, evaluate
from safa import recipe as recipes
from safa.catalog import build, resolve
from safa.data.batches import Batches, InOrder, Normalise
from safa.data.dataset import LongTailed
from safa.data.types import Split
from safa.errors import UserError
from safa.plan import Epoch, epochs_of, optimizer_of, start_key
from safa.plugin import PlugIn
from safa.progress import Progress
from safa.seeding import seed_for
from safa.stop import StopRequest
from safa.types import Output

CHECKPOINT = "checkpoint.pt"
EVALUATION_BATCH = 500


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
        self.accelerator, self.cache, self.workers = accelerator, cache, workers
        self.device = accelerator.device
        self.progress = progress or Progress(shown=False)
        self.plan = epochs_of(recipe, data.facts(), accelerator.num_processes)
        stage_ends = {a.key for a, b in zip(self.plan, self.plan[1:], strict=False) if a.stage_index != b.stage_index}
        self.save_at = stage_ends | set(save_at)
        self.normalise = Normalise(data.source.mean, data.source.std, self.device)
        self.model = _placed(network(recipe, data.num_classes), self.device)
        self.augmenter: Any = None
        self.optimizer_state: dict[str, Any] | None = None
        self.history: list[dict[str, Any]] = []
        self.reused_epochs = 0
        self.done = 0  # whole epochs
        self.step = 0  # steps of the epoch in hand
        self.sums = Sums()
        self.stage: recipes.Stage | None = None
        self.plug_before: str | None = None
        self._splits: dict[str, Batches] = {}
        self._writer = _tensorboard(folder) if track and accelerator.is_main_process else None

    # -- the flow ------------------------------------------------------------------------------------------------

    def run(self) -> None:
        """Train what is left of the plan; raises ``Stopped`` when a signal asks for an end."""
        self._try_stages()
        if self.accelerator.is_main_process:
            checkpoint.remove_halves(self.folder)
        if not self.resume():
            self._reuse_prefix()
        self._write_log()
        with StopRequest() as stop, self.progress:
            self.progress.start(self.recipe.method, len(self.plan), self.done)
            for epoch in self.plan[self.done :]:
                if self.stage is None or (epoch.first and self.step == 0):
                    self._enter(epoch)
                self._train_epoch(epoch, stop)
                self._finish_epoch(epoch)
                if self._agreed(stop):
                    raise Stopped(f"stopped after epoch {epoch.index}", stop)

    def _train_epoch(self, epoch: Epoch, stop: StopRequest) -> None:
        self.plug.train()
        for group in self.optimizer.param_groups:
            group["lr"] = epoch.lr * group["lr_scale"]
        steps = self.batches.epoch(epoch.index, self.step)
        self.progress.epoch(epoch.index, len(self.batches), self.step)
        started = time.perf_counter()
        for images, labels in steps:
            self._train_step(epoch, images, labels)
            self.step += 1
            self.sums.images += len(images) * self.accelerator.num_processes
            self.progress.step(self.sums.images)
            # After the last step the epoch is whole; it is kept as such before the run stops.
            if self.step < len(self.batches) and self._agreed(stop):
                self.sums.seconds += time.perf_counter() - started
                self._refuse_broken_weights(epoch)
                self._save(epoch)
                raise Stopped(f"stopped in epoch {epoch.index} after step {self.step - 1}", stop)
        self.sums.seconds += time.perf_counter() - started

    def _train_step(self, epoch: Epoch, images: Tensor, labels: Tensor) -> None:
        # Dropout and SAFA's pairing draw from the global generator; set per step, a run resumes at any step.
        torch.manual_seed(seed_for(self.recipe.seed, "step", epoch.index, self.step, self.accelerator.process_index))
        output: Output = self.plug(images, labels)
        classification = self.criterion(output.logits, output.labels)
        loss = classification + output.loss
        self.sums.add({"classification": classification.detach(), **output.terms}, loss.detach())
        self._refuse_nan(epoch, loss)
        self.optimizer.zero_grad(set_to_none=True)
        self.accelerator.backward(loss)
        if self.recipe.clip is not None:
            self.accelerator.clip_grad_norm_(self.plug.parameters(), self.recipe.clip)
        self.optimizer.step()

    def _finish_epoch(self, epoch: Epoch) -> None:
        self._refuse_nan(epoch, None)
        self._refuse_broken_weights(epoch)
        self.done, self.step = epoch.index + 1, 0
        entry = {"epoch": epoch.index, "stage": epoch.stage_index, "lr": epoch.lr, **self.sums.means(), "test": None}
        if epoch.evaluate and self.accelerator.is_main_process:
            entry |= self._evaluation()
        self.history.append(entry)
        self.sums = Sums()
        self._save(epoch)
        self._write_log()
        self._track(entry)
        self.progress.finish_epoch(entry)

    # -- building ------------------------------------------------------------------------------------------------

    def _try_stages(self) -> None:
        """Build what every stage names once, so that a mistake in the last stage does not wait for its turn."""
        for stage in self.recipe.stages:
            self._criterion(stage)
            self._sampler(stage)
            self._augmenter(stage.augmenter, 0)

    def _enter(self, epoch: Epoch, resumed: bool = False) -> None:
        """Build what the stage names; carry on with what it has in common with the stage before."""
        stage = epoch.stage
        self.criterion = self._criterion(stage).to(self.device)
        self.batches = self._training_batches(stage)
        if not resumed:
            self._change_augmenter(stage, epoch.index)
        self.plug_before = stage.augmenter.before if stage.augmenter else None
        if self.augmenter is not None:
            # DDP waits for the gradient of every parameter that can have one; an idle augmenter's get none. Set first,
            # since an augmenter may freeze a part of itself when it becomes active.
            self.augmenter.requires_grad_(stage.generate or self.augmenter.learns_while_idle)
            self.augmenter.active = stage.generate
        bare = PlugIn(self.model, self.plug_before, self.augmenter)
        optimizer = self._optimizer(epoch, bare, restart=stage.optimizer is not None and not resumed)
        self.accelerator.free_memory()  # forget the wrapping of the stage before
        self.plug, self.optimizer = self.accelerator.prepare(bare, optimizer)
        self.stage = stage

    def _change_augmenter(self, stage: recipes.Stage, index: int) -> None:
        """Keep the augmenter while its recipe stays the same; else build a new one, which starts without momentum."""
        former = self.stage.augmenter if self.stage else None
        if stage.augmenter == former:
            return
        if self.optimizer_state is None and self.stage is not None:
            self.optimizer_state = self.optimizer.state_dict()
        if self.optimizer_state is not None:
            self.optimizer_state = _only_first(self.optimizer_state, len(list(self.model.parameters())))
        self.augmenter = self._augmenter(stage.augmenter, index)

    def _augmenter(self, spec: recipes.Augmenter | None, index: int) -> Any:
        if spec is None:
            return None
        before = spec.before or str(getattr(self.model, "before", ""))
        channels = self._channels_before(before)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed_for(self.recipe.seed, "augmenter", index))
            augmenter = build(
                "augmenter",
                spec.name,
                spec.options,
                channels=channels,
                class_counts=self.data.class_counts,
                head_ratio=self.data.spec.head_ratio,
            )
        if not isinstance(augmenter, nn.Module):
            raise UserError(
                f"augmenter {spec.name!r} must be a torch.nn.Module, which has a state to save; it is {augmenter!r}"
            )
        return _placed(augmenter, self.device)

    def _channels_before(self, before: str) -> int:
        """Channels of what enters the layer; its name is checked by the plug-in, which explains itself better."""
        PlugIn(self.model, before, _Anything())
        size = self.data.source.image_size
        shapes = {place.name: place.shape for place in PlugIn.probe(self.model, size, only=before)}
        if before not in shapes:
            raise UserError(f"nothing can be augmented before {before!r}: not every path crosses it exactly once")
        return shapes[before][0]

    def _criterion(self, stage: recipes.Stage) -> nn.Module:
        counts = self.data.class_counts
        weight = None
        if stage.weighting is not None:
            weight = build("weighting", stage.weighting.name, stage.weighting.options, class_counts=counts)
        loss: nn.Module = build("loss", stage.loss.name, stage.loss.options, class_counts=counts, weight=weight)
        if stage.weighting is not None and getattr(loss, "weight", None) is None:
            raise UserError(
                f"loss {stage.loss.name!r} takes no class weights, so weighting {stage.weighting.name!r} would do "
                "nothing; leave it out, or give the loss a parameter and an attribute 'weight'"
            )
        scale, head_scale = getattr(loss, "scale", None), getattr(_head_of(self.model), "scale", None)
        if scale is not None and head_scale is not None and float(scale) != float(head_scale):
            raise UserError(
                f"loss {stage.loss.name!r} has scale {scale} but the cosine head has {head_scale}; make them equal"
            )
        return loss

    def _training_batches(self, stage: recipes.Stage) -> Batches:
        augmentation = build("augmentation", self.data.augmentation.name, self.data.augmentation.options)
        return self._batches(self.data.train, self._sampler(stage), augmentation)

    def _sampler(self, stage: recipes.Stage) -> Any:
        world = self.accelerator.num_processes
        if self.recipe.batch_size % world:
            raise UserError(
                f"batch_size {self.recipe.batch_size} cannot be split over {world} processes; make it a multiple"
            )
        return build(
            "sampler",
            stage.sampler.name,
            stage.sampler.options,
            labels=self.data.train.labels,
            batch_size=self.recipe.batch_size // world,
            seed=self.recipe.seed,
            rank=self.accelerator.process_index,
            world_size=world,
        )

    def _batches(self, split: Split, sampler: Any, augmentation: Any = None) -> Batches:
        return Batches(
            split,
            sampler,
            self.normalise,
            augmentation=augmentation,
            device=self.device,
            image_size=self.data.source.image_size,
            seed=self.recipe.seed,
            rank=self.accelerator.process_index,
            workers=self.workers,
        )

    def _optimizer(self, epoch: Epoch, plug: PlugIn, restart: bool) -> torch.optim.Optimizer:
        settings = optimizer_of(self.recipe, epoch.stage_index)
        groups: list[dict[str, Any]] = [{"params": list(plug.model.parameters()), "lr_scale": 1.0}]
        if self.augmenter is not None:
            scale = epoch.stage.augmenter.lr_scale if epoch.stage.augmenter else 1.0
            groups.append({"params": list(self.augmenter.parameters()), "lr_scale": scale})
        optimizer = torch.optim.SGD(
            groups,
            lr=epoch.lr,
            momentum=settings.momentum,
            weight_decay=settings.weight_decay,
            nesterov=settings.nesterov,
        )
        carried = self.optimizer_state
        if carried is None and self.stage is not None:
            carried = self.optimizer.state_dict()
        self.optimizer_state = None
        if carried is not None and not restart:
            optimizer.load_state_dict(
                {"state": carried["state"], "param_groups": optimizer.state_dict()["param_groups"]}
            )
        return optimizer

    # -- state ---------------------------------------------------------------------------------------------------

    def state(self) -> dict[str, Any]:
        """Tensors and plain containers from which the run goes on bit for bit."""
        return {
            "key": self._key(self.done),
            "done": self.done,
            "step": self.step,
            "sums": self.sums.state(),
            "history": self.history,
            "reused_epochs": self.reused_epochs,
            "model": self.model.state_dict(),
            "augmenter": self.augmenter.state_dict() if self.augmenter is not None else None,
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.accelerator.scaler.state_dict() if self.accelerator.scaler is not None else None,
        }

    def _key(self, done: int) -> str:
        """Address of the state after so many epochs; nothing where the plan has fewer."""
        if done == 0:
            return start_key(self.recipe, self.data.facts(), self.accelerator.num_processes)
        return self.plan[done - 1].key if done <= len(self.plan) else ""

    def _restore(self, state: dict[str, Any]) -> None:
        self.done, self.step, self.history = state["done"], state["step"], state["history"]
        self.reused_epochs = state["reused_epochs"]
        self.sums = Sums.of(state["sums"])
        self.model.load_state_dict(state["model"])
        self.optimizer_state = state["optimizer"]
        if self.accelerator.scaler is not None and state["scaler"] is not None:
            self.accelerator.scaler.load_state_dict(state["scaler"])
        inside = self.step > 0 or (self.done < len(self.plan) and not self.plan[self.done].first)
        last = self.plan[self.done if inside else self.done - 1]
        self.augmenter = self._augmenter(last.stage.augmenter, 0)
        if self.augmenter is not None:
            self.augmenter.load_state_dict(state["augmenter"])
        if inside:
            self._enter(last, resumed=True)
        else:
            self.stage = last.stage
            self.plug_before = last.stage.augmenter.before if last.stage.augmenter else None

    def resume(self) -> bool:
        """Go on from this folder's own checkpoint, if it has one."""
        path = self.folder / CHECKPOINT
        if not path.exists():
            return False
        state = checkpoint.load(path)
        if state.get("key") != self._key(state.get("done", 0)):
            raise UserError(
                f"the checkpoint in {self.folder} was trained with another recipe, other images or another number of "
                "processes; name another folder, or delete it to train anew"
            )
        self._restore(state)
        return True

    def _reuse_prefix(self) -> None:
        """Start from the longest prefix of the plan that the cache knows."""
        known = (epoch for epoch in reversed(self.plan) if self.cache is not None and epoch.key in self.cache)
        epoch = next(known, None)
        if epoch is None or self.cache is None:
            return
        state = {**self.cache.load(epoch.key), "reused_epochs": epoch.index + 1}
        self._restore(state)
        if self.accelerator.is_main_process:  # where nothing is left to train, this is all the run will save
            checkpoint.save(self.folder / CHECKPOINT, state)

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
            checkpoint.write_atomically(self.folder / "log.jsonl", lines.encode())

    def _track(self, entry: dict[str, Any]) -> None:
        if self._writer is None:
            return
        terms = {f"train/{name}": value for name, value in entry["terms"].items()}
        figures = {"train/loss": entry["loss"], "train/lr": entry["lr"], **terms}
        for split in ("test", "validation"):
            figures |= {f"{split}/{name}": value for name, value in (entry.get(split) or {}).items()}
        for name, value in figures.items():
            if value is not None:
                self._writer.add_scalar(name, value, entry["epoch"])
        self._writer.flush()

    # -- looking -------------------------------------------------------------------------------------------------

    def predict(self, split: str) -> evaluate.Predictions:
        """Predictions of the bare network on ``test`` or ``validation``."""
        if split not in self._splits:
            images = self.data.source.test if split == "test" else self.data.validation
            assert images is not None
            self._splits[split] = self._batches(images, InOrder(len(images), EVALUATION_BATCH))
        return evaluate.predict(self.model, self._splits[split])

    def images_of(self, split: Split, rows: Any) -> tuple[Tensor, Tensor]:
        """Some images of a split as the network wants them, unaugmented, with their labels."""
        chosen = split.take(rows)
        images, labels = next(self._batches(chosen, InOrder(len(chosen), len(chosen))).epoch(0))
        return images, labels

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
        flag = torch.tensor([float(stop.requested)], device=self.device)
        return bool(self.accelerator.reduce(flag, "sum").item() > 0)


def network(recipe: recipes.Recipe, num_classes: int) -> nn.Module:
    """The bare network of a recipe, initialised from its seed alone; float32, on the CPU."""
    spec = recipe.model
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed_for(recipe.seed, "network"))
        head = _head_factory(spec.head)
        model: nn.Module = build(
            "backbone", spec.backbone.name, spec.backbone.options, num_classes=num_classes, head=head
        )
    return model


def _placed(module: nn.Module, device: torch.device) -> nn.Module:
    """On the device, channels-last: what convolutions on CPU and tensor cores want."""
    placed: nn.Module = module.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    return placed


class Sums:
    """Running sums of the loss terms of one epoch; kept on the device, since reading one would wait for it."""

    def __init__(self) -> None:
        self.terms: dict[str, Tensor] = {}
        self.counts: dict[str, int] = {}
        self.images, self.seconds = 0, 0.0

    def add(self, terms: dict[str, Tensor], loss: Tensor) -> None:
        for name, value in {**terms, "loss": loss}.items():
            self.terms[name] = self.terms[name] + value.double() if name in self.terms else value.double()
            self.counts[name] = self.counts.get(name, 0) + 1

    def broken(self) -> str | None:
        """First term whose sum is not finite; the total comes last, for it is broken whenever another is."""
        names = [*(name for name in self.terms if name != "loss"), *(["loss"] if "loss" in self.terms else [])]
        return next((name for name in names if not math.isfinite(float(self.terms[name]))), None)

    def means(self) -> dict[str, Any]:
        """What the log says of an epoch."""
        means = {name: float(total) / self.counts[name] for name, total in self.terms.items()}
        loss = means.pop("loss", None)
        speed = self.images / self.seconds if self.seconds else None
        return {"loss": loss, "terms": means, "images_per_second": speed, "seconds": self.seconds}

    def state(self) -> dict[str, Any]:
        terms = {name: float(total) for name, total in self.terms.items()}
        return {"terms": terms, "counts": self.counts, "images": self.images, "seconds": self.seconds}

    @classmethod
    def of(cls, state: dict[str, Any]) -> Sums:
        sums = cls()
        sums.terms = {name: torch.tensor(value, dtype=torch.float64) for name, value in state["terms"].items()}
        sums.counts, sums.images, sums.seconds = dict(state["counts"]), state["images"], state["seconds"]
        return sums


def _tensorboard(folder: Path) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise UserError("TensorBoard is not installed; pip install 'safa[track]' or leave --track out") from error
    return SummaryWriter(str(folder / "tensorboard"))


class _Anything:
    """Stands in for an augmenter while only the layer's name is checked."""

    active, learns_while_idle = False, False

    def __call__(self, features: Tensor, labels: Tensor) -> Any:
        raise NotImplementedError


def _head_factory(spec: recipes.Named) -> Callable[[int, int], nn.Module]:
    resolve("head", spec.name)  # a wrong name is reported as one of the head, not of the backbone

    def head(in_features: int, num_classes: int) -> nn.Module:
        made: nn.Module = build(
            "head", spec.name, spec.options,
            in_features=in_features, num_classes=num_classes, out_features=num_classes,
        )  # fmt: skip
        return made

    return head


def _head_of(model: nn.Module) -> nn.Module | None:
    head = getattr(model, "fc", None)
    return head if isinstance(head, nn.Module) else None


def _only_first(state: dict[str, Any], parameters: int) -> dict[str, Any]:
    """Optimizer state of the network's parameters, which come first; the former augmenter's is dropped."""
    return {"state": {i: s for i, s in state["state"].items() if i < parameters}}
