"""Frey Face: 1,965 frames of one face, 28 x 20 pixels, in a MATLAB file that nobody serves with a checksum any more."""

import hashlib
from pathlib import Path

import torch
from torch import Tensor

from common.data.fetch import found
from common.errors import BadInput

FILE, SHAPE = "frey_rawface.mat", (560, 1965)
SOURCE = "https://cs.nyu.edu/~roweis/data/frey_rawface.mat"


def load(data_dir: Path) -> tuple[Tensor, str]:
    """data_dir/frey_rawface.mat -> (1965, 560), grey levels in [0, 1), and the file's sha256.

    Raises:
        BadInput: the file is missing or is not Frey Face; says where to get it, where to put it.
    """
    [path] = found(data_dir, "Frey Face", {FILE: None}, source=SOURCE)
    from scipy.io import loadmat

    try:
        pixels = loadmat(path)["ff"]
    except Exception as error:  # scipy raises what it meets: ValueError, TypeError, KeyError, zlib.error, ...
        reason = " ".join(str(error).split()) or type(error).__name__
        raise BadInput(f"Frey Face: {path.absolute()} is not the MATLAB file of {SOURCE} ({reason}): get it again") from error
    if pixels.shape != SHAPE or pixels.dtype != "uint8":
        what = f"{pixels.dtype} of shape {pixels.shape}, not uint8 of shape {SHAPE}"
        raise BadInput(f"Frey Face: {path.absolute()} holds {what}: get it again from {SOURCE}")
    return torch.from_numpy(pixels.T.copy()).to(torch.get_default_dtype()) / 256, hashlib.sha256(path.read_bytes()).hexdigest()
