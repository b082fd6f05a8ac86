"""Data sets, texts, and batches as a pure function of (seed, step). It knows no run."""
