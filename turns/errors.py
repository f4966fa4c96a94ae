"""What goes wrong in a turn, in words: a sentence for the user, and a name for the log."""

import json
import re
from collections.abc import Sequence
from typing import Any

import agents
import openai


class EndedEarly(agents.ModelBehaviorError):
    """The server says itself why its answer is no whole one; `code` is its word for it."""

    def __init__(self, code: object, message: object = "") -> None:
        super().__init__(f"The stream was ended by the provider: {code}. {message or ''}")
        self.code = str(code)


def raise_if_ended(event: Any) -> None:
    """Raise `EndedEarly` for an event of a model's that says why its answer is no whole one."""
    if event.type in ("error", "response.error"):
        raise EndedEarly(getattr(event, "code", None) or "error", getattr(event, "message", None))
    response = getattr(event, "response", None)
    ended = ("failed", "incomplete")
    if event.type.removeprefix("response.") in ended or getattr(response, "status", None) in ended:
        error, incomplete = getattr(response, "error", None), getattr(response, "incomplete_details", None)
        code = getattr(error, "code", None) or getattr(incomplete, "reason", None)
        raise EndedEarly(code or "error", getattr(error, "message", None))


class TooMuch(agents.AgentsException):
    """An answer takes more than its limits allow; the text is a sentence for the user."""


def name_of(error: BaseException | None) -> str:
    """Name an error without its text, which may quote the provider, a key or what somebody wrote."""
    names = []
    while error is not None:
        status = getattr(error, "status_code", None)
        code = str(getattr(error, "code", None) or "")
        code = code if re.fullmatch(r"[A-Za-z_]{,40}|\d{3}", code) else "?"  # such as "model_not_found"
        names.append(" ".join([type(error).__name__, *([str(status)] if status else []), *([code] if code else [])]))
        error = error.__cause__ or error.__context__
    return " from ".join(names)


# What servers say, each in its own words, in lower case.
_TOO_LONG = re.compile(
    r"context[ _-]?(?:length|window|size)|max(?:imum)? (?:context|prompt)|prompt (?:is )?too long"
    r"|input (?:is )?too long|too many (?:input |prompt )?tokens|reduce the length"
    r"|(?:token count|input length|tokens?) .{0,60}exceed"
    r"|request too large|entity too large|payload too large|number of tokens to keep|max_new_tokens.{0,20} must be <="
)
# Of limits by time servers speak in the same words, with an address for whoever wants to pay for more.
_PASSING = re.compile(r"(?:try again|retry) (?:in|after)\b|per (?:min|hour|day)|rate_limit_exceeded|request too large")
_KEY = re.compile(
    r"api.?key.{0,30}(?:invalid|incorrect|expired|missing|required|not )|unauthori[sz]ed|authentication"
    r"|(?:invalid|incorrect|no|missing|expired|wrong)[ _-](?:api.?key|auth|credential)"
)
_FILTER = re.compile(
    r"content.?(?:filter|policy|management)|\bfiltered\b|responsible.?ai|safety|prohibited|moderation|recitation"
    r"|^sensitive\b"
)
_QUOTA = re.compile(r"insufficient.{0,4}(?:quota|balance|credit|funds)|out of credit")
_PERHAPS_QUOTA = re.compile(r"current quota|billing")
_NO_MODEL = re.compile(
    r"model.{0,120}(?:not.{0,3}found|not exist|unknown|not available)"
    r"|(?:invalid|unknown|no such|valid|access to(?: the)?) model"
)
_NO_PLACE = re.compile(r"unexpected endpoint|(?:invalid|unknown) (?:url|path|endpoint|route)")
_OFTEN = re.compile(r"rate.?limit|too many requests|overloaded|insufficient_system_resource")
_LENGTH = ("length", "max_tokens", "max_output_tokens", "model_length")  # the answer's, not the conversation's


def too_long(error: BaseException) -> bool:
    """Return whether a server says, in whichever words, that the conversation is too long for the model."""
    if not isinstance(error, openai.APIError | EndedEarly):
        return getattr(error, "status_code", None) == 413
    return _says_too_long(_status(error), _words(error))


def _says_too_long(status: int, words: str) -> bool:
    # Where it is about what is asked in a minute, only that is too long which is more than all of it.
    return status == 413 or bool(_TOO_LONG.search(words) and (status != 429 or "request too large" in words))


def _words(error: BaseException) -> str:
    return f"{getattr(error, 'code', '')} {error} {getattr(error, 'body', None) or ''}".lower()


def _status(error: openai.APIError | EndedEarly) -> int:
    """Return the status of an error; if it came in the middle of a stream, the one that its code may be."""
    code = str(error.code)
    said = int(code) if re.fullmatch(r"[45]\d\d", code) else 0 if isinstance(error, EndedEarly) else 500
    said = 429 if code == "rate_limit_exceeded" else said
    return getattr(error, "status_code", said)


def sentence_for(error: BaseException) -> str:
    """Say in words for the user what went wrong; never in the error's own, which may hold the provider's text.

    "Please try again" is only said where that can help.
    """
    match error:
        case TooMuch():
            return str(error)
        case agents.MaxTurnsExceeded():
            return "The assistant took too many steps without coming to an end. Please try a simpler request."
        case (
            agents.InputGuardrailTripwireTriggered()
            | agents.OutputGuardrailTripwireTriggered()
            | agents.ToolInputGuardrailTripwireTriggered()
            | agents.ToolOutputGuardrailTripwireTriggered()
        ):
            return "The assistant's rules do not allow this."
        case agents.ToolTimeoutError():
            return "A tool did not answer in time. Please try again."
        case agents.ModelRefusalError():
            return _DECLINED
        case openai.APITimeoutError() | agents.ModelTimeoutError():
            return "The model did not answer in time. Please try again."
        case openai.APIConnectionError() | OSError():
            return "The connection to the model failed. Please try again."
        case openai.APIResponseValidationError(response=response):
            if "content-encoding" not in response.headers:
                return _WRONG_URL
            return "The model's answer came compressed, which is not read. The server's owner must check its provider."
        case openai.APIError() | EndedEarly():
            return _what_the_server_says(_status(error), _words(error), error.code)
        case agents.ModelBehaviorError() | UnicodeError() | json.JSONDecodeError():
            return _BROKEN_OFF
        case _:
            return "Something went wrong while answering. Please try again."


_WRONG_URL = "There is no model's server at this address. The server's owner must check its base URL."
_DECLINED = "The model declined to answer this."
_BROKEN_OFF = "The model's answer broke off. Please try again."


def sentence_for_unapproved(waiting: Sequence[agents.ToolApprovalItem]) -> str:
    """Return the sentence for a turn that ends because tools wait for an approval."""
    names = ", ".join(str(item.tool_name or "a tool") for item in waiting)
    return f"This needs an approval ({names}), and this chat has no way to give one. That was not done."


def _what_the_server_says(status: int, words: str, code: object) -> str:
    if 300 <= status < 400:
        return "The model's provider sent a redirect, which is not followed. The server's owner must check its URL."
    if status == 402 or _QUOTA.search(words) or (_PERHAPS_QUOTA.search(words) and not _PASSING.search(words)):
        return "The quota of the model's account is used up. The server's owner must look after it."
    if _says_too_long(status, words):
        return "This is more than the model can read at once. Please begin a new conversation, or write less."
    if _FILTER.search(words):
        return "The filter of the model's provider does not let this through. Please ask in other words."
    if status in (429, 503, 529) or _OFTEN.search(words):
        return "The model is overloaded, or was asked too often. Please try again in a minute."
    if status != 401 and _NO_MODEL.search(words):
        return "The model's provider does not know this model. The server's owner must check its name."
    if status in (401, 403) or _KEY.search(words):
        return "The model's provider refused the server's API key. Its owner must check it."
    if status in (404, 405) or _NO_PLACE.search(words):
        return _WRONG_URL
    if 400 <= status < 500 and status not in (408, 409):
        return "The model's server refused this request. The server's owner must check its model and settings."
    if str(code).lower() == "refusal":
        return _DECLINED
    if str(code).lower() in _LENGTH:
        return "The model's answer was cut off at the greatest length that its server allows. Please ask for less."
    if status or "error" in str(code).lower():
        return "The model's provider reported an error. Please try again."
    return _BROKEN_OFF
