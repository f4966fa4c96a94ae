"""A mock provider in its own process: Chat Completions over a bare asyncio socket, as cheap as can be.

The same script in the user's message as for the model in the process (scripted.py).
"""

import asyncio
import json
import sys
from typing import Any

from script import TOOL_ARGUMENTS, Script

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n"


def chunk(delta: dict[str, Any], reason: str | None = None) -> bytes:
    """Return a chunk of a streamed completion as a frame."""
    choice = {"index": 0, "delta": delta, "finish_reason": reason}
    data = {"id": "c", "object": "chat.completion.chunk", "created": 0, "model": "scripted", "choices": [choice]}
    return f"data: {json.dumps(data)}\n\n".encode()


async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answer one request and close the connection."""
    head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
    body = json.loads(await reader.readexactly(int(head.split("content-length:")[1].split("\r\n")[0])))
    messages = body["messages"]
    asked = next(message for message in reversed(messages) if message["role"] == "user")["content"]
    script = Script.parse(asked if isinstance(asked, str) else asked[0]["text"])
    writer.write(HEAD)
    try:
        if script.tool and messages[-1]["role"] != "tool":
            function = {"name": "add_task", "arguments": TOOL_ARGUMENTS}
            call = {"index": 0, "id": "call_1", "type": "function", "function": function}
            writer.write(chunk({"role": "assistant", "tool_calls": [call]}) + chunk({}, "tool_calls"))
        else:
            await say(script, writer)
        writer.write(b"data: [DONE]\n\n")
        await writer.drain()
    except ConnectionError:
        pass
    finally:
        writer.close()


async def say(script: Script, writer: asyncio.StreamWriter) -> None:
    """Stream the text."""
    for start in range(0, script.deltas, script.burst):
        burst = range(start, min(start + script.burst, script.deltas))
        writer.write(b"".join(chunk({"role": "assistant", "content": script.delta(n)}) for n in burst))
        await writer.drain()
        await asyncio.sleep(script.pace)
    writer.write(chunk({}, "stop"))


async def main() -> None:
    """Serve on the port that is the first argument."""
    server = await asyncio.start_server(answer, "127.0.0.1", int(sys.argv[1]), backlog=2048)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main())
