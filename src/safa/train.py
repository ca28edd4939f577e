"""A run from its first epoch to its last: trained, tested, logged, saved, stopped and taken up again."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator

from safa import checkpoint, evaluate, provenance
from safa import recipe as recipes
from safa.data.batches import Batches
from safa.data.dataset import LongTailed
from safa.devices import wait
from safa.errors import UserError
from safa.files import CHECKPOINT, LOG, remove_halves, resumed_by, write_atomically
from safa.learner import DivergedError, Learner
from safa.parts import Parts
from safa.plan import Epoch, ends_of_stages, epochs_of, start_key
from safa.progress import Progress
from safa.stop import StopRequest
from safa.sums import Sums
from safa.tracking import TensorBoard

ASKED_EVERY = 20
"""Steps after which several processes on accelerators agree on whether to stop, since the answer waits for them all."""


class Stopped(Exception):  # noqa: N818  (not an error: what the user asked for)
    """Training was asked to stop and has saved its state; ``signal_number`` says by which signal."""

    def __init__(self, message: str, stop: StopRequest) -> None:
        super().__init__(message)
        # Of several processes perhaps only another one was asked.
        self.signal_number = stop.signal_number or int(signal.SIGTERM)


class Trainer:
    """One run: trains stage after stage of its recipe, and leaves a checkpoint after every epoch.

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
        self.learner = Learner(Parts(recipe, data, accelerator, workers))
        self.history: list[dict[str, Any]] = []
        self.reused_epochs = 0
        self.reused_of: dict[str, Any] = {}  # what made the epochs that the cache gave, where the state says so
        self.done = 0  # whole epochs
        self.step = 0  # steps of the epoch in hand
        self.sums = Sums()
        self._splits: dict[str, Batches] = {}
        self.track = track and accelerator.is_main_process
        self._tracker: TensorBoard | None = None

    # -- the flow ------------------------------------------------------------------------------------------------

    def run(self) -> None:
        """Train what is left of the plan; raises ``Stopped`` when a signal asks for an end.

        ``rehearse`` finds beforehand what would stop a later stage.
        """
        if self.accelerator.is_main_process:
            remove_halves(self.folder)
        self._begin()
        self._write_log()
        if self.track:
            self._tracker = TensorBoard(self.folder, self.history)
        with StopRequest() as stop, self.progress:
            self.progress.start(self.recipe.method, len(self.plan), self.done)
            for epoch in self.plan[self.done :]:
                try:
                    self._run_epoch(epoch, stop)
                except DivergedError as broken:
                    raise self._explained(broken, epoch) from None
                if self._agreed(stop):
                    raise Stopped(f"stopped after {self._counted(epoch)}", stop)

    def _run_epoch(self, epoch: Epoch, stop: StopRequest) -> None:
        if self.learner.stage is None or (epoch.first and self.step == 0):
            self.learner.enter(epoch)
        if epoch.trains:
            self._train_epoch(epoch, stop)
        self._finish_epoch(epoch)

    def _train_epoch(self, epoch: Epoch, stop: StopRequest) -> None:
        steps = len(self.learner.batches)
        self.progress.epoch(epoch.index, steps, self.step)
        started = time.perf_counter()
        for _ in self.learner.steps(epoch, self.step, self.sums):
            self.step += 1
            self.progress.step(self.sums.images)
            # After the last step the epoch is whole; it is kept as such before the run stops.
            if self.step < steps and self._agreed(stop):
                self.sums.seconds += self._seconds_since(started)
                self.learner.refuse_broken(self.sums)
                self._save(epoch)
                raise Stopped(f"stopped in {self._counted(epoch)}, after {self.step} of {steps} steps", stop)
        self.sums.seconds += self._seconds_since(started)

    def _seconds_since(self, started: float) -> float:
        wait(self.device)
        return time.perf_counter() - started

    def _finish_epoch(self, epoch: Epoch) -> None:
        self.learner.refuse_broken(self.sums)
        self.done, self.step = epoch.index + 1, 0
        if epoch.last:
            self.learner.leave()
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

    # -- state ---------------------------------------------------------------------------------------------------

    def state(self) -> dict[str, Any]:
        """Tensors and plain containers from which the run goes on bit for bit."""
        return {
            "key": self._key(self.done),
            "begun": self._begun(self.done, self.step),
            "done": self.done,
            "step": self.step,
            "stage": self._in_force().stage_index,
            "sums": self.sums.state(),
            "history": self.history,
            "tested_on": provenance.tested_on(self.data),
            "made_with": provenance.made_with(self.device),
            "reused_epochs": self.reused_epochs,
            "reused_of": self.reused_of,
            **self.learner.state(),
        }

    def _key(self, done: int) -> str:
        """Address of the state after so many epochs; nothing where the plan has fewer."""
        if done == 0:
            return start_key(self.recipe, self.data.facts(), self.accelerator.num_processes)
        return self.plan[done - 1].key if done <= len(self.plan) else ""

    def _begun(self, done: int, step: int) -> str | None:
        """Address of what the epoch in hand is on its way to; its steps are part of no whole epoch's."""
        return self.plan[done].key if step and done < len(self.plan) else None

    def _in_force(self) -> Epoch:
        """The epoch in hand, or the last whole one where none is begun."""
        return self.plan[self.done if self.step else self.done - 1]

    def _restore(self, state: dict[str, Any]) -> None:
        self.done, self.step, self.history = state["done"], state["step"], state["history"]
        self.reused_epochs, self.reused_of = state["reused_epochs"], state.get("reused_of", {})
        self.sums = Sums.of(state["sums"])
        begun = self.step > 0 or (self.done < len(self.plan) and not self.plan[self.done].first)
        self.learner.restore(state, self._in_force(), within=begun)

    def saved(self) -> dict[str, Any] | None:
        """The state in this folder's own checkpoint, if it has one.

        Raises:
            UserError: if it is damaged, or that of another run.
        """
        path = self.folder / CHECKPOINT
        if not path.exists():
            return None
        state = checkpoint.load(path)
        done, step = state.get("done", 0), state.get("step", 0)
        begun = self._begun(done, step)
        if state.get("key") != self._key(done) or state.get("begun", begun) != begun:  # earlier versions wrote no begun
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
            self._write(state)

    def _known_prefix(self) -> dict[str, Any] | None:
        if self.cache is None:
            return None
        for epoch in reversed(self.plan):
            cached = self.cache.load(epoch.key)
            if cached is not None:
                return self._taken_over(cached, epoch)
        return None

    def _taken_over(self, cached: dict[str, Any], epoch: Epoch) -> dict[str, Any]:
        """The state of another run after this epoch, as this run's own."""
        trained = sum(before.trains for before in self.plan[: epoch.index + 1])
        log = provenance.own_log(cached, self.data)
        for entry in log:
            entry["stage"] = self.plan[entry["epoch"]].stage_index  # another run may cut the same epochs otherwise
        own = {"history": log, "tested_on": provenance.tested_on(self.data)}
        reused = {"reused_epochs": trained, "reused_of": cached.get("made_with", {})}
        return {**cached, **own, **reused, "stage": epoch.stage_index}

    def _refuse_different_starts(self, state: dict[str, Any] | None) -> None:
        """Each process looks for itself; one that finds nothing would mix gradients of other epochs into theirs."""
        start = [0, 0] if state is None else [state["done"], state["step"]]
        starts = self.accelerator.gather(torch.tensor([start], device=self.device))
        if (starts != starts[0]).any():
            found = sorted(set(map(tuple, starts.tolist())))
            states = ", ".join(f"{done} epochs and {step} steps" for done, step in found)
            raise UserError(
                f"the processes would not go on from one state ({states}), for they do not see the same {CHECKPOINT} "
                "or cache: let all of them read one folder, or start again if another run has just written there"
            )

    def _save(self, epoch: Epoch) -> None:
        if not self.accelerator.is_main_process:
            return
        state = self.state()
        self._write(state)
        if self.cache is not None and self.step == 0 and epoch.key in self.save_at:
            self.cache.save(epoch.key, {**state, "reused_epochs": 0})

    def _write(self, state: dict[str, Any]) -> None:
        try:
            checkpoint.save(self.folder / CHECKPOINT, state)
        except UserError as error:
            raise UserError(f"{error}; once it can be written, go on with: {resumed_by(self.folder)}") from error

    def _write_log(self) -> None:
        if self.accelerator.is_main_process:
            lines = "".join(json.dumps(entry) + "\n" for entry in self.history)
            write_atomically(self.folder / LOG, lines.encode())

    # -- looking -------------------------------------------------------------------------------------------------

    def predict(self, split: str) -> evaluate.Predictions:
        """Predictions of the bare network on ``test`` or ``validation``."""
        if split not in self._splits:
            images = self.data.source.test if split == "test" else self.data.validation
            assert images is not None
            self._splits[split] = self.learner.parts.in_order(images)
        return evaluate.predict(self.learner.tested, self._splits[split])

    def _evaluation(self) -> dict[str, Any]:
        found = {"test": evaluate.summary(self.predict("test"), self.data.groups)}
        if self.data.validation is not None:
            found["validation"] = evaluate.summary(self.predict("validation"), self.data.groups)
        return found

    def _explained(self, broken: DivergedError, epoch: Epoch) -> UserError:
        path = self.folder / CHECKPOINT
        kept = f"the last good state is in {path}" if path.exists() else "no state was saved before"
        return UserError(
            f"{broken} in {self._counted(epoch)}, after {self.step} steps; {kept}. "
            "A lower learning rate, a longer warm-up or clip=… usually helps"
        )

    def _counted(self, epoch: Epoch) -> str:
        """From 1, as the progress bar counts; logs and recipes count from 0."""
        return f"epoch {epoch.index + 1} of {len(self.plan)}"

    def _agreed(self, stop: StopRequest) -> bool:
        """Whether any process was asked to stop; all must leave at the same step, or the others wait for ever."""
        if self.accelerator.num_processes == 1:
            return stop.requested
        if self.device.type != "cpu" and self.step % ASKED_EVERY:
            return False
        flag = torch.tensor([float(stop.requested)], device=self.device)
        return bool(self.accelerator.reduce(flag, "sum").item() > 0)
