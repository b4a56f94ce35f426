"""Run the harnesses, two at a time; print one table; fail if any of them failed.

    python -m tests.torture [--short] [--only NAME,...] [--seed N] [--json FILE]

Each harness makes its trials, and then proves that it sees: under each of its mutations, a
deliberate fault in featbank, it must fail. The short form checks one of them.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import json
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"  # before torch; and forked children inherit no thread teams

from tests.torture.harness import Harness, Outcome, Trials

MODULES = (
    "kills",
    "writers",
    "interrupts",
    "packing",
    "power",
    "disk",
    "machine",
    "damage",
    "images",
    "watchdog",
    "banks",
    "classifiers",
    "fuzz",
)


def load(only: str | None) -> list[Harness]:
    """Return the harnesses that were asked for."""
    found: list[Harness] = []
    for name in MODULES:
        found += importlib.import_module(f"tests.torture.{name}").HARNESSES
    if only is None:
        return found
    named = {harness.name: harness for harness in found}
    words = only.split(",")
    if unknown := [word for word in words if word not in named]:
        raise SystemExit(f"no harness {', '.join(unknown)}; there are {', '.join(named)}")
    return [named[word] for word in words]


@contextlib.contextmanager
def own_folder() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="featbank-torture-"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def attack(harness: Harness, *, short: bool, seed: int, mutations: str) -> Outcome:
    """Make the trials of a harness, and check its mutations."""
    wanted = harness.short if short else harness.long
    limit = harness.seconds
    chosen = {"all": harness.mutations, "one": harness.mutations[:1], "none": ()}[mutations]
    outcome = Outcome(harness.name, harness.claim, harness.unit, wanted)
    began = time.monotonic()
    with own_folder() as folder:
        trials = Trials(wanted, limit, seed, folder)
        with trials.checking("the harness itself"):
            harness.run(trials)
    outcome.trials, outcome.failed = trials.done, trials.failed
    outcome.failures, outcome.figures = trials.failures, dict(trials.figures)
    outcome.skipped = trials.skipped
    outcome.seconds = time.monotonic() - began
    for mutation in chosen if not outcome.skipped else ():
        with own_folder() as folder, mutation.fault():
            trials = Trials(mutation.trials, limit, seed, folder, first=True)
            with trials.checking("the harness itself"):
                harness.run(trials)
        outcome.mutations[mutation.name] = trials.failed > 0
        if not trials.failed:
            outcome.failures.append(f"blind to: {mutation.name}")
    return outcome


def fork(harness: Harness, **how: object) -> tuple[int, int]:
    """Attack in a forked child; return its process and the pipe on which its outcome comes."""
    read, write = os.pipe()
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if pid:
        os.close(write)
        return pid, read
    try:
        os.close(read)
        os.setpgid(0, 0)
        outcome = attack(harness, **how)  # type: ignore[arg-type]
        with os.fdopen(write, "w") as pipe:
            json.dump(vars(outcome), pipe)
    finally:
        os._exit(0)


def run_all(harnesses: list[Harness], *, jobs: int, short: bool, **how: object) -> list[Outcome]:
    """Attack all, `jobs` at a time; one that dies or hangs has failed."""
    waiting, running, ended = list(harnesses), {}, {}
    while waiting or running:
        while waiting and len(running) < jobs:
            harness = waiting.pop(0)
            pid, pipe = fork(harness, short=short, **how)
            # Its trials and each of its mutations have the limit each.
            limit = 120 + harness.seconds * (1 + len(harness.mutations))
            running[pid] = (harness, pipe, time.monotonic() + limit)
        time.sleep(0.1)
        for pid, (harness, pipe, end) in list(running.items()):
            if time.monotonic() > end:
                os.killpg(pid, signal.SIGKILL)
            elif os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
                continue
            os.waitpid(pid, 0)
            with os.fdopen(pipe) as stream:
                said = stream.read()
            wanted = harness.short if short else harness.long
            outcome = Outcome(harness.name, harness.claim, harness.unit, wanted)
            if said:
                outcome = Outcome(**json.loads(said))
            else:
                outcome.failed, outcome.failures = 1, ["the harness died or hung"]
            ended[harness.name] = outcome
            del running[pid]
            word = "held" if outcome.ok else "FAILED"
            if outcome.skipped:
                word = f"SKIPPED, so not proven: {outcome.skipped}"
            print(f"{outcome.name}: {word}, {outcome.trials} {outcome.unit}", file=sys.stderr)
            for failure in outcome.failures:
                print(f"  {failure}", file=sys.stderr)
    return [ended[harness.name] for harness in harnesses]


def table(outcomes: list[Outcome]) -> str:
    """Return the table that README quotes."""
    rows = [("harness", "trials", "", "failures", "mutations seen", "seconds")]
    for one in outcomes:
        seen = f"{sum(one.mutations.values())} of {len(one.mutations)}" if one.mutations else "-"
        failed = "skipped" if one.skipped else str(one.failed)
        rows.append((one.name, str(one.trials), one.unit, failed, seen, f"{one.seconds:.0f}"))
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    left = (0, 2)
    lines = [
        "  ".join(
            cell.ljust(width) if i in left else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.torture", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--short", action="store_true", help="a few minutes, as CI runs it")
    parser.add_argument("--only", help="names of harnesses, separated by commas")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=2, help="harnesses at a time")
    parser.add_argument(
        "--mutations",
        choices=("all", "one", "none"),
        help="how many of each harness are checked; by default all, in the short form one",
    )
    parser.add_argument("--json", metavar="FILE")
    options = parser.parse_args()
    began = time.monotonic()
    with own_folder() as cache:
        os.environ["FEATBANK_CACHE"] = str(cache)
        outcomes = run_all(
            load(options.only),
            jobs=options.jobs,
            short=options.short,
            seed=options.seed,
            mutations=options.mutations or ("one" if options.short else "all"),
        )
    print(table(outcomes))
    ok = all(outcome.ok or outcome.skipped for outcome in outcomes)
    seconds = time.monotonic() - began
    word = "all held" if ok else "FAILED"
    if skipped := [outcome.name for outcome in outcomes if outcome.skipped]:
        word += f", but {', '.join(skipped)} could not be tried here"
    print(f"{word}; seed {options.seed}, {seconds:.0f} s in all")
    if options.json:
        document = {"seed": options.seed, "short": options.short, "seconds": seconds, "ok": ok}
        document["harnesses"] = [outcome.to_dict() for outcome in outcomes]
        Path(options.json).write_text(json.dumps(document, indent=2) + "\n")
    return 0 if ok else 1


if __name__ == "__main__":
    sys.exit(main())
