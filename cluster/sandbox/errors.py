"""What can go wrong with a sandbox and is not our bug."""

from __future__ import annotations

from orchestrator.errors import OrchestratorError


class SandboxError(OrchestratorError):
    """The sandbox cannot be brought up or down, or asked. The message names the place, the fact and the way out."""

    exit_code = 3
