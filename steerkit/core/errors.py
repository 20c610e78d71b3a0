"""Every error that a user can cause or meet, with the exit code the command line gives it.

A message says what is wrong, where, and what to do about it, in one line.
Exit codes: 1, the request was sound but could not be carried out (a damaged file, a full disk, a
download that failed); 2, the request itself cannot be meant (an unknown option value, a layer the model
does not have, a file that does not exist).
"""

from __future__ import annotations


class SteerkitError(Exception):
    """Base of all user-facing errors: the request was sound but could not be carried out."""

    exit_code = 1


class MisuseError(SteerkitError):
    """What was asked for cannot be meant: a bad value, an unknown name, a missing file."""

    exit_code = 2


class InputError(SteerkitError):
    """A file or an object exists but its contents are damaged or not what they claim to be."""


class ModelMismatchError(MisuseError):
    """A vector or a run belongs to another model than the one at hand."""


class ModelInUseError(SteerkitError):
    """Another thread is steering this very model object."""


class ProtocolMismatchError(MisuseError):
    """A run directory was begun under another protocol; resuming it would mix two experiments."""


class RunLockedError(SteerkitError):
    """Another process is writing to this run directory."""


class QueueFullError(SteerkitError):
    """As many requests wait as may."""
