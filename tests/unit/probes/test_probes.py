"""The contract's words for what could not be read."""

from __future__ import annotations

import errno
import os

import pytest

from repro.probes import Absent, absent


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (PermissionError(errno.EACCES, "no"), Absent("denied", "no permission")),
        (PermissionError(errno.EPERM, "no"), Absent("denied", "no permission")),
        (FileNotFoundError(errno.ENOENT, "no"), Absent("unsupported", "not on this machine")),
        (FileNotFoundError(), Absent("unsupported", "not on this machine")),
        (NotADirectoryError(errno.ENOTDIR, "no"), Absent("unsupported", "not on this machine")),
        # A kernel with pressure stall information switched off keeps /proc/pressure and says this.
        (OSError(errno.EOPNOTSUPP, "no"), Absent("unsupported", "not on this machine")),
        (OSError(errno.ENODEV, "no"), Absent("unsupported", "not on this machine")),
        (OSError(errno.EIO, "no"), Absent("missed", "OSError")),
        (IsADirectoryError(errno.EISDIR, "no"), Absent("missed", "IsADirectoryError")),
        (ProcessLookupError(errno.ESRCH, "no"), Absent("missed", "ProcessLookupError")),
        (ValueError("no"), Absent("missed", "ValueError")),
    ],
)
def test_a_failure_to_read_is_said_in_the_words_of_the_contract(
    error: OSError | ValueError, expected: Absent
) -> None:
    assert absent(error) == expected


def test_a_reason_holds_nothing_of_this_machine() -> None:
    for number in errno.errorcode:
        reason = absent(OSError(number, os.strerror(number), "/home/somebody/secret")).reason
        assert "secret" not in reason
