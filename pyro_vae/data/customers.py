"""A table of customers, generated and seeded: an id, a date, categories, counts, amounts, gaps, three strange rows."""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from pyro_vae.data.frames import Frame

if TYPE_CHECKING:
    import pandas

NUM_ROWS = 1000
SEGMENTS = {"Retail": 0.55, "Business": 0.25, "Public": 0.12, "Partner": 0.08}
NUM_CITIES = 30
SIGNUP_DAYS = np.datetime64("2021-01-01"), 1400  # the first day, and how many follow
MISSING_SHARE = 0.08  # of the satisfaction scores
STRANGE = {  # row: what is strange about it, alone usual values
    417: {"segment": "Retail", "revenue": 48_000.0, "orders": 1},
    688: {"segment": "Business", "revenue": 95.0, "orders": 61},
    903: {"segment": "Public", "revenue": 21_000.0, "orders": 2, "satisfaction": 1.1},
}


def customers(root: str | Path | None, seed: int) -> Frame:
    """1,000 customers, three of them strange (rows 417, 688 and 903) in what goes together.

    Columns: `customer_id`, `signup`, `segment` (4), `city` (30), `revenue`, `orders`, `satisfaction` (with gaps), and
    `churned`, the label.

    The table is the same for every seed, which is of the order of rows.

    Args:
        root: not used.
        seed: not used.

    Returns:
        The table as a data frame.
    """
    frame = draw_customers(NUM_ROWS, seed=20)
    for row, values in STRANGE.items():
        for name, value in values.items():
            frame.loc[row, name] = value
    return Frame(frame, Path("customers"))


def draw_customers(n: int, seed: int) -> "pandas.DataFrame":
    """More customers of the same distribution, none of them strange.

    Args:
        n: the number of rows.
        seed: of the draws.

    Returns:
        The frame (n rows), with the columns of the table.
    """
    import pandas

    g = np.random.default_rng(seed % 2**64)
    segment = g.choice(list(SEGMENTS), n, p=list(SEGMENTS.values()))
    size = np.select([segment == "Business", segment == "Public", segment == "Partner"], [1.2, 0.9, 0.6], 0.0)
    activity = g.normal(size=n)
    orders = g.poisson(np.exp(1.1 + 0.7 * size + 0.55 * activity))
    revenue = np.round(np.exp(4.6 + 1.1 * size + 0.5 * activity + 0.35 * g.normal(size=n)) * (1 + orders), 2)
    city = 1 / np.arange(2, NUM_CITIES + 2)
    satisfaction = np.round(np.clip(7.2 + 0.8 * activity - 0.3 * size + 1.1 * g.normal(size=n), 0, 10), 1)
    churn = 1 / (1 + np.exp(-(-1.0 - 1.1 * activity - 0.35 * (satisfaction - 7))))
    first, days = SIGNUP_DAYS
    return pandas.DataFrame(
        {
            "customer_id": [f"C{number:05d}" for number in g.permutation(np.arange(10_000, 10_000 + n))],
            "signup": (first + g.integers(0, days, n)).astype("datetime64[s]"),
            "segment": segment,
            "city": [f"City {number:02d}" for number in g.choice(NUM_CITIES, n, p=city / city.sum()) + 1],
            "revenue": revenue,
            "orders": orders,
            "satisfaction": np.where(g.random(n) < MISSING_SHARE, np.nan, satisfaction),
            "churned": np.where(g.random(n) < churn, "yes", "no"),
        }
    )
