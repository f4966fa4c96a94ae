"""What goes wrong in a turn, in words: a sentence for the user, and a name for the log."""

import json
import re

import agents
import openai


def name_of(error: BaseException | None) -> str:
    """Name an error without its text, which may quote the provider, a key or what somebody wrote."""
    names = []
    while error is not None:
        status = getattr(error, "status_code", None)
        code = re.sub(r"[^\w.-]", "?", str(getattr(error, "code", None) or ""))[:50]  # such as "model_not_found"
        names.append(" ".join([type(error).__name__, *([str(status)] if status else []), *([code] if code else [])]))
        error = error.__cause__ or error.__context__
    return " from ".join(names)


def sentence_for(error: BaseException) -> str:
    """Say in words for the user what went wrong; never in the error's own, which may hold the provider's text."""
    match error:
        case agents.MaxTurnsExceeded():
            return "The assistant took too many steps without coming to an end. Please try a simpler request."
        case (
            agents.InputGuardrailTripwireTriggered()
            | agents.OutputGuardrailTripwireTriggered()
            | agents.ToolInputGuardrailTripwireTriggered()
            | agents.ToolOutputGuardrailTripwireTriggered()
        ):
            return "The assistant's rules do not allow this."
        case openai.AuthenticationError() | openai.PermissionDeniedError():
            return "The model's provider refused the server's API key. Its owner must check it."
        case openai.RateLimitError():
            return "The model is overloaded or its quota is used up. Please try again in a minute."
        case openai.NotFoundError():
            return "The model's provider does not know this model. The server's owner must check its name."
        case agents.ToolTimeoutError():
            return "A tool did not answer in time. Please try again."
        case agents.ModelRefusalError():
            return "The model declined to answer this."
        case openai.APITimeoutError() | agents.ModelTimeoutError():
            return "The model did not answer in time. Please try again."
        case openai.APIConnectionError() | OSError():
            return "The connection to the model failed. Please try again."
        case openai.APIStatusError(status_code=status) if 300 <= status < 400:
            return "The model's provider sent a redirect, which is not followed. The server's owner must check its URL."
        case openai.APIResponseValidationError():
            return "The model's answer came compressed, which is not read. The server's owner must check its provider."
        case openai.APIStatusError() | openai.APIError():
            return "The model's provider reported an error. Please try again."
        case agents.ModelBehaviorError() | UnicodeError() | json.JSONDecodeError():
            return "The model's answer broke off. Please try again."
        case _:
            return "Something went wrong while answering. Please try again."
