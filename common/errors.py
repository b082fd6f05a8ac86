"""The ways a run ends on purpose. Each of the bad ones prints as one line that says what, where and what to do."""


class BadInput(Exception):
    """The command, the data or the run directory cannot be used as they are. Exit code 2."""


class BadFile(BadInput):
    """What only one of several processes knows: it says so itself, whatever its rank."""


class Failed(Exception):
    """The run itself could not go on: a non-finite loss, a full disk. Exit code 1."""


class LostWorker(Failed):
    """The same of a process that read data and died."""


class OtherData(BadInput):
    """A finished run's data or weights are not those that the command names."""


class Compared(Exception):
    """They are; nothing more is to be done."""
