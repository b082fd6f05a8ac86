"""The licences of data sets, as far as their sources state them: for the card of what has learned from them."""

import re
from collections.abc import Mapping
from typing import Any

GLUE = "none stated where GLUE's files are kept; each corpus has its own terms (research use)"
OURS = "made by this repository's code, MIT"
LICENCES = {  # by the first word of a data set's name in the record
    "mnist": "none stated by its authors, often cited as CC BY-SA 3.0",
    "cifar10": "none stated by its authors",
    "wikitext-2": "CC BY-SA 3.0 / GFDL (text of Wikipedia)",
    "tinyshakespeare": "public domain",
    "multi30k": "no licence file; derived from Flickr30K, whose images are for non-commercial research and education",
    "wmt14": "not known of the training texts; WMT gives its test sets out for research",
    **dict.fromkeys(("cola", "sst2", "mrpc", "rte", "qnli"), GLUE),
    "stsb": "scores CC BY-SA 4.0, texts by their source",
    "xquad": "CC BY-SA 4.0",
    "emoji": "of the drawings Apache-2.0, OFL-1.1, CC BY 4.0 and CC BY-SA 4.0, by set; of captions and keywords MIT",
}


def licence(data: Mapping[str, Any]) -> str:
    """In words, of the data that a record names."""
    name = re.match(r"[\w.-]*", data.get("name", ""))[0]
    return LICENCES.get(name, OURS if data.get("generator") else "not known")
