"""Ours as it is served, everything on; only the model is the scripted one."""

import asyncio
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from scripted import ScriptedModel

from todochat.serve import serve
from todochat.settings import Settings


def main() -> None:
    """Serve with the settings of the environment."""
    options = {} if "OPENAI_BASE_URL" in os.environ else {"model": ScriptedModel()}
    asyncio.run(serve(Settings.from_env(os.environ), **options))


if __name__ == "__main__":
    main()
