"""What secure aggregation excludes is refused before a run starts."""

from __future__ import annotations

import pytest

from trainer.config.settings import RunSettings
from trainer.errors import UsageError


@pytest.mark.parametrize(("changes", "reason"), [
    ({"edges": ("edge1", "edge2")}, "--secure-aggregation needs 3 to 1000 edges; there are 2."),
    ({"edges": tuple(f"edge{number}" for number in range(1001))}, "needs 3 to 1000 edges; there are 1001."),
    ({"aggregate": "median"}, "--aggregate median compares the edges' models; with --secure-aggregation the cloud sees "
     "sums only."),
    ({"clip_updates": 1.0}, "--clip-updates measures every edge's update"),
    ({"late": "shrink"}, "--late shrink moves layers from an edge to the cloud"),
    ({"quorum": 2}, "--quorum is 2; --secure-aggregation needs a majority, 3 of 4."),
    ({"cuts": ((2, 2, 3, 2),)}, "--cuts differ between edges"),
    ({"cuts": ((3,) * 4, (2,) * 4)}, "--cuts shrink"),
])
def test_what_needs_more_than_sums_is_refused(changes: dict[str, object], reason: str) -> None:
    with pytest.raises(UsageError) as caught:
        RunSettings(secure_aggregation=True, **changes).check()  # type: ignore[arg-type]
    assert reason in str(caught.value)


@pytest.mark.parametrize("changes", [
    {}, {"edges": ("edge1", "edge2", "edge3")}, {"quorum": 3}, {"cuts": ((2,) * 4, (2,) * 4, (4,) * 4)},
    {"protect_labels": True}, {"dp": "8"}, {"late": "drop"},
])
def test_what_needs_sums_only_is_accepted(changes: dict[str, object]) -> None:
    RunSettings(secure_aggregation=True, **changes).check()  # type: ignore[arg-type]
