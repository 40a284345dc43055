# mypy: disable-error-code="import-untyped"
"""Make a table of invented bank customers to train on.

    python src/make_data.py                      # data/Churn_Modelling.csv, 10,000 rows
    python src/make_data.py --rows 500 --seed 7 --out /tmp/small.csv

The table has the columns of the public "Bank Customer Churn" table and close to its marginals,
which were measured on its 10,000 rows and are the constants below. No row of it is in here.
The same options give the same bytes.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import pandas as pd

DEFAULT_OUT = Path(__file__).resolve().parent.parent / "data" / "Churn_Modelling.csv"

# Shares of the customers
COUNTRY = {"France": 0.5014, "Germany": 0.2509, "Spain": 0.2477}
MALE = 0.5457
HAS_CARD = 0.7055
TENURE = np.array([1, 2, 2, 2, 2, 2, 2, 2, 2, 2, 1]) / 20  # of 0 to 10 years
ZERO_BALANCE = {"France": 0.482, "Germany": 0.0, "Spain": 0.484}
# Shares of 1, 2, 3 and 4 products
PRODUCTS_ZERO_BALANCE = [0.250, 0.719, 0.027, 0.004]
PRODUCTS_GERMANY = [0.538, 0.414, 0.038, 0.010]
PRODUCTS_OTHERS = [0.730, 0.246, 0.018, 0.006]

# Share of the customers up to this age in years, and the share of active members by age
AGES = [17, 25, 30, 35, 40, 45, 50, 55, 60, 65, 70, 80, 92]
UP_TO_AGE = [0, 0.061, 0.197, 0.415, 0.642, 0.789, 0.874, 0.92, 0.954, 0.974, 0.987, 0.999, 1]
ACTIVE_AGES = [18, 40, 46, 54, 58, 63, 68, 75]
ACTIVE_AT = [0.50, 0.49, 0.47, 0.54, 0.63, 0.72, 0.85, 0.91]

# Mean, standard deviation and limits
CREDIT_SCORE = (650.5, 98.0, 350, 850)
BALANCE = (119_827.0, 30_095.0, 3_769.0, 250_898.0)  # in euro, of those who have one
SALARY = (11.58, 199_992.48)  # in euro a year, uniform between

# Log odds of leaving, linear in age between the given years. Chosen so that the share of leavers
# by each feature, and the score of a model, are near those of the public table.
EXIT_AGES = [22, 28, 33, 38, 43, 48, 53, 58, 63, 68, 75, 85]
EXIT_AT = [-1.67, -1.77, -1.50, -0.82, 0.11, 1.26, 2.05, 1.85, 1.25, -0.04, -1.40, -1.80]
EXIT_GERMANY = 1.10
EXIT_MALE = -0.74
EXIT_PRODUCTS = np.array([0.0, -1.84, 3.10, 6.90])  # of 1 to 4 products
EXIT_ACTIVE = -1.26

# Surnames are two or three of these in a row
SYLLABLES = ["ba", "do", "fen", "ka", "li", "mo", "nar", "pel", "ro", "sun", "tev", "vi", "zo"]


def make_surnames(rng: np.random.Generator, rows: int) -> list[str]:
    """Return `rows` invented surnames."""
    parts = rng.choice(SYLLABLES, size=(rows, 3))
    parts[rng.random(rows) < 0.5, 2] = ""
    return ["".join(row).capitalize() for row in parts]


def draw_normal(
    rng: np.random.Generator, rows: int, shape: tuple[float, float, float, float]
) -> np.ndarray:
    """Return `(rows,)` normal numbers; `shape` is mean, standard deviation, lowest, highest."""
    mean, deviation, low, high = shape
    return np.clip(rng.normal(mean, deviation, rows), low, high)


def make_table(rows: int, seed: int) -> pd.DataFrame:
    """Return `rows` invented customers, shape `(rows, 14)`, money in euro with two decimals."""
    import pandas as pd

    rng = np.random.default_rng(seed)
    country = rng.choice(list(COUNTRY), size=rows, p=list(COUNTRY.values()))
    german = country == "Germany"
    male = rng.random(rows) < MALE
    age = np.ceil(np.interp(1 - rng.random(rows), UP_TO_AGE, AGES)).astype(int)
    active = rng.random(rows) < np.interp(age, ACTIVE_AGES, ACTIVE_AT)
    no_balance = rng.random(rows) < np.array([ZERO_BALANCE[name] for name in country])
    balance = np.where(no_balance, 0.0, draw_normal(rng, rows, BALANCE))

    shares = np.where(german[:, None], PRODUCTS_GERMANY, PRODUCTS_OTHERS)
    shares[no_balance] = PRODUCTS_ZERO_BALANCE
    products = 1 + (rng.random((rows, 1)) > shares.cumsum(axis=1)[:, :3]).sum(axis=1)

    log_odds = (
        np.interp(age, EXIT_AGES, EXIT_AT)
        + EXIT_GERMANY * german
        + EXIT_MALE * male
        + EXIT_PRODUCTS[products - 1]
        + EXIT_ACTIVE * active
    )
    exited = rng.random(rows) < 1 / (1 + np.exp(-log_odds))

    return pd.DataFrame(
        {
            "RowNumber": np.arange(1, rows + 1),
            "CustomerId": 10_000_000 + rng.permutation(rows),
            "Surname": make_surnames(rng, rows),
            "CreditScore": draw_normal(rng, rows, CREDIT_SCORE).round().astype(int),
            "Geography": country,
            "Gender": np.where(male, "Male", "Female"),
            "Age": age,
            "Tenure": rng.choice(len(TENURE), size=rows, p=TENURE),
            "Balance": balance.round(2),
            "NumOfProducts": products,
            "HasCrCard": (rng.random(rows) < HAS_CARD).astype(int),
            "IsActiveMember": active.astype(int),
            "EstimatedSalary": rng.uniform(*SALARY, rows).round(2),
            "Exited": exited.astype(int),
        }
    )


def write_table(table: pd.DataFrame, path: Path) -> None:
    """Write `table` as CSV so that `path` is the old file or the whole new one, never a part.

    Raises OSError.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        table.to_csv(draft, index=False, lineterminator="\n")
        os.replace(draft, path)
    finally:
        draft.unlink(missing_ok=True)


def whole_number(text: str) -> int:
    """Parse a whole number from 1. Raises ValueError, which argparse reports."""
    number = int(text)
    if number < 1:
        raise ValueError
    return number


def main(argv: list[str] | None = None) -> int:
    """Make the table and write it; return 0, or 2 if the file cannot be written."""
    parser = argparse.ArgumentParser(description="Make a table of invented bank customers.")
    add = parser.add_argument
    add("--out", type=Path, default=DEFAULT_OUT, help="file to write (data/Churn_Modelling.csv)")
    add("--rows", type=whole_number, default=10_000, help="customers (%(default)s)")
    add("--seed", type=whole_number, default=42, help="for the random numbers (%(default)s)")
    args = parser.parse_args(argv)
    try:
        write_table(make_table(args.rows, args.seed), args.out)
    except OSError as error:
        print(
            f"make_data.py: cannot write {args.out} ({error.strerror}). "
            "Choose another place with --out",
            file=sys.stderr,
        )
        return 2
    print(f"{args.out}: {args.rows} customers")
    return 0


if __name__ == "__main__":
    sys.exit(main())
