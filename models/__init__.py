"""Which model answers: chosen by environment, the first setting that matches.

Nothing here changes the Agents SDK's defaults: each model gets its own client (client.py), which reads what servers
really send (streams.py); and every model is checked (checked.py).
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from agents import Model, ModelSettings, MultiProvider, OpenAIChatCompletionsModel, OpenAIResponsesModel
from agents.models import get_default_model
from openai import AsyncOpenAI
from openai.types.shared import Reasoning

from todochat.models import offline
from todochat.models.client import BadModel, client_for

GEMINI_URL = "https://generativelanguage.googleapis.com/v1beta/openai/"
OPENAI_URL = "https://api.openai.com/v1"
EFFORTS = ("none", "minimal", "low", "medium", "high", "xhigh")
REASONING = re.compile(r"o\d|gpt-(?:[5-9]|\d\d)(?!.*-chat)|codex")  # OpenAI's models that reason, by their names

__all__ = ["BadModel", "Choice", "choose_model"]


@dataclass(frozen=True)
class Choice:
    """A model, None if each agent has its own, and the name to show for it."""

    model: Model | None
    name: str
    settings: ModelSettings | None = None  # what to ask of it

    @property
    def description(self) -> str:
        """What to tell whoever starts the server."""
        return offline.WHAT_IT_IS if self.name == offline.NAME else f"the model: {self.name}"


def choose_model(env: Mapping[str, str], *, silence: float = 300.0) -> Choice:
    """Return the model that the environment names (see the table in README.md), the offline model if it names none.

    `silence` is how long, in seconds, a connection to the provider may be silent. Raises `BadModel`.
    """
    env = {name: value.strip() for name, value in env.items()}
    if (api := env.get("OPENAI_API")) not in (None, "", "responses", "chat"):
        raise BadModel('OPENAI_API must be "responses" or "chat".')
    if name := env.get("MODEL"):
        return Choice(_by_prefix(name), name)
    if key := env.get("GEMINI_API_KEY"):
        name = env.get("GEMINI_MODEL") or "gemini-flash-latest"
        return Choice(_chat(name, client_for(key, env.get("GEMINI_BASE_URL") or GEMINI_URL, silence)), name)
    key, url = env.get("OPENAI_API_KEY"), env.get("OPENAI_BASE_URL")
    if key or url:
        at_openai = (url or OPENAI_URL).startswith("https://api.openai.com")
        name = env.get("OPENAI_MODEL") or (get_default_model() if at_openai else "")
        if not name:
            raise BadModel("OPENAI_BASE_URL needs OPENAI_MODEL: the name of a model that it serves.")
        api = api or ("responses" if at_openai else "chat")
        # Local servers want no key, the client does.
        client = client_for(key or "none", url or OPENAI_URL, silence)
        model = _chat(name, client) if api == "chat" else OpenAIResponsesModel(model=name, openai_client=client)
        return Choice(model, name, _settings(name, api, env.get("OPENAI_REASONING"), at_openai=at_openai))
    return Choice(offline.OfflineModel(), offline.NAME)


def _settings(name: str, api: str, effort: str | None, *, at_openai: bool) -> ModelSettings:
    """Return what to ask of OpenAI and of servers like it: to keep nothing, and to let its reasoning be given back."""
    if effort and effort not in EFFORTS:
        raise BadModel(f"OPENAI_REASONING must be one of {', '.join(EFFORTS)}.")
    reasons = at_openai and api == "responses" and (effort or REASONING.match(name))  # others refuse to include it
    return ModelSettings(
        store=False if at_openai else None,
        reasoning=Reasoning.model_validate({"effort": effort, "summary": "auto"}) if effort else None,
        response_include=["reasoning.encrypted_content"] if reasons else None,
    )


def _by_prefix(name: str) -> Model:
    if not re.fullmatch(r"litellm/[^/]+/.+", name):
        raise BadModel("MODEL must look like litellm/<provider>/<model>.")
    try:
        return MultiProvider().get_model(name)
    except ImportError as error:
        raise BadModel("MODEL needs LiteLLM: pip install 'openai-agents[litellm]'.") from error


def _chat(name: str, client: AsyncOpenAI) -> Model:
    # The last is whether a model gets a thought back: one of its own, as some want it, whatever they are called.
    return OpenAIChatCompletionsModel(name, client, lambda thought: thought.reasoning.origin_model == thought.model)
