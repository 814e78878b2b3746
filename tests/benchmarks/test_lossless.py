"""So many requests leave so many records: the benchmark's count, in small."""

from pathlib import Path

from benchmarks.lossless import count

REQUESTS = 2000


async def test_every_request_leaves_one_record_and_one_line_of_envoys_own(tmp_path: Path) -> None:
    made = await count(tmp_path, REQUESTS, connections=16, sidecars=2)
    assert made.statuses == {200: REQUESTS * 9 // 10, 400: REQUESTS // 10}
    assert (made.recorded, made.doubled, made.strange) == (REQUESTS, 0, 0)
    assert (made.told, made.dropped) == (REQUESTS, 0)
    assert (made.filed, made.filed_twice) == (REQUESTS, 0)
