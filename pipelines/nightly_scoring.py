"""Score what arrived today with a trained model: a program for a nightly job.

    python pipelines/nightly_scoring.py MODEL 's3://bucket/arrivals/{date}' 's3://bucket/scored/{date}'
    ray job submit --working-dir . -- python pipelines/nightly_scoring.py …

No labels are needed and no config: the model's folder knows its features. Run it again after any end: what is
scored is left, what is missing is done. It ends with 75 where trying again later may do, with 1 where not.
"""

import argparse
import sys
from collections import Counter
from datetime import UTC, datetime

import mmray


def main() -> None:
    """Score one day; say what was predicted and what failed."""
    parser = argparse.ArgumentParser(description="Score a day's samples with a trained model.")
    parser.add_argument("model", help="folder of a trained model")
    parser.add_argument("samples", help="a manifest, tar shards or a folder of media; {date} is filled in")
    parser.add_argument("output", help="where predictions go; likewise")
    parser.add_argument("--date", default=datetime.now(UTC).date().isoformat(), help="default: today, UTC")
    given = parser.parse_args()
    samples, output = (each.replace("{date}", given.date) for each in (given.samples, given.output))

    summary = mmray.score(model=given.model, samples=samples, output=output)
    print(f"{given.date}: {summary['rows']} rows, {summary['rows_this_run']} of them now")
    print(f"{summary['unpredicted']} had nothing to predict from")

    table = mmray.read(output, features=[])
    for column in table.column_names:
        if column.endswith("_predicted"):
            counts = Counter(table[column].to_pylist())
            print(f"{column}: {dict(counts.most_common(10))}")


if __name__ == "__main__":
    try:
        main()
    except mmray.MmrayError as fault:
        print(f"error: {fault}", file=sys.stderr)
        sys.exit(fault.exit_code)
