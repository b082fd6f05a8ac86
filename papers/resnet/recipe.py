"""The recipe that all nets are trained by."""

from dataclasses import dataclass

from common.options import at_least_one, fraction, positive


@dataclass(frozen=True)
class Config:
    """Hyper-parameters that Sec. 3.4 and 4.2 have in common."""

    batch_size: int
    """Images for one update, on all processes together."""
    steps: int
    """Updates."""
    drops: tuple[int, ...]
    """The rate is divided by 10 after so many updates."""
    evaluate_every: int
    """Updates between two looks at the test set."""
    lr: float = 0.1
    """Learning rate at the start."""
    momentum: float = 0.9
    weight_decay: float = 1e-4
    """Of all weights, those of batch norm among them (the paper names no exception)."""

    def __post_init__(self) -> None:
        positive(self, "lr")
        at_least_one(self, "batch_size", "steps", "evaluate_every")
        fraction(self, "momentum")
        if not 0 <= self.weight_decay < float("inf"):
            raise ValueError(f"--weight-decay must not be negative, got {self.weight_decay}")

    def lr_at(self, step: int) -> float:
        return self.lr / 10 ** sum(step >= drop for drop in self.drops)
