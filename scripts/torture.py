"""What a run survives: kills, full disks, changed bits, two writers, extreme numbers; seeded and resumable.

    python scripts/torture.py FOLDER                       # everything, about an hour
    python scripts/torture.py FOLDER --part kills --kills 10
    python scripts/torture.py FOLDER --write               # and write the figures into docs/reliability.md

Each case is kept in FOLDER as NAME.json and is not run again. Tables of bad input are another script's. Needs a system
with `fork`; the part `disks` mounts small file systems, and is left out without the right to.
"""

import importlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

import click
import numpy as np
import torch

import pyro_vae as pv
from pyro_vae import atomic_write
from pyro_vae.atomic_write import read_json, write_json
from pyro_vae.cli.main import main as pyro_vae_command

REPOSITORY = Path(__file__).parent.parent
PAGE, BEGIN, END = REPOSITORY / "docs" / "reliability.md", "<!-- torture: begin -->\n", "<!-- torture: end -->\n"
EPOCHS, CHECKPOINT_SECONDS = 8, 0.0  # a checkpoint after each epoch, so that a kill falls between any two
WRITES = ("half", "before the rename", "after the rename")
MOST_WRITES = 24  # of a fit of this length
LONGEST_KILL = 3.0  # seconds
NOT_COMPARED = {"checkpoint/previous.safetensors"}  # whether there is one depends on when checkpoints were written
TIMES = ("seconds",)
IMPORTED_ONCE = ("pandas", "matplotlib.pyplot", "pyro_vae.workflows.fit_run", "pyro_vae.plots.fit_figures")
Words = Sequence[str]


# One process that is killed


def run_command(words: Words, prepare: Callable[[], None] = lambda: None, wait: float | None = None) -> int:
    """The exit code of a command in a process of its own, which is killed after some seconds; negative for a signal."""
    pid = os.fork()
    if pid == 0:
        nowhere = os.open(os.devnull, os.O_RDWR)
        for stream in (0, 1, 2):
            os.dup2(nowhere, stream)
        sys.argv = ["pyro-vae", *words]
        with suppress(BaseException):
            prepare()
        try:
            pyro_vae_command(words)
        except SystemExit as error:
            os._exit(int(error.code or 0))
        finally:
            os._exit(70)
    if wait is not None:
        time.sleep(wait)
        os.kill(pid, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def checkpoint_each_epoch() -> None:
    from pyro_vae.inference.svi import checkpoint

    checkpoint.SECONDS_BETWEEN_CHECKPOINTS = CHECKPOINT_SECONDS


def kill_at_write(number: int, where: str) -> Callable[[], None]:
    """A preparation after which a process kills itself at its n-th atomic write, from zero."""

    def prepare() -> None:
        checkpoint_each_epoch()
        writes, sync, replace = 0, os.fsync, Path.replace

        def counted_sync(file: int) -> None:
            nonlocal writes
            writes += 1
            if writes - 1 == number and where == "half":
                os.ftruncate(file, os.fstat(file).st_size // 2)
                os.kill(os.getpid(), signal.SIGKILL)
            sync(file)

        def counted_replace(self: Path, target: Path) -> Path:
            if writes - 1 == number and where == "before the rename":
                os.kill(os.getpid(), signal.SIGKILL)
            moved = replace(self, target)
            if writes - 1 == number and self.name.endswith(".partial"):
                os.kill(os.getpid(), signal.SIGKILL)
            return moved

        atomic_write.os.fsync = counted_sync  # type: ignore[assignment]
        Path.replace = counted_replace  # type: ignore[method-assign, assignment]

    return prepare


# What a run is compared by


def contents(run: Path) -> dict[str, object]:
    """Every file of a run by its name: weights and pictures as bytes, the others without times."""
    found: dict[str, object] = {}
    for path in sorted(run.rglob("*")):
        name = str(path.relative_to(run))
        if path.is_dir() or name in NOT_COMPARED:
            continue
        if path.suffix == ".json":
            found[name] = without_times(read_json(path))
        elif path.suffix == ".jsonl":
            lines = path.read_text("utf-8").splitlines()
            found[name] = [without_times(json.loads(line), "crc") for line in lines]
        elif name.startswith("checkpoint"):
            tensors, about = atomic_write.read_tensors(path)
            tensors_now = {key: value.numpy().tobytes() for key, value in tensors.items()}
            found[name] = tensors_now, without_times(about)
        else:
            found[name] = path.read_bytes()
    return found


def without_times(value: object, *others: str) -> object:
    """A JSON value without the keys that hold times, or others; paths of runs are left out too."""
    if isinstance(value, dict):
        left_out = {*TIMES, "run", *others}
        return {key: without_times(item, *others) for key, item in value.items() if key not in left_out}
    return [without_times(item, *others) for item in value] if isinstance(value, list) else value


def differences(first: dict[str, object], second: dict[str, object]) -> list[str]:
    """The names of files that differ, or are in one of both alone."""
    return sorted(name for name in first.keys() | second.keys() if first.get(name) != second.get(name))


# The parts


class Torture:
    """The cases of one folder.

    Args:
        folder: where results are kept.
        seed: of all cases.
    """

    def __init__(self, folder: Path, seed: int) -> None:
        for module in IMPORTED_ONCE:
            importlib.import_module(module)
        self.folder, self.seed = folder, seed
        folder.mkdir(parents=True, exist_ok=True)
        self.table = folder / "table.csv"
        if not self.table.exists():
            generator = np.random.default_rng(seed)
            values = generator.normal(size=(120, 2)) @ generator.normal(size=(2, 3)) + 0.1
            np.savetxt(self.table, values, delimiter=",", header="a,b,c", comments="")
        self.fit = ["fit", "--data", str(self.table), "--epochs", str(EPOCHS), "--hidden", "4", "--latent-dim", "2"]
        self.whole = folder / "whole"
        if not (self.whole / "evaluation.json").exists():
            shutil.rmtree(self.whole, ignore_errors=True)
            if code := run_command([*self.fit, "--out", str(self.whole)], checkpoint_each_epoch):
                raise click.ClickException(f"the fit that nothing interrupts ended with exit code {code}")
        self.expected = contents(self.whole)

    def case(self, name: str, run: Callable[[Path, random.Random], dict[str, object]]) -> dict[str, object]:
        """What a case found, from its file where it was run before."""
        path = self.folder / f"{name}.json"
        if not path.exists():
            with tempfile.TemporaryDirectory(dir=self.folder) as place:
                write_json(path, run(Path(place), random.Random(f"{self.seed} {name}")))
            print(name, file=sys.stderr, flush=True)
        return read_json(path)

    def resume(self, run: Path) -> int:
        """The exit code of the fit or of its resumption, whichever a killed run needs."""
        begun = (run / "config.toml").exists()
        words = ["fit", "--resume", str(run)] if begun else [*self.fit, "--out", str(run)]
        return run_command(words, checkpoint_each_epoch)

    def kill(self, number: int) -> Callable[[Path, random.Random], dict[str, object]]:
        """A case: a fit is killed once, or several times, and resumed to its end."""

        def run(place: Path, chance: random.Random) -> dict[str, object]:
            run, kills = place / "run", 1 + chance.randrange(2)
            where = []
            for _ in range(kills):
                begun = (run / "config.toml").exists()
                words = ["fit", "--resume", str(run)] if begun else [*self.fit, "--out", str(run)]
                if number % 2:
                    at, how = chance.randrange(MOST_WRITES), chance.choice(WRITES)
                    code = run_command(words, kill_at_write(at, how))
                    where.append(f"write {at}, {how}: {code}")
                else:
                    wait = chance.uniform(0.05, LONGEST_KILL)
                    code = run_command(words, checkpoint_each_epoch, wait)
                    where.append(f"{wait:.2f} s: {code}")
            code = self.resume(run)
            found = {"where": where, "code": code}
            try:
                return found | {"differ": differences(self.expected, contents(run))}
            except pv.InputError as error:
                return found | {"differ": [str(error)]}

        return run

    def two_writers(self, place: Path, chance: random.Random) -> dict[str, object]:
        """A case: two fits into one folder, one a little later."""
        run = place / "run"
        words = [sys.executable, "-m", "pyro_vae", *self.fit, "--out", str(run)]
        first = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        time.sleep(chance.uniform(0, 1.0))
        second = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        said = [each.communicate()[1].decode() for each in (first, second)]
        codes = sorted([first.returncode, second.returncode])
        others = ("writes to it", "holds a run already", "holds other files")
        is_told = any(reason in text for text in said for reason in others)
        return {"codes": codes, "told": is_told, "differ": differences(self.expected, contents(run))}

    def full_disk(self, free: int) -> Callable[[Path, random.Random], dict[str, object]]:
        """A case: a fit into a file system with some KiB free, and its resumption once there is room."""

        def run(place: Path, chance: random.Random) -> dict[str, object]:
            disk = place / "disk"
            disk.mkdir()
            size = max(8, free)
            words = ["mount", "-t", "tmpfs", "-o", f"size={size}k", "tmpfs", str(disk)]
            if subprocess.run(words, capture_output=True).returncode:
                return {"skipped": "no right to mount a file system"}
            try:
                done = subprocess.run(
                    [sys.executable, "-m", "pyro_vae", *self.fit, "--out", str(disk / "run")],
                    capture_output=True,
                    text=True,
                )
                said = done.stderr.strip().splitlines()[-1] if done.stderr.strip() else ""
                subprocess.run(["mount", "-o", "remount,size=64m", str(disk)], check=True)
                code = self.resume(disk / "run")
                differ = differences(self.expected, contents(disk / "run"))
                return {"code": done.returncode, "said": said, "resumed": code, "differ": differ}
            finally:
                subprocess.run(["umount", str(disk)], check=True)

        return run

    def extreme(self, values: np.ndarray) -> Callable[[Path, random.Random], dict[str, object]]:
        """A case: a fit to a table with extreme numbers ends with numbers, or with a reason."""

        def run(place: Path, chance: random.Random) -> dict[str, object]:
            np.savetxt(place / "t.csv", values, delimiter=",", header="a,b,c", comments="")
            words = ["fit", "--data", str(place / "t.csv"), "--epochs", "3", "--hidden", "4", "--out", str(place / "r")]
            done = subprocess.run([sys.executable, "-m", "pyro_vae", *words, "--json"], capture_output=True, text=True)
            said = [line for line in done.stderr.splitlines() if line.startswith("pyro-vae:")]
            elbo = json.loads(done.stdout)["elbo"] if done.returncode == 0 else None
            is_explained = done.returncode == 0 or len(said) == 1
            return {"code": done.returncode, "elbo": elbo, "said": said, "explained": is_explained}

        return run


def extremes(seed: int) -> dict[str, np.ndarray]:
    """Tables (60, 3) with numbers at the ends of what can be written."""
    x = np.random.default_rng(seed).normal(size=(60, 3))
    spike, equal, huge = x.copy(), x.copy(), x.copy()
    spike[7, 1], equal[:, 2], huge[:, 0] = 1e30, 3.0, x[:, 0] * 1e300
    tables = {"times 1e-300": x * 1e-300, "times 1e30": x * 1e30, "one cell of 1e30": spike, "an equal column": equal}
    return tables | {"a column times 1e300": huge, "far from zero": x + 1e9, "zeros": x * 0.0, "denormal": x * 1e-310}


# The page


def summary_of_kills(found: Sequence[dict[str, object]]) -> list[str]:
    killed = sum(": -9" in str(each["where"]) for each in found)
    same = sum(each["code"] == 0 and not each["differ"] for each in found)
    return [
        f"Kills: {len(found)} fits, half of them killed at random moments and half at a write (half of the file, "
        f"before or after the rename), once or twice; {killed} were killed before their end.",
        f"After `fit --resume` {same} of {len(found)} had the weights, metrics, evaluation (without times) and "
        "pictures of the fit that nothing interrupted, to the bit, no unreadable file and nothing left behind.",
    ]


def summary_of_disks(found: Sequence[dict[str, object]], sizes: Sequence[int]) -> list[str]:
    if any("skipped" in each for each in found):
        return []
    counts = Counter(each["code"] for each in found)
    same = sum(each["resumed"] in (0, 2) and not each["differ"] for each in found)
    codes = ", ".join(f"{count} with exit code {code}" for code, count in sorted(counts.items()))
    return [
        f"Full disks: {len(found)} fits into file systems of {min(sizes)} to {max(sizes):,} KiB ended {codes}; "
        f"given room and resumed, {same} of them ended in the same bits."
    ]


def summary(folder: Path) -> list[str]:
    """The sentences and the table of docs/reliability.md, of all cases in a folder."""

    def cases(part: str) -> list[dict[str, object]]:
        return [read_json(path) for path in sorted(folder.glob(f"{part}-*.json"))]

    lines = summary_of_kills(kills) if (kills := cases("kill")) else []
    sizes = [int(path.stem.removeprefix("disk-")) for path in folder.glob("disk-*.json")]
    lines += summary_of_disks(disks, sizes) if (disks := cases("disk")) else []
    if pairs := cases("writers"):
        right = sum(each["codes"] == [0, 2] and bool(each["told"]) and not each["differ"] for each in pairs)
        lines.append(f"Two writers: in {right} of {len(pairs)} pairs one fit was made and the other told, exit code 2.")
    if found := cases("extreme"):
        right = sum(bool(each["explained"]) for each in found)
        lines.append(f"Extreme numbers: {right} of {len(found)} tables are fitted, or refused in a line.")
    if (path := folder / "damage.json").exists():
        lines += ["", str(read_json(path)["table"])]
    return lines


def damage(torture: Torture, flips: int, cuts: int) -> Callable[[Path, random.Random], dict[str, object]]:
    """A case: flipped bits and cuts of every file."""

    def run(place: Path, chance: random.Random) -> dict[str, object]:
        sys.path.insert(0, str(REPOSITORY / "tests"))
        from run_damage import FILES, as_markdown, cut, damage_table, flip

        shutil.copytree(torture.whole, place / "run")
        flipped = damage_table(place / "run", flip, flips * len(FILES), 0)
        tables = [flipped, damage_table(place / "run", cut, cuts * len(FILES), 1)]
        return {"table": as_markdown(*tables)}

    return run


PARTS = ("kills", "disks", "writers", "extremes", "damage")


@click.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--part", "parts", multiple=True, type=click.Choice(PARTS), default=PARTS)
@click.option("--kills", default=100, help="Fits that are killed.")
@click.option("--flips", default=1000, help="Of each file.")
@click.option("--cuts", default=200, help="Of each file.")
@click.option("--seed", default=0)
@click.option("--write", is_flag=True, help="Write the figures into docs/reliability.md.")
def main(folder: Path, parts: Sequence[str], kills: int, flips: int, cuts: int, seed: int, write: bool) -> None:
    """Run what is missing, and print the figures."""
    torch.set_num_threads(1)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that file systems are unmounted
    torture = Torture(folder.resolve(), seed)
    if "kills" in parts:
        for number in range(kills):
            torture.case(f"kill-{number:03d}", torture.kill(number))
    if "disks" in parts:
        for free in (8, 16, 32, 64, 96, 128, 192, 256, 384, 512, 768, 1024):
            torture.case(f"disk-{free:04d}", torture.full_disk(free))
    if "writers" in parts:
        for number in range(5):
            torture.case(f"writers-{number}", torture.two_writers)
    if "extremes" in parts:
        for number, values in enumerate(extremes(seed).values()):
            torture.case(f"extreme-{number}", torture.extreme(values))
    if "damage" in parts:
        torture.case("damage", damage(torture, flips, cuts))
    text = "\n".join(summary(torture.folder)) + "\n"
    print(text)
    if write:
        page = PAGE.read_text("utf-8")
        before, after = page.partition(BEGIN)[0], page.partition(END)[2]
        PAGE.write_text(before + BEGIN + text + END + after, encoding="utf-8")


if __name__ == "__main__":
    main()
