"""The simple dialect, over real HTTP."""

from conftest import Client


def test_answer_is_streamed_in_frames_and_ends_with_done(alice: Client) -> None:
    """An answer is streamed event by event, begins with `thinking` and ends with `[DONE]`."""
    turn = alice.say("add buy milk")
    assert turn.status == 200
    assert turn.complete
