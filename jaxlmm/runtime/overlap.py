"""Reading, computing and writing at the same time, one block each."""

from __future__ import annotations

import collections
import concurrent.futures
from collections.abc import Callable, Iterable
from typing import TypeVar

__all__ = ["overlapped"]

Item = TypeVar("Item")
Read = TypeVar("Read")
Made = TypeVar("Made")


def overlapped(
    items: Iterable[Item],
    read: Callable[[Item], Read],
    compute: Callable[[Item, Read], Made],
    write: Callable[[Item, Made], None],
) -> None:
    """``write(item, compute(item, read(item)))`` for all items, in order.

    ``read`` runs one item ahead in a thread, ``write`` one behind in another, ``compute`` in the
    caller's. What they raise ends the run; what was computed before is written first.
    """
    with (
        concurrent.futures.ThreadPoolExecutor(1) as reader,
        concurrent.futures.ThreadPoolExecutor(1) as writer,
    ):
        reading: collections.deque[tuple[Item, concurrent.futures.Future[Read]]] = collections.deque()
        writing: concurrent.futures.Future[None] | None = None
        rest = iter(items)
        try:
            for item in rest:
                reading.append((item, reader.submit(read, item)))
                if len(reading) == 2:
                    break
            while reading:
                item, future = reading.popleft()
                block = future.result()
                for following in rest:
                    reading.append((following, reader.submit(read, following)))
                    break
                made = compute(item, block)
                del block, future
                if writing is not None:
                    writing.result()
                writing = writer.submit(write, item, made)
        finally:
            reader.shutdown(wait=False, cancel_futures=True)
            if writing is not None:
                writing.result()
