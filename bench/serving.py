"""How the other servers are run: one uvicorn worker with the settings of ours."""

import sys
from typing import Any

import uvicorn

STREAM_HEADERS = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}


def serve(app: Any) -> None:
    """Serve `app` on the port that is the first argument."""
    uvicorn.run(app, port=int(sys.argv[1]), log_config=None, access_log=False, server_header=False, backlog=2048)
