"""The script of loading.py with little patience for data that never comes."""

from common import signals
from common.command import reproduce
from tests.loading import EXPERIMENTS, train

signals.SILENCE, signals.PATIENCE = 6.0, 1.0

if __name__ == "__main__":
    reproduce(EXPERIMENTS, train)
