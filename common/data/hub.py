"""Data sets of the Hugging Face hub: what lies there, and what is downloaded where it does not."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from common.data.fetch import GET, TIMEOUT, filling
from common.errors import BadInput

Places = Sequence[Path]  # of a split: the first that is there is taken; names may have wildcards


@dataclass(frozen=True)
class Hub:
    """A data set of the hub, or its official files instead."""

    name: str  # for messages
    repository: str
    revision: str
    pattern: str  # of its files, which keep their paths below `to`
    to: Path
    official: str  # what may lie there instead

    @property
    def advice(self) -> str:
        which = f'--repo-type dataset --revision {self.revision} --include "{self.pattern}"'
        return GET.format(f"with `hf download {self.repository} {which} --local-dir {self.to.absolute()}`, or {self.official},")

    def files(self, places: Places) -> list[Path]:
        """A split's files. Raises BadInput: there are none, or not as many shards as their names say."""
        for place in places:
            if some := sorted(place.parent.glob(place.name)):
                said = re.search(r"-of-(\d+)\.parquet$", some[0].name)
                if said and len(some) != int(said[1]):
                    raise BadInput(f"{self.name}: {place.absolute()}: {len(some)} of {int(said[1])} shards: {self.advice}")
                return some
        raise BadInput(f"{self.name}: there is no {', no '.join(str(place.absolute()) for place in places)}: {self.advice}")

    def has(self, splits: Sequence[Places]) -> bool:
        try:
            return all(self.files(places) for places in splits)
        except BadInput:
            return False

    def fetch(self, data_dir: Path, splits: Sequence[Places]) -> None:
        """Download what matches the pattern, unless each split is there whole.

        For the main process only; several runs may do it at once. Killed at any moment it leaves whole files, or none.

        Raises:
            BadInput: it cannot be had; the folder cannot be written.
        """
        if self.has(splits):
            return  # without writing: the folder may be read-only
        from huggingface_hub import HfApi

        hub, pinned = HfApi(), {"repo_id": self.repository, "revision": self.revision}
        with filling(data_dir, self.name):  # the hub's locks let a second run delete what the first one reads
            if not self.has(splits):
                try:
                    hub.dataset_info(**pinned, timeout=TIMEOUT / 4)  # of several addresses; what follows waits for ever
                    how = {"allow_patterns": self.pattern, "local_dir": self.to, "etag_timeout": TIMEOUT}
                    hub.snapshot_download(**pinned, repo_type="dataset", **how)
                except Exception as error:  # its HTTP client's among them
                    reason = str(error.__cause__ or error).strip().split("\n")[0] or type(error).__name__
                    where = f"{hub.endpoint}/datasets/{self.repository} to {self.to.absolute()}"
                    raise BadInput(f"{self.name}: cannot download {where} ({reason}): {self.advice}") from error
        for places in splits:
            self.files(places)
