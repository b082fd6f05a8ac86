"""What all papers share and no paper is about: data (`data/`), the life of a run (`run`), claims and their verdicts (`claims`)."""
