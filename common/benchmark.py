"""Speeds as ratios: timings on shared machines drift, so all variants take turns in one process."""

import statistics
import time
from collections.abc import Callable

import torch


def compare(variants: dict[str, Callable[[], object]], amount: float, unit: str, *, blocks: int = 7) -> dict[str, float]:
    """Time the variants in alternating blocks, each after a call to warm up, and print their speeds.

    Args:
        variants: name -> a block of work.
        amount: how many `unit`s of work one block does.

    Returns:
        The median over blocks of each variant's speed in terms of the first's.
    """

    def speed(block: Callable[[], object]) -> float:
        start = time.perf_counter()
        block()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        return amount / (time.perf_counter() - start)

    for block in variants.values():
        speed(block)
    speeds: dict[str, list[float]] = {name: [] for name in variants}
    for _ in range(blocks):
        for name, block in variants.items():
            speeds[name].append(speed(block))
    first, medians = next(iter(speeds.values())), {}
    for name, measured in speeds.items():
        ratios = [a / b for a, b in zip(measured, first, strict=True)]
        medians[name] = statistics.median(ratios)
        spread = f"{medians[name]:.2f} times the first ({min(ratios):.2f} to {max(ratios):.2f})"
        print(f"{name:48} {statistics.median(measured):8,.0f} {unit}/s   {spread}", flush=True)
    return medians
