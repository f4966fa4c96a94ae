"""The table: for each measure what each server took in each round, and whether the limits are kept."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import median


@dataclass(frozen=True)
class Limit:
    """`of` takes at most `most` times what `over` takes; without `over`, at most `most` of the row's unit."""

    of: str
    most: float
    over: str | None = None


@dataclass
class Row:
    """One measure: by server the values of the rounds, which were measured in turn and so belong together."""

    label: str
    unit: str
    limits: Sequence[Limit] = ()
    values: dict[str, list[float]] = field(default_factory=dict)

    def add(self, name: str, value: float) -> None:
        """Add the value of one round."""
        self.values.setdefault(name, []).append(value)

    def verdicts(self) -> list[str]:
        """Return for each limit what was measured, and whether it is kept."""
        found = []
        for limit in self.limits:
            if limit.of not in self.values or (limit.over is not None and limit.over not in self.values):
                continue
            values = self.values[limit.of]
            if limit.over is not None:
                values = [a / b for a, b in zip(values, self.values[limit.over], strict=True)]
            what = f"{limit.of} ÷ {limit.over}" if limit.over else limit.of
            verdict = "met" if median(values) <= limit.most else "**not met**"
            found.append(f"{what} {spread(values)}, limit {limit.most:g}: {verdict}")
        return found


def number(value: float) -> str:
    """Write a number with as many digits as one reads."""
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def spread(values: Sequence[float]) -> str:
    """Write the median, and from where to where the values go."""
    text = number(median(values))
    return text if len(values) == 1 else f"{text} ({number(min(values))}–{number(max(values))})"  # noqa: RUF001


def table(rows: Sequence[Row]) -> str:
    """Return the rows as a table in Markdown: medians, and in brackets from where to where the rounds went."""
    columns = list(dict.fromkeys(name for row in rows for name in row.values))
    lines = [f"| | unit | {' | '.join(columns)} |", "|---" * (len(columns) + 2) + "|"]
    for row in rows:
        cells = [spread(row.values[name]) if name in row.values else "" for name in columns]
        lines.append(f"| {row.label} | {row.unit} | {' | '.join(cells)} |")
    return "\n".join(lines)


def verdicts(rows: Sequence[Row]) -> list[str]:
    """Return a line for each limit."""
    return [f"{row.label}: {text}" for row in rows for text in row.verdicts()]
