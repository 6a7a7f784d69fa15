# SPDX-License-Identifier: GPL-2.0-or-later
"""What can go wrong in the harness, named by who is at fault."""


class HarnessError(Exception):
    """Base of everything that the harness raises."""


class MissingTool(HarnessError):
    """The user's machine lacks a program; the message says what to install."""


class BuildFailed(HarnessError):
    """An image could not be made; the message carries the failing command's output."""


class MachineFailed(HarnessError):
    """QEMU, Xen or dom0's kernel is gone or has panicked: nothing can be asked of this machine any more."""


class WaitTimedOut(HarnessError):
    """Neither success nor failure was seen before the deadline."""


class CommandFailed(HarnessError):
    """A command inside the machine ended with a status that its caller did not expect."""


class DomainGone(HarnessError):
    """The guest was destroyed, or its console closed, while something was asked of it."""


class AgentMisbehaved(HarnessError):
    """What came over a command channel is not what an agent says."""
