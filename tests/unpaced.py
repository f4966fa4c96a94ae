"""app.py with the offline model, which says all that it has to say at once."""

import asyncio
import logging
import os

from todochat.models.offline import OfflineModel
from todochat.serve import serve
from todochat.settings import Settings


def main() -> None:
    """Serve."""
    settings = Settings.from_env(os.environ)
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    logging.getLogger("todochat").setLevel(settings.log_level)
    asyncio.run(serve(settings, model=OfflineModel(pace=0)))


if __name__ == "__main__":
    main()
