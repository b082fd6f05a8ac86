"""Data: batches as a pure function of (seed, step), and the files of a data set."""

from common.data.order import mix, permuted, share

__all__ = ["mix", "permuted", "share"]
