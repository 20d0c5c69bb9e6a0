"""DiffTORI: differentiable trajectory optimization for model-based reinforcement learning."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from difftori.agent import load_agent

__all__ = ["load_agent"]


def __getattr__(name: str) -> Any:
    """Import torch and the rest only when an agent is asked for."""
    if name == "load_agent":
        from difftori.agent import load_agent

        return load_agent
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
