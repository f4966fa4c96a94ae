"""What one answer, one user and one address may take: the limits, by their sentences, and that nothing is lost."""

from collections.abc import Callable

import pytest
from conftest import Server

ENDS = ", more than this server allows, so it ends here. Please ask for less at once."


# ---- an answer's share ----


@pytest.mark.parametrize(
    ("settings", "program", "sentence", "kept"),
    [
        ({"MAX_ANSWER": 100}, "say 5000 2", f"This answer is longer than 100 characters{ENDS}", "w0 w1 "),
        ({"MAX_ANSWER": 100}, "say 2 1\nthink 5000 1", f"This answer is longer than 100 characters{ENDS}", "w0 w1 "),
        (
            {"MAX_TOOL_CALLS": 3},
            "\n".join(['call add_task {"title": "x"}'] * 2 + ["say 1 0"] + ['call add_task {"title": "y"}'] * 2),
            f"The assistant wanted more than 3 tool calls for this answer{ENDS}",
            "w0 ",
        ),
        ({"MAX_TURN_SECONDS": 0.5}, "say 1000 20", f"This answer took longer than 0.5 seconds{ENDS}", "w0 w1 "),
    ],
    ids=["text", "thoughts", "calls", "seconds"],
)
def test_an_answer_that_takes_too_much_has_failed(
    make_server: Callable[..., Server], settings: dict[str, object], program: str, sentence: str, kept: str
) -> None:
    """It ends with its sentence, soon; what there was of it is kept, and the next one is as good as any."""
    server = make_server(script="tests/paced.py", **settings)
    with server.client() as client:
        turn = client.say(program)
        assert turn.complete
        assert [event["message"] for event in turn.of("error")] == [sentence]
        _, answer = client.messages(turn.thread)
        assert (answer["status"], answer["error"]) == ("failed", sentence)
        assert answer["content"] == turn.text
        assert turn.text.startswith(kept)
        assert len(turn.text) <= 1000 * 5
        assert [task["title"] for task in client.tasks()] == ["x"] * program.count('"x"')
        assert client.say("say 2 0", turn.thread).text == "w0 w1 "


def test_too_many_calls_at_once_are_not_begun(make_server: Callable[..., Server]) -> None:
    """A model that asks for too many tools in one response gets none of them."""
    server = make_server(script="tests/paced.py", MAX_TOOL_CALLS=20)
    with server.client() as client:
        turn = client.say("\n".join(['call add_task {"title": "x"}'] * 500))
        assert "more than 20 tool calls" in turn.of("error")[0]["message"]
        assert client.tasks() == []
