"""The scores of an interrupted `score`: those of each finished chunk of rows, beside its file until that is whole."""

import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor

from pyro_vae.atomic_write import read_json, read_tensors, write_json, write_tensors
from pyro_vae.errors import InputError
from pyro_vae.evidence.evidence_methods import Estimator
from pyro_vae.evidence.importance_sampling import Evidence
from pyro_vae.evidence.log_px_result import LogPx
from pyro_vae.run_folder import SETTINGS


@dataclass(frozen=True, kw_only=True)
class KeptLogPx(LogPx):
    """log p(x) of rows, read from a file, with k-hat (N,), NaN where there is none, and the share of bad ones."""

    khat: Tensor
    bad_share: float | None

    @property
    def khat_bad(self) -> float | None:
        return self.bad_share


class UnfinishedScores:
    """A folder `FILE.unfinished` beside the file that scores are written to, with a file for each chunk of rows.

    Args:
        path: the file that scores are written to.
        resume: whether the chunks that are there are used; `InputError` where there are none, and, without it, where
            there are some.
    """

    def __init__(self, path: Path, resume: bool) -> None:
        self.path, self.folder = path, path.with_name(f"{path.name}.unfinished")
        is_there = (self.folder / SETTINGS).exists() and len(self) > 0
        if resume and not is_there:
            raise InputError(f"{path}: no interrupted score is kept there ({self.folder}): leave out --resume")
        if is_there and not resume:
            raise InputError(
                f"{self.folder} holds the scores of {len(self)} chunks of rows of an interrupted score: go on with "
                "--resume, or delete it"
            )
        self.settings = read_json(self.folder / SETTINGS) if is_there else {}

    def __len__(self) -> int:
        return len(list(self.folder.glob("chunk-*.safetensors")))

    @property
    def estimator(self) -> Estimator | None:
        """How the chunks that are there were scored."""
        return Estimator(**self.settings["estimator"]) if self.settings else None

    def begin(self, estimator: Estimator, about: Mapping[str, object]) -> None:
        """Note what the scores depend on; `InputError` where those that are there depend on something else.

        Args:
            estimator: how log p(x) is computed.
            about: what identifies the program and the rows, as JSON can hold it.
        """
        now = {"estimator": asdict(estimator), **about}
        if changed := [name for name in now if self.settings and self.settings.get(name) != now[name]]:
            raise InputError(
                f"{self.folder} holds scores of another {' and '.join(changed)}: use the same again, or delete it"
            )
        if not self.settings:
            write_json(self.folder / SETTINGS, now)

    def read(self, number: int) -> LogPx | None:
        """log p(x) of a chunk, nats; None where it is not there."""
        path = self._chunk(number)
        if not path.exists():
            return None
        tensors, about = read_tensors(path)
        return KeptLogPx(
            log_px=tensors["log_px"],
            mc_se=tensors["mc_se"],
            khat=tensors["khat"],
            measure=about["measure"],
            kind=about["kind"],
            bad_share=about["bad_share"],
            reasons={int(row): reason for row, reason in about["reasons"].items()},
        )

    def write(self, number: int, found: LogPx) -> None:
        """Keep log p(x) of a chunk.

        Args:
            number: the chunk's number, from zero.
            found: log p(x) of its rows, nats.
        """
        khat = found.khat if isinstance(found, Evidence) else torch.full_like(found.log_px, torch.nan)
        about = {"measure": found.measure, "kind": found.kind, "bad_share": found.khat_bad}
        reasons = {str(row): reason for row, reason in found.reasons.items()}
        tensors = {"log_px": found.log_px, "mc_se": found.mc_se, "khat": khat}
        write_tensors(self._chunk(number), tensors, about | {"reasons": reasons})

    def remove(self) -> None:
        """Remove the folder: the file is whole."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _chunk(self, number: int) -> Path:
        return self.folder / f"chunk-{number:06d}.safetensors"
