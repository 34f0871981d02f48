"""The one tree of exceptions: each message says what is wrong, with which value, and what to do.

The command line turns any `SS4RecError` into one sentence on stderr and its `exit_code`; anything else is
a bug and keeps its traceback.
"""


class SS4RecError(Exception):
    """Base of all errors that this project raises on purpose."""

    exit_code = 1


class UsageError(SS4RecError):
    """The user's input (file, option, configuration) cannot be used as it is."""

    exit_code = 2


class ConfigError(UsageError):
    """A configuration has unknown keys or values out of range; lists every problem at once."""


class DataError(UsageError):
    """A source file, a prepared folder or a shard is missing, damaged or of another version."""


class BackendError(UsageError):
    """A compute backend was asked for by name and cannot run here."""


class ResourceError(UsageError):
    """The cluster is too small for what was asked, so the run would wait for ever."""


class ContractError(SS4RecError):
    """Data, cut and run do not belong together, so no figure would mean what it says."""

    exit_code = 3


class CheckpointError(SS4RecError):
    """A checkpoint is missing, torn, or belongs to another configuration."""


class LeaseError(SS4RecError):
    """Another attempt writes this run folder, or has taken it over."""


class NonFiniteError(SS4RecError):
    """A loss or a gradient became NaN or infinite; training stopped before the update."""


BUGS = (TypeError, ValueError, LookupError, AttributeError, AssertionError, NotImplementedError, ImportError)
"""Errors that a restart only repeats; others that are not ours (lost peers, devices, files) may be infrastructure."""
