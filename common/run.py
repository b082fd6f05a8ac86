"""The life of one run, from its directory to the record.

`train(run)` writes its loop out and calls back here for what every paper needs: `prepare` (devices, processes, checkpoints),
`indices`, `loaded` or `steps` (the loop's clock), `micro_batches` and `backward` (one global batch on any number of processes),
`log` and `report` (metrics), `evaluating`, `share`, `examples` and `gather` (exact evaluation), `save_figure`. It returns the
metrics of the record. What is not here is in loop.py or, below that, in processes.py.

A run may be killed at any moment. Everything random is seeded from (seed, step, rank), so that weights, optimizer and step are
all there is to restore.
"""

import json
import math
import os
import sys
from typing import Any

import torch

from common import directory, figures, provenance
from common.claims import C, Record
from common.errors import BadInput, Compared, OtherData
from common.files import read_rows, write_atomic
from common.loop import Loop
from common.options import config_dict
from common.processes import bare


class Run(Loop[C]):
    """One run of one experiment with one seed, seen from one of its processes.

    finished: the record, once there is one.
    """

    finished: Record | None = None

    def __enter__(self) -> "Run[C]":
        try:
            self._begin()
        except BaseException:
            self.__exit__(*sys.exc_info())
            raise
        return self

    def _begin(self) -> None:
        if self.experiment.per_sample and (world := int(os.environ.get("WORLD_SIZE", 1))) > 1:
            raise BadInput(
                f"{self.paper} updates after every sample and cannot be split among {world} processes: "
                'start one process for each seed (make does, with SEEDS="0 1 2")'
            )
        self._held.callback(self._leave)
        self._join()
        if self.experiment.per_sample and self.device.type == "cpu":
            torch.set_num_threads(1)  # a sample is too little for several, which wait
        self.seed_all("start")  # the same on all ranks: initial weights
        self._about, self.finished, self._state = self.on_main(self._open)
        self.code, self.commit = self._about["code"], self._about["commit"]
        self._held.enter_context(self.track)
        if self._state is not None:
            self._restore(self._state)
        if self.finished is None:
            config = config_dict(self.config) | {"seed": self.seed, "precision": self.precision, "code": self.code}
            settings = {"id": self._about["wandb_id"], "group": self.paper, "job_type": self.name, "config": config}
            settings["name"] = f"{self.paper}/{self.name}/{self.title}"
            self.track.begin(self.options.track, self.dir, self.step, settings, self.experiment.claims)
            where = f"from step {self.step:,}" if self.step else "from the start"
            hardware = provenance.hardware(self.processes)
            self.say(f"{self.paper} {self.name} seed {self.seed}, {self.precision}, {hardware}: {where}, in {self.dir}")

    def _open(self) -> tuple[dict[str, Any], Record | None, dict[str, Any] | None]:
        self._held.enter_context(directory.take(self.dir, restart=self.options.restart, say=self.say))
        what = self.dir, self.identity, self.config, self.precision, self.script
        return directory.begin(*what, allow_changes=self.options.allow_changes, say=self.say)

    def __exit__(self, *error: Any) -> None:
        self.interrupt.deferred = True
        self._held.__exit__(*error)

    def prepare(self, **objects: Any) -> tuple[Any, ...]:
        """Put models and optimizers where they train, and restore them from the checkpoint if there is one.

        Call it once, with everything that training changes: modules, optimizers, anything with state_dict and
        load_state_dict. Their names are the checkpoint's. Returns them in the same order, models wrapped for several
        processes.

        Raises:
            BadInput: the checkpoint does not fit them, strictly.
        """
        self.objects = {name: self._prepared(thing) for name, thing in objects.items()}
        if self._state is not None:
            directory.restore(self.dir, self._state["objects"], {name: bare(thing) for name, thing in self.objects.items()})
            self._state = None
        return tuple(self.objects.values())

    def describe_data(self, *, name: str, train: int | str, test: int | str, stand_in: bool, **more: Any) -> None:
        """What the record says of the data, and of given weights. Call it first: they are part of what the run is.

        train, test: how many samples. stand_in: made up for tests, in place of the paper's.
        more: `sha256` of the files, or the `generator` and `seed` of generated data; `weights_sha256` of weights; other facts.

        Raises:
            BadInput: the directory holds a run on other data, or with other weights.
        """
        self._data = {"name": name, "train": train, "test": test, "stand_in": stand_in, **more}
        changed = directory.other_data(self._about["data"], json.loads(json.dumps(self._data)))
        if self.finished is not None:
            if changed:
                raise OtherData(f"{self.dir} holds a finished run on other data ({changed}): {directory.AGAIN}")
            raise Compared
        if changed:
            if not self.options.allow_changes:
                raise BadInput(f"{self.dir} was begun on other data ({changed}): {directory.GO_ON}")
            self._about["changes"].append({"after": f"step{self.step}", "what": f"other data: {changed}"})
        self._about["data"] = self._data
        self.on_main(lambda: directory.remember(self.dir, self._about))

    def curves(self, *names: str) -> dict[str, list[float]]:
        """The lines of metrics.jsonl that have all of these metrics, metric by metric. For all processes at once."""
        rows = self.on_main(lambda: [row for row in read_rows(self.dir / "metrics.jsonl") if {*names} <= {*row}])
        return {name: [row[name] for row in rows] for name in names}

    def save_figure(self, figure: Any, name: str) -> None:
        """figures/<name>.png of a matplotlib figure, or of pixels (3, H, W) in [0, 1]; its metadata say which run drew it."""
        if self.main:
            path = self.dir / "figures" / f"{name}.png"
            about = f"{self.paper} {self.name} seed {self.seed}, commit {self.commit}, {self.code}"
            path.parent.mkdir(exist_ok=True)
            write_atomic(path, figures.png(figure, name, about))
            self.track.view.figure(name, path)

    def finish(self, metrics: dict[str, float]) -> None:
        """Write the record."""
        experiment, about = self.experiment, self._about
        missing = [claim.metric for claim in experiment.claims if claim.at is None and claim.metric not in metrics]
        if missing and self.config == experiment.config:  # a changed recipe may measure something else, by another name
            self.say(f"train() did not return {', '.join(missing)}, which claims name: not measurable in this record")
        if undrawn := [name for name in experiment.figures if not (self.dir / "figures" / f"{name}.png").exists()]:
            self.say(f"train() did not draw {', '.join(undrawn)}: this run cannot be published")
        metrics = dict.fromkeys(missing, math.nan) | metrics
        curves = self.curves(*experiment.curves) if experiment.curves else {}
        clock = self._clock()
        self.finished = {
            **self.identity,
            "kind": experiment.kind,
            "metrics": {name: value if math.isfinite(value) else None for name, value in metrics.items()},
            "data": self._data,
            "config": config_dict(self.config),
            "steps": self.step,
            "wall_s": round(clock["wall_s"], 1),
            "samples_per_s": round(clock["samples"] / max(clock["loop_s"], 1e-9), 1),
            **{name: about[name] for name in ("commit", "files", "code")},
            **provenance.machine(self.processes, self.precision),
            **({"curves": curves} if any(curves.values()) else {}),
            **({"changes": about["changes"]} if about["changes"] else {}),
        }
        self.track.finish(self.finished)
        if self.main:
            write_atomic(self.dir / "result.json", json.dumps(self.finished, indent=1).encode())
