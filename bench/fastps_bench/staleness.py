"""``fastps-bench staleness``: what waiting for slow workers costs, and what not waiting costs."""

from __future__ import annotations

import argparse
import importlib.util
import json
import math
import shlex
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from fastps.consistency import BSP, SSP
from fastps.data import DataError
from fastps.errors import FastPSError
from fastps.output import check_picture
from fastps_bench import machine
from fastps_bench.arguments import add_json, append_json, positive
from fastps_bench.cases import CaseError, run_case, shown_progress
from fastps_bench.progress import Progress
from fastps_bench.staleness_data import Problem, generated, read
from fastps_bench.staleness_figures import Run, default_target, figures_of
from fastps_bench.staleness_help import DESCRIPTION, EPILOG
from fastps_bench.staleness_report import staleness_table
from fastps_bench.staleness_setting import (
    FACTOR_MAX,
    POLICIES,
    Scene,
    Slow,
    Stall,
    default_scenes,
    label,
    policy,
)
from fastps_bench.staleness_worker import OPTIMIZERS, READERS, RunPlan

__all__ = ["add_parser", "run"]

MODULE = "fastps_bench.staleness_worker"
DEFAULT_LR = {"sgd": 1.0, "adagrad": 0.3}


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the subcommand."""
    parser = commands.add_parser(
        "staleness",
        help="BSP, SSP and ASP with slow workers: speed against progress",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add(
        "--slow",
        type=_slow,
        action="append",
        metavar="rank=R,factor=F",
        help="all steps of worker R take F times as long; may be given for several workers",
    )
    add(
        "--stall",
        type=_stall,
        metavar="p=P,factor=F",
        help="any step of any worker takes F times as long, with probability P",
    )
    add("--chunks", action="store_true", help="share the work by client.chunks()")
    add(
        "--policies",
        type=_policies,
        default=list(POLICIES),
        metavar="LIST",
        help=f"of bsp, bsp:BACKUP, ssp:STEPS, asp; all are compared with the first (default: "
        f"{','.join(POLICIES)})",
    )
    add("--workers", type=positive, default=4, metavar="N", help="worker processes (default: 4)")
    add("--servers", type=positive, default=1, metavar="N", help="server processes (default: 1)")
    add("--steps", type=positive, default=64, metavar="N", help="of each worker (default: 64)")
    add("--step-ms", type=_milliseconds, default=10.0, metavar="MS", help="of a step (default: 10)")
    add("--repeats", type=positive, default=3, metavar="N", help="of every run (default: 3)")
    add("--target", type=_loss, metavar="LOSS", help="log-loss to reach; see below for the default")
    add("--data", type=Path, metavar="FILE", help="learn a libsvm file (or folder of them)")
    add("--features", type=positive, default=100, metavar="N", help="of generated data (100)")
    add("--examples", type=positive, default=20_000, metavar="N", help="of generated data (20,000)")
    add("--batch", type=positive, default=128, metavar="N", help="examples of a step (128)")
    add("--optimizer", choices=list(OPTIMIZERS), default="sgd", help="rule (default: sgd)")
    add("--lr", type=_rate, help="learning rate (default: 1 for sgd, 0.3 for adagrad)")
    add("--seed", type=_seed, default=0, metavar="N", help="of data, minibatches and stalls (0)")
    add("--plot", type=Path, metavar="FILE", help="draw the trade-off (.png, .pdf or .svg)")
    add_json(parser)
    parser.set_defaults(run=run, parser=parser)


def run(options: argparse.Namespace) -> int:
    """Run every policy in every scene, print tables, draw a picture; return the exit code."""
    scenes = _scenes(options)
    _check(options, scenes)
    del options.parser
    try:
        with shown_progress() as progress:
            problem = _problem(options)
            with TemporaryDirectory(prefix="fastps-staleness-") as folder:
                problem.save(Path(folder) / "problem.npz")
                runs = _run_all(options, scenes, Path(folder), progress)
    except (CaseError, DataError) as error:
        print(f"fastps-bench: {error}", file=sys.stderr)
        return 1
    results = [
        _result(options, scene, problem, [runs[at, name] for name in options.policies])
        for at, scene in enumerate(scenes)
    ]
    facts = machine.describe()
    print(staleness_table(facts, results))
    if options.plot is not None:
        from fastps_bench.staleness_plot import plot_trade_off

        plot_trade_off(options.plot, results, _subject(options))
        print(f"\npicture: {options.plot}")
    append_json("staleness", _as_text(options), facts, results)
    return 0


def _run_all(
    options: argparse.Namespace, scenes: list[Scene], folder: Path, progress: Progress
) -> dict[tuple[int, str], list[Run]]:
    """Return the repeats of each policy in each scene.

    Repeats are the outer loop: what slows the machine down for a while hits every policy.
    """
    runs: dict[tuple[int, str], list[Run]] = {}
    n_runs = options.repeats * len(scenes) * len(options.policies)
    for repeat in range(options.repeats):
        for at, scene in enumerate(scenes):
            for name in options.policies:
                done = sum(map(len, runs.values()))
                title = f"run {done + 1} of {n_runs}: {label(name)}, {scene.delays()}"
                progress.begin(title)
                plan = RunPlan(
                    policy=name,
                    scene=scene,
                    workers=options.workers,
                    steps=options.steps,
                    step_ms=options.step_ms,
                    batch=options.batch,
                    optimizer=options.optimizer,
                    lr=options.lr or DEFAULT_LR[options.optimizer],
                    seed=(options.seed, repeat),
                    folder=str(folder),
                )
                runs.setdefault((at, name), []).append(_run(title, options, plan, progress))
    return runs


def _run(title: str, options: argparse.Namespace, plan: RunPlan, progress: Progress) -> Run:
    folder = Path(plan.folder)
    case = {"plan": plan.to_json()}
    reader = folder / "reader.json"
    reader.write_text(json.dumps(case))
    command = f"-m {MODULE} {shlex.quote(str(reader))}"
    launch = [f"--workers={plan.workers}", f"--servers={options.servers}"]
    run_case(title, case, [*launch, "--group", f"{READERS}=1:{command}"], progress, MODULE)
    files = [folder / f"steps-{rank}.json" for rank in range(plan.workers)]
    files.append(folder / "losses.json")
    *workers, losses = [json.loads(path.read_text()) for path in files]
    for path in files:
        path.unlink()
    one = Run.of(workers, losses)
    _verify(title, plan, one)
    return one


def _verify(title: str, plan: RunPlan, one: Run) -> None:
    """Refuse to tell figures of a run that did not do what it should."""
    if len(one.ends) != plan.workers * plan.steps:
        raise CaseError(
            f"{title}: {len(one.ends)} steps were made instead of {plan.workers * plan.steps}"
        )
    model = policy(plan.policy)
    if isinstance(model, SSP) and max(one.staleness) > model.staleness:
        raise CaseError(f"{title}: a pull was {max(one.staleness)} steps ahead of the slowest")
    if not math.isfinite(one.final_loss):
        raise CaseError(f"{title}: the loss is {one.final_loss}; give a smaller --lr")


def _result(
    options: argparse.Namespace, scene: Scene, problem: Problem, runs: list[list[Run]]
) -> dict[str, Any]:
    target = options.target
    if target is None:
        every = [run for repeats in runs for run in repeats]
        target = default_target(problem.zero_loss, problem.bayes_loss, every)
    return {
        "delays": scene.delays(),
        "sharing": scene.sharing(),
        "target": target,
        "bayes_loss": problem.bayes_loss,
        "policies": [
            {"policy": name, "label": label(name), **figures_of(repeats, target)}
            for name, repeats in zip(options.policies, runs, strict=True)
        ],
    }


def _problem(options: argparse.Namespace) -> Problem:
    if options.data is not None:
        return read([options.data], options.seed)
    return generated(options.features, options.examples, options.seed)


def _scenes(options: argparse.Namespace) -> list[Scene]:
    if not options.slow and options.stall is None:
        return list(default_scenes(options.chunks))
    return [Scene(tuple(options.slow or ()), options.stall, options.chunks)]


def _check(options: argparse.Namespace, scenes: list[Scene]) -> None:
    """End the process (code 2) on options that do not fit each other."""
    refuse = options.parser.error
    ranks = [each.rank for scene in scenes for each in scene.slow]
    for rank in ranks:
        if rank >= options.workers:
            refuse(
                f"--slow rank={rank}: with --workers {options.workers} ranks are 0 to "
                f"{options.workers - 1}"
            )
    if len(set(ranks)) < len(ranks):
        refuse("--slow: give each rank once")
    for name in options.policies:
        model = policy(name)
        if isinstance(model, BSP) and model.backup >= options.workers:
            refuse(f"--policies {name}: there must be more --workers than backup workers")
    try:
        check_picture("--plot", options.plot)
    except FastPSError as error:
        refuse(str(error))
    if options.plot is not None and importlib.util.find_spec("matplotlib") is None:
        refuse("--plot needs matplotlib: pip install 'fastps[train]'")


def _subject(options: argparse.Namespace) -> str:
    data = "generated sparse data" if options.data is None else options.data.name
    return (
        f"Logistic regression ({options.optimizer}) on {data}, {options.workers} workers, "
        f"a step is {options.step_ms:g} ms"
    )


def _as_text(options: argparse.Namespace) -> argparse.Namespace:
    """Return the options with what JSON does not know as text."""
    plain = dict(vars(options))
    for name in ("data", "plot"):
        plain[name] = plain[name] and str(plain[name])
    plain["slow"] = [vars(each) for each in options.slow or ()]
    plain["stall"] = options.stall and vars(options.stall)
    return argparse.Namespace(**plain)


def _fields(text: str, *names: str) -> list[float]:
    """Return the numbers of ``name=number,name=number``; each name once, in any order."""
    given = dict(part.partition("=")[::2] for part in text.split(","))
    if set(given) != set(names) or text.count(",") != len(names) - 1:
        form = ",".join(f"{name}=NUMBER" for name in names)
        raise argparse.ArgumentTypeError(f"{text!r} is not {form}")
    try:
        return [float(given[name]) for name in names]
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r}: {error}") from error


def _factor(text: str, factor: float) -> float:
    if not 1 <= factor <= FACTOR_MAX:
        raise argparse.ArgumentTypeError(f"{text!r}: factor is not from 1 to {FACTOR_MAX:g}")
    return factor


def _slow(text: str) -> Slow:
    rank, factor = _fields(text, "rank", "factor")
    if rank < 0 or rank != int(rank):
        raise argparse.ArgumentTypeError(f"{text!r}: rank is not a whole number from 0 on")
    return Slow(int(rank), _factor(text, factor))


def _stall(text: str) -> Stall:
    share, factor = _fields(text, "p", "factor")
    if not 0 <= share <= 1:
        raise argparse.ArgumentTypeError(f"{text!r}: p is not from 0 to 1")
    return Stall(share, _factor(text, factor))


def _policies(text: str) -> list[str]:
    names = [word for word in text.split(",") if word]
    if not names or len(set(names)) < len(names):
        raise argparse.ArgumentTypeError(f"{text!r} does not name policies, each once")
    for name in names:
        try:
            policy(name)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from error
    return names


def _number(text: str, least: float, most: float) -> float:
    number = float(text)
    if not least < number <= most:
        raise argparse.ArgumentTypeError(f"{text} is not above {least:g} and at most {most:g}")
    return number


def _milliseconds(text: str) -> float:
    return _number(text, 0, 60_000)


def _loss(text: str) -> float:
    return _number(text, 0, 100)


def _rate(text: str) -> float:
    return _number(text, 0, 1e6)


def _seed(text: str) -> int:
    number = int(text)
    if number < 0:
        raise argparse.ArgumentTypeError(f"{text} is not at least 0")
    return number
