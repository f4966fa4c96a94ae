"""How the Agents SDK runs agents, ours and a host's: on models that are checked (models/checked.py), whoever asks."""

from collections.abc import AsyncGenerator
from contextvars import ContextVar
from typing import Any

from agents import (
    Agent,
    Model,
    ModelBehaviorError,
    ModelResponse,
    ModelSettings,
    MultiProvider,
    RunConfig,
    TResponseInputItem,
    Usage,
)
from agents.items import TResponseStreamEvent
from agents.models import get_default_model_settings
from agents.run import CallModelData, ModelInputData
from openai.types.responses import Response, ResponseUsage

from todochat.models import Choice
from todochat.models.checked import stream_checked

_ASKING: ContextVar[Agent[Any]] = ContextVar("todochat_asking")  # the agent that is about to ask its model


def run_config(choice: Choice, max_chars: int) -> RunConfig:
    """Return how agents run: on the model of choice, checked, or each on its own."""
    return RunConfig(
        model=RunModel(choice.model, max_chars),
        call_model_input_filter=_note_agent,
        model_settings=choice.settings,
        tracing_disabled=True,  # it would reach for the network
        tool_not_found_behavior="return_error_to_model",  # what the model invents is the model's to mend
    )


def _note_agent(data: CallModelData[Any]) -> ModelInputData:
    """Take note of who asks: the SDK calls this before each request to a model, in the task that makes it."""
    _ASKING.set(data.agent)
    return data.model_data


class RunModel(Model):
    """The model of a run: the one of choice, or that of the agent which asks; checked, whichever it is.

    The SDK asks it for all agents of a run: those that are handed over to, and those that are tools of others, whose
    runs inherit the configuration of the one that they are in (unless `as_tool` was given another).
    """

    def __init__(self, chosen: Model | None, max_chars: int) -> None:
        self._chosen, self._max_chars = chosen, max_chars
        self._provider = MultiProvider()  # knows the models that agents have by name

    def _model(self) -> Model:
        if self._chosen is not None:
            return self._chosen
        model = _ASKING.get().model
        return model if isinstance(model, Model) else self._provider.get_model(model)

    def stream_response(
        self,
        system_instructions: str | None,
        input: str | list[TResponseInputItem],
        model_settings: ModelSettings,
        *args: Any,
        **kwargs: Any,
    ) -> AsyncGenerator[TResponseStreamEvent, None]:
        """See `agents.Model`."""
        if self._chosen is None:
            model_settings = _with_those_of_its_name(_ASKING.get(), model_settings)
        request = system_instructions, input, model_settings
        return stream_checked(self._model(), self._max_chars, *request, *args, **kwargs)

    async def get_response(self, *args: Any, **kwargs: Any) -> ModelResponse:
        """See `agents.Model`. Agents that are tools ask like this, for what all others get as a stream."""
        response: Response | None = None
        async for event in self.stream_response(*args, **kwargs):
            if event.type == "response.completed":
                response = event.response
        if response is None:
            raise ModelBehaviorError("The stream ended without an answer.")
        return ModelResponse(response.output, _usage(response.usage), response.id)

    def get_retry_advice(self, request: Any) -> Any:
        """See `agents.Model`."""
        return self._model().get_retry_advice(request)


def _usage(used: ResponseUsage | None) -> Usage:
    if used is None:
        return Usage(requests=1)
    taken, made = used.input_tokens or 0, used.output_tokens or 0
    return Usage(requests=1, input_tokens=taken, output_tokens=made, total_tokens=taken + made)


def _with_those_of_its_name(agent: Agent[Any], settings: ModelSettings) -> ModelSettings:
    """Return settings with those that a model has by its name, which the SDK leaves out in a run with a model."""
    if isinstance(agent.model, Model):
        return settings
    implied = get_default_model_settings(agent.model)
    return implied.resolve(settings) if agent.model_settings == implied else settings
