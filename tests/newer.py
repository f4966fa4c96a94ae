"""The paced service as a newer version of the program: one whose tables have more columns. See paced.py."""

import asyncio

import paced

from todochat.engines import postgres

if __name__ == "__main__":
    postgres.UPGRADES = postgres.UPGRADES | {
        postgres.SCHEMA_VERSION: "ALTER TABLE messages ADD COLUMN mood TEXT; ALTER TABLE tasks ADD COLUMN mood TEXT"
    }
    postgres.SCHEMA_VERSION += 1
    asyncio.run(paced.main())
