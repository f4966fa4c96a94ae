"""How the Agents SDK runs agents, ours and a host's: each on a model that is checked (models/checked.py)."""

from copy import copy
from dataclasses import replace
from typing import Any

from agents import Agent, Model, ModelProvider, MultiProvider, RunConfig

from todochat.models import Choice
from todochat.models.checked import CheckedModel


class CheckedProvider(ModelProvider):
    """Gives the checked models that have the names which another provider knows."""

    def __init__(self, provider: ModelProvider, max_chars: int) -> None:
        self._provider, self._max_chars = provider, max_chars

    def get_model(self, model_name: str | None) -> Model:
        """See `agents.ModelProvider`."""
        return CheckedModel(self._provider.get_model(model_name), self._max_chars)

    async def aclose(self) -> None:
        """See `agents.ModelProvider`."""
        await self._provider.aclose()


def checked_agent(agent: Agent[Any], max_chars: int, known: dict[int, Agent[Any]] | None = None) -> Agent[Any]:
    """Return a shallow copy of an agent whose model is checked, and those of the agents that it hands over to."""
    known = {} if known is None else known
    if id(agent) in known:
        return known[id(agent)]
    checked = known[id(agent)] = copy(agent)
    if isinstance(agent.model, Model):
        checked.model = CheckedModel(agent.model, max_chars)
    checked.handoffs = [_checked_handoff(handoff, max_chars, known) for handoff in agent.handoffs]
    return checked


def _checked_handoff(handoff: Any, max_chars: int, known: dict[int, Agent[Any]]) -> Any:
    if isinstance(handoff, Agent):
        return checked_agent(handoff, max_chars, known)
    invoke = handoff.on_invoke_handoff

    async def invoke_checked(*arguments: Any) -> Agent[Any]:
        return checked_agent(await invoke(*arguments), max_chars, known)

    return replace(handoff, on_invoke_handoff=invoke_checked)


def run_config(choice: Choice, max_chars: int) -> RunConfig:
    """Return how agents run: on the model of choice, checked, or each on its own."""
    return RunConfig(
        model=None if choice.model is None else CheckedModel(choice.model, max_chars),
        model_provider=CheckedProvider(MultiProvider(), max_chars),
        model_settings=choice.settings,
        tracing_disabled=True,  # it would reach for the network
        tool_not_found_behavior="return_error_to_model",  # what the model invents is the model's to mend
    )
