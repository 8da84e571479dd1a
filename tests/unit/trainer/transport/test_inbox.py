"""The inbox is bounded per sender: a sender over its limit blocks, others do not."""

from __future__ import annotations

import threading
import time

from trainer.transport.inbox import Inbox


def put_in_thread(inbox: Inbox[str, int], sender: str, size_bytes: int) -> tuple[threading.Thread, list[bool]]:
    accepted: list[bool] = []
    thread = threading.Thread(target=lambda: accepted.append(inbox.put(sender, 0, size_bytes)))
    thread.start()
    return thread, accepted


def test_items_come_out_in_the_order_of_their_arrival() -> None:
    inbox: Inbox[str, int] = Inbox()
    for number, sender in enumerate("aba"):
        inbox.put(sender, number)
    assert [inbox.get(), inbox.get(), inbox.get()] == [("a", 0), ("b", 1), ("a", 2)]


def test_get_returns_none_at_the_deadline() -> None:
    assert Inbox[str, int]().get(time.monotonic() + 0.01) is None


def test_a_sender_over_its_limit_blocks_until_there_is_room_and_others_do_not() -> None:
    inbox: Inbox[str, int] = Inbox(limit_bytes=100)
    inbox.put("a", 1, 60)
    thread, accepted = put_in_thread(inbox, "a", 60)
    assert inbox.put("b", 2, 60)
    thread.join(0.05)
    assert not accepted
    inbox.get()
    thread.join()
    assert accepted == [True]


def test_the_number_of_items_is_limited_as_well() -> None:
    inbox: Inbox[str, int] = Inbox(limit_items=1)
    inbox.put("a", 1)
    thread, accepted = put_in_thread(inbox, "a", 0)
    thread.join(0.05)
    assert not accepted
    inbox.close()
    thread.join()
    assert accepted == [False]


def test_an_item_larger_than_the_limit_is_accepted_alone() -> None:
    inbox: Inbox[str, int] = Inbox(limit_bytes=100)
    assert inbox.put("a", 1, 1000)
    assert inbox.get() == ("a", 1)
