"""An edge that collects: it waits until it has enough samples, and tells the cloud how far it is."""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Callable

from trainer.data.collect import Collector, Progress
from trainer.data.dataset import LocalData
from trainer.data.growing_sources import Share, open_source
from trainer.edge.cloud_connection import HANDSHAKE_TIMEOUT_S
from trainer.errors import TrainerError
from trainer.protocol import messages
from trainer.transport.connection import connect
from trainer.transport.credentials import TransportCredentials

REPORT_TIMEOUT_S = 2.0


def collect(
    data: str, share: Share, wanted: int, cloud: tuple[str, int], credentials: TransportCredentials,
    notify: Callable[[str], None],
) -> tuple[Collector, LocalData]:
    """Open the source that `data` names and wait for `wanted` training samples.

    Raises: DataError if the source is none, or ends before; UsageError if it cannot grow; UserCodeError if it fails.
    """

    def report(progress: Progress) -> None:
        notify(f"{share.name}: {progress.sentence} Watching {data}.")
        with contextlib.suppress(TrainerError, OSError):  # the cloud may start later
            _tell(cloud, credentials, messages.Collecting(
                nonce="0" * 32, edge=share.name, samples=progress.samples, held_out=progress.held_out,
                wanted=progress.wanted, sentence=progress.sentence))

    collector = Collector(open_source(data, share), lambda sentence: notify(f"{share.name}: {sentence}"))
    return collector, collector.wait_for(wanted, report)


def _tell(cloud: tuple[str, int], credentials: TransportCredentials, message: messages.Collecting) -> None:
    """Send the message on a connection of its own, with the same proof as a join request.

    Raises: TrainerError or OSError.
    """
    connection = connect(cloud, None, REPORT_TIMEOUT_S, context=credentials.context,
                         server_name=credentials.cloud_name if credentials.context else "")
    try:
        connection.set_receive_timeout(HANDSHAKE_TIMEOUT_S)
        hello = connection.receive().frame.message
        if not isinstance(hello, messages.Hello):
            return
        nonce, secret = secrets.token_hex(16), credentials.shared_secret
        proof = secret.proof("edge", hello.nonce, nonce, message.edge) if secret else None
        connection.send(message.model_copy(update={"nonce": nonce, "proof": proof}))
        connection.receive()  # until the cloud has closed it
    finally:
        connection.close()
