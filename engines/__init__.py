"""Where the SQL runs. An engine knows connections, transactions, locks and retries, and nothing of what is stored.

The store (db.py) hands an engine units of work: async functions of `sql`, by which they run their statements. The
engines speak one subset of SQL, with `?` for a parameter.
"""

from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any, Protocol, TypeVar

T = TypeVar("T")
Value = str | int | None


class StoreError(Exception):
    """The database cannot be used; the text is a sentence for whoever starts the server."""


class Unavailable(Exception):
    """The database cannot do it right now (locked, full, read-only); the text is a sentence for the user."""


class Row(Protocol):
    """A row of a result: its values by the names of their columns."""

    def keys(self) -> Iterable[str]: ...
    def __getitem__(self, column: str, /) -> Any: ...


class Sql(Protocol):
    """Runs one statement in the transaction of a unit of work, and returns its rows."""

    async def __call__(self, statement: str, parameters: Sequence[Value] = (), /) -> Sequence[Row]: ...


Work = Callable[[Sql], Awaitable[T]]


class Engine(ABC):
    """What the store needs of a database.

    Each unit of work happens whole or not at all, even if its caller is cancelled in the middle. All three raise
    `Unavailable` if the database cannot do it within the engine's patience, a few seconds.
    """

    @abstractmethod
    async def read(self, work: Work[T]) -> T:
        """Do `work`, which only reads, on one state of the database. It does not wait for anybody who writes."""

    @abstractmethod
    async def write(self, work: Work[T]) -> T:
        """Do `work`, which takes no longer than its statements, in a transaction that may be shared with others.

        If that fails it is rolled back, and `work` is done again from its beginning.
        """

    @abstractmethod
    async def transaction(self, work: Work[T]) -> T:
        """Do `work` in a transaction of its own, which each `read` and `write` that it calls becomes a part of.

        So `work` may be somebody else's code (a tool), of whose writes none must be without the others.
        """

    @abstractmethod
    async def close(self) -> None:
        """Wait for the unit of work that is under way, then let go of the database. There is no way back."""
