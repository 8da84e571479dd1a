"""A mailbox holds so much of each sender and no more; who sends too much waits, nobody else does."""

from __future__ import annotations

import threading
import time

from trainer.transport.inbox import Inbox


def put_in_thread(box: Inbox[str, int], sender: str, size_bytes: int) -> tuple[threading.Thread, list[bool]]:
    taken: list[bool] = []
    thread = threading.Thread(target=lambda: taken.append(box.put(sender, 0, size_bytes)))
    thread.start()
    return thread, taken


def test_items_come_out_in_the_order_of_their_arrival() -> None:
    box: Inbox[str, int] = Inbox()
    for number, sender in enumerate("aba"):
        box.put(sender, number)
    assert [box.get(), box.get(), box.get()] == [("a", 0), ("b", 1), ("a", 2)]


def test_nothing_by_the_deadline_is_none() -> None:
    assert Inbox[str, int]().get(time.monotonic() + 0.01) is None


def test_who_sends_more_than_fits_waits_until_there_is_room_and_others_do_not() -> None:
    box: Inbox[str, int] = Inbox(limit_bytes=100)
    box.put("a", 1, 60)
    thread, taken = put_in_thread(box, "a", 60)
    assert box.put("b", 2, 60)
    thread.join(0.05)
    assert not taken
    box.get()
    thread.join()
    assert taken == [True]


def test_so_many_small_items_are_too_many_as_well() -> None:
    box: Inbox[str, int] = Inbox(limit_items=1)
    box.put("a", 1)
    thread, taken = put_in_thread(box, "a", 0)
    thread.join(0.05)
    assert not taken
    box.close()
    thread.join()
    assert taken == [False]


def test_an_item_larger_than_all_room_is_taken_alone() -> None:
    box: Inbox[str, int] = Inbox(limit_bytes=100)
    assert box.put("a", 1, 1000)
    assert box.get() == ("a", 1)
