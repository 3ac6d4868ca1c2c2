"""kill -9 of the driver at random points, 30 times over: the same test as in the suite, longer.

python tests/benchmarks/kill_rounds.py [30]
"""

import os
import sys
from pathlib import Path

import pytest

if __name__ == "__main__":
    os.environ["MMRAY_KILL_ROUNDS"] = sys.argv[1] if len(sys.argv) > 1 else "30"
    test = Path(__file__).parents[1] / "stages" / "test_kills.py"
    sys.exit(
        pytest.main([f"{test}::test_killed_drivers_lose_and_repeat_nothing[local]", "-o", "timeout=3600"])
    )
