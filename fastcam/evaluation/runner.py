"""A run: parts dealt to processes, what is missing done, what is there left alone."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from rich.progress import Progress

from fastcam.datasets.fingerprint import fingerprint
from fastcam.datasets.loader import ViewBatch
from fastcam.datasets.sample import DataSet
from fastcam.evaluation.checks import check_study
from fastcam.evaluation.cost import measure_cost
from fastcam.evaluation.errors import RunError
from fastcam.evaluation.explaining import random_labels
from fastcam.evaluation.lock import locked
from fastcam.evaluation.memory import Portions, is_out_of_memory
from fastcam.evaluation.opening import Place, open_model
from fastcam.evaluation.parts import Part, cut, draw_order, first_right, next_round
from fastcam.evaluation.processes import Processes, join, local_device
from fastcam.evaluation.progress import Bar, bars
from fastcam.evaluation.store import (
    Asked,
    Bad,
    Facts,
    Kind,
    Run,
    Store,
    arrow,
    data_facts,
    read_run,
    row_schema,
    screen_schema,
    surroundings,
    writing,
)
from fastcam.evaluation.study import ModelSpec, Study
from fastcam.evaluation.weights import weights_digest
from fastcam.evaluation.worker import Worker
from fastcam.metrics.registry import METRICS

Say = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class How:
    """How a run is carried out; rows are the same whatever this says, but for threads and device, which a run keeps.

    threads: of each process; None: those the run began with, or torch's own number. max_bad: photos that may be left
    out because they cannot be read, or because what the model makes of them is NaN or infinite; None: one in a hundred,
    at least one. say: told what a user should know.
    """

    device: torch.device
    workers: int = 0
    threads: int | None = None
    max_bad: int | None = None
    quiet: bool = False
    say: Say = print


def evaluate(study: Study, dataset: DataSet, output: Path, how: How, *, place: Place | None = None) -> Run | None:
    """Carry a study out, or go on with it, in the folder `output`.

    In a launch of several processes all call this alike; the first returns the finished run, the others None.

    place: what the data set was opened with, for whoever opens it again; None: its folder alone.

    Raises:
        ValueError: the study or the data set cannot be used. RunError, a kind of it: the folder holds another run or
            is in use or cannot be written to; too many photos are left out.
        SaidElsewhere: another process of the launch has raised the error.
    """
    arrow()
    check_study(study)
    check_data(study, dataset)
    if how.threads is not None and how.threads < 1:
        raise ValueError(f"threads: {how.threads} given, a positive integer is valid")
    store = Store(output)
    with ExitStack() as stack:
        processes = stack.enter_context(join())
        threads = processes.first(lambda: _prepare(store, stack, how))
        stack.enter_context(_machinery(threads))
        device = local_device(how.device)
        data = data_facts(dataset, fingerprint(dataset).sha256, place or Place(root=dataset.root))
        asked = Asked(study, data, surroundings(device, threads))
        everywhere = processes.gather((asked.data["fingerprint"], asked.environment))
        processes.first(lambda: _begin(store, asked, everywhere))
        progress = stack.enter_context(bars(shown=processes.rank == 0 and not how.quiet))
        launch = _Launch(study, dataset, store, how, device, processes, progress)
        for spec in study.models:
            launch.evaluate(spec)
        processes.wait()
        return read_run(output) if processes.rank == 0 else None


def check_data(study: Study, dataset: DataSet) -> None:
    """Raise ValueError where the data set lacks what the study asks of it."""
    count = len(dataset.samples)
    if study.subset is not None and study.subset > count:
        raise ValueError(f"subset: {study.subset} given, but the data set {dataset.name} has {count} samples")
    needing = [name for name in study.metrics if "regions" in METRICS[name].needs]
    if needing and not dataset.has_regions:
        raise ValueError(
            f"metrics: {', '.join(needing)} given, but nothing in the data set {dataset.name} tells where the classes "
            "are: leave them out, or name the annotations with --annotations"
        )
    unlabelled = sum(sample.label is None for sample in dataset.samples)
    for key, wanted in (("targets", study.targets == "label"), ("correct_only", study.correct_only)):
        if wanted and unlabelled:
            raise ValueError(
                f"{key}: {'label' if key == 'targets' else 'true'} given, but {unlabelled} of the {count} samples of "
                f"the data set {dataset.name} have no label"
            )


@dataclass(eq=False)
class _Launch:
    """One process at work on a run.

    bad: photos that are left out, with the reason, of all processes. told: whether this one has said that memory is
    short.
    """

    study: Study
    dataset: DataSet
    store: Store
    how: How
    device: torch.device
    processes: Processes
    progress: Progress
    bad: dict[str, str] = field(default_factory=dict)
    told: bool = False

    def evaluate(self, spec: ModelSpec) -> None:
        """All of one model."""
        at_work = _AtWork(self, spec)
        parts = cut(spec.name, self._chosen(spec, at_work), self.study.part)
        self._stage("parts", parts, at_work)
        # Measured once a run, also where it was stopped between its last part and this.
        if self.processes.rank == 0 and spec.name not in self.store.cost():
            samples = self.dataset.samples
            good = [position for position in parts[0].samples if samples[position].name not in self.bad]
            with self._memory(spec.name):
                cost = measure_cost(at_work.worker, good[: self.study.batch]) if good else {}
            self.store.write_cost({**self.store.cost(), spec.name: cost})

    def _chosen(self, spec: ModelSpec, at_work: "_AtWork") -> list[int]:
        """The samples to evaluate the model on, in the data set's order."""
        study, names = self.study, [sample.name for sample in self.dataset.samples]
        order = list(range(len(names))) if study.subset is None else draw_order(names, study.seed)
        if not study.correct_only:
            return sorted(order[: study.subset])
        screening = cut(spec.name, order, study.part)
        done, right = 0, set[int]()
        while parts := next_round(screening, done, len(right), study.subset):
            found = self._stage("screen", parts, at_work)
            # Told from process to process: a shared file system may show another machine's files late.
            predicted = [pair for of_process in self.processes.gather(found) for pair in of_process]
            right |= {index for index, label in predicted if label == self.dataset.samples[index].label}
            done += len(parts)
        if not right or (study.subset is not None and len(right) < study.subset):
            raise ValueError(
                f"correct_only: {spec.name} predicts the label of {len(right)} of the {len(names)} samples, and "
                f"{study.subset or 'at least 1'} are asked for; check that the data set's classes are the model's, or "
                "ask for fewer with --subset"
            )
        return first_right(order, right, study.subset)

    def _stage(self, kind: Kind, parts: Sequence[Part], at_work: "_AtWork") -> list[tuple[int, int]]:
        """See to it that this process's share of the parts is finished; of screened ones, what was predicted."""
        share = self.processes.deal(parts)
        found = [(part, self.store.facts(kind, part)) for part in share]
        finished = {part: facts for part, facts in found if facts is not None and facts.total == part.total}
        for facts in finished.values():
            self._note(facts.bad)
        # Of all processes and of the screening, too: parts are of samples that were chosen with these weights.
        for digests in self.processes.gather({facts.weights for facts in finished.values()}):
            at_work.began_with |= digests
        missing = [part for part in share if part not in finished]
        of_all = f" (process 0 of {self.processes.count})" if self.processes.count > 1 else ""
        stage = f"{at_work.spec.name}: {'screening' if kind == 'screen' else 'evaluating'}{of_all}"
        bar = Bar(self.progress, stage, sum(len(part.samples) for part in share))
        bar.skip(sum(len(part.samples) for part in finished))
        if missing:
            at_work.check_weights()
            # One stream for all: photos of the next part are read while this one is worked on.
            views = at_work.worker.views([batch for part in missing for batch in part.batches(self.study.batch)])
            for part in missing:
                self._do(kind, part, at_work, views, bar)
        bar.end()
        for of_process in self.processes.gather(self.bad):
            self.bad |= of_process
        self._check_bad()
        if kind == "parts":
            return []
        tables = [self.store.read(kind, part) for part in share]
        return [(row["index"], row["predicted"]) for table in tables for row in table.to_pylist()]

    def _do(self, kind: Kind, part: Part, at_work: "_AtWork", views: Iterator[ViewBatch], bar: Bar) -> None:
        began = time.perf_counter()
        worker = at_work.worker
        with self._memory(part.model):
            work = worker.screen if kind == "screen" else worker.measure
            done = work(part, views, bar.tick)
        seconds = time.perf_counter() - began
        facts = Facts(total=part.total, weights=at_work.digest, batch=done.batch, bad=done.bad)
        schema = screen_schema() if kind == "screen" else row_schema(worker.columns)
        columns = {name: done.rows.get(name, []) for name in schema.names}
        self.store.write(kind, part, columns, schema, facts)
        images = len(part.samples) - len(done.bad)
        self._log(
            model=part.model,
            kind=kind,
            part=part.number,
            images=images,
            seconds=round(seconds, 4),
            images_per_s=round(images / seconds, 4),
            batch=done.batch,
            bad=[asdict(bad) for bad in done.bad],
        )
        self._note(done.bad)
        self._check_bad()

    @contextmanager
    def _memory(self, model: str) -> Iterator[None]:
        """Say what helps where memory does not even suffice for one image."""
        try:
            yield
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            given = [method.label for method in self.study.methods if method.options.get("batch_size") is not None]
            smaller = f"a smaller batch_size of {', '.join(given)} takes less, " if given else ""
            raise RunError(
                f"memory: not enough on {self.device} for {model} with one image at a time ({error}); {smaller}"
                "--precision bfloat16 takes half"
            ) from error

    def halved(self, model: str, before: int, after: int) -> None:
        """Memory did not suffice for `before` images at a time."""
        self._log(model=model, kind="out of memory", batch_before=before, batch=after)
        if not self.told:
            self.told = True
            drawn = random_labels(self.study.methods)
            self.how.say(
                f"memory does not suffice for {before} images of {model} at a time: going on with {after}, and less "
                "if need be; rows then agree with those of full batches to rounding, no longer to the bit"
                + (f", but those of {', '.join(drawn)} rest on other random numbers" if drawn else "")
            )

    def _log(self, **line: Any) -> None:
        self.store.log(self.processes.rank, {**line, "rank": self.processes.rank})

    def _note(self, bad: Sequence[Bad]) -> None:
        self.bad |= {each.name: each.reason for each in bad}

    def _check_bad(self) -> None:
        count = len(self.dataset.samples)
        most = max(count // 100, 1) if self.how.max_bad is None else self.how.max_bad
        if len(self.bad) > most:
            shown = "; ".join(f"{name}: {reason}" for name, reason in list(self.bad.items())[:3])
            raise RunError(
                f"max-bad: {len(self.bad)} photos could not be read or explained, {most} may be left out ({shown}"
                f"{'; ...' if len(self.bad) > 3 else ''}). What is finished is kept: mend the photos and remove the "
                f"folders parts and screen in {self.store.path}, or allow more with --max-bad"
            )


class _AtWork:
    """A model, loaded when first needed: a run that is finished needs none."""

    def __init__(self, launch: _Launch, spec: ModelSpec) -> None:
        self.spec, self._launch = spec, launch
        self._worker: Worker | None = None
        self.digest = ""
        # The digests of the weights that finished parts were made with.
        self.began_with: set[str] = set()

    @property
    def worker(self) -> Worker:
        """The model at work."""
        if self._worker is None:
            launch, spec = self._launch, self.spec
            model = open_model(spec, launch.device)
            self.digest = weights_digest(model.model)
            self._worker = Worker(
                study=launch.study,
                spec=spec,
                model=model,
                dataset=launch.dataset,
                portions=Portions(launch.study.batch, lambda a, b: launch.halved(spec.name, a, b)),
                device=launch.device,
                workers=launch.how.workers,
            )
        return self._worker

    def check_weights(self) -> None:
        """Raise RunError where parts were made with other weights."""
        assert self.worker
        if self.began_with - {self.digest}:
            raise RunError(
                f"output {self._launch.store.path}: finished parts were made with other weights of {self.spec.name} "
                "than are loaded now; use the weights that the run began with, or write to another folder with -o"
            )


def _prepare(store: Store, stack: ExitStack, how: How) -> int:
    """Make the folder and lock it; the number of threads that the run began with, or begins with."""
    with writing(store.path):
        store.path.mkdir(parents=True, exist_ok=True)
        stack.enter_context(locked(store.path))
        store.clean()
    before = store.recorded()
    if how.threads is not None:
        return how.threads
    return torch.get_num_threads() if before is None else int(before.environment["threads"])


def _begin(store: Store, asked: Asked, everywhere: Sequence[object]) -> None:
    own = everywhere[0]
    for rank, other in enumerate(everywhere):
        if other != own:
            raise RunError(
                f"process {rank} has another data set or other machinery than process 0 ({other} and {own}); rows "
                "would not be of one kind"
            )
    store.begin(asked)


@contextmanager
def _machinery(threads: int) -> Iterator[None]:
    """So many threads, and of cuDNN's algorithms only those that repeat their results."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        with torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True):
            yield
    finally:
        torch.set_num_threads(before)
