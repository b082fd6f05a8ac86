"""One folder for each paper."""

from common.help import without_torch

without_torch()
