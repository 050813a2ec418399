"""How a service runs."""

import ipaddress
from dataclasses import dataclass, field

from samus_edge.errors import BadArgumentError

__all__ = ["ServerSettings", "is_loopback"]


@dataclass(frozen=True)
class ServerSettings:
    """What may be asked of a service, and how often.

    Attributes:
        host: Address to listen on.
        token: What every request but health and the page must bear; None for nothing.
        max_request_bytes: Size of one request's body.
        max_sessions: Images that are kept at the same time; the one that was used longest ago goes
            first.
        max_session_bytes: Size of all images together, decoded frames and files.
        session_seconds: How long an image is kept after it was last used.
        max_frames: Length of a cine that is tracked in one request.
        requests_per_second: Of one client, on average; 0 for no limit.
        burst: Requests of one client at once.
        max_live: Live connections at the same time.
        allowed_hosts: Names that a request may be addressed to, besides loopback and `host`.
        header_seconds: For which a connection may take to send a request's header.
        body_seconds: For which nothing of a body may come.
        max_incoming_bytes: Size of all bodies that are being received.
        decode_slots: Files that are decoded at the same time.
        decode_seconds: How long decoding may take.
        label_studio: URLs of Label Studio, whose backend the service then is too, and of further
            servers that images are fetched from; none for no backend.
        label_studio_key: Key of Label Studio's interface, to fetch images with.
        sweep_seconds: After which images that nobody used for too long are looked for again.
    """

    host: str = "127.0.0.1"
    token: str | None = field(default=None, repr=False)
    max_request_bytes: int = 64 * 1024 * 1024
    max_sessions: int = 32
    max_session_bytes: int = 2 * 1024**3
    session_seconds: float = 1800.0
    max_frames: int = 600
    requests_per_second: float = 50.0
    burst: int = 100
    max_live: int = 4
    allowed_hosts: tuple[str, ...] = ()
    header_seconds: float = 10.0
    body_seconds: float = 20.0
    max_incoming_bytes: int = 512 * 1024 * 1024
    decode_slots: int = 2
    decode_seconds: float = 30.0
    sweep_seconds: float = 2.0
    label_studio: tuple[str, ...] = ()
    label_studio_key: str | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        if not is_loopback(self.host) and not self.token:
            raise BadArgumentError(
                f"{self.host} can be reached from other machines, so a token is needed. Set the "
                "environment variable "
                "SAMUS_EDGE_TOKEN, or listen on 127.0.0.1."
            )

    @property
    def is_on_all_addresses(self) -> bool:
        """Whether it listens on every address of the machine."""
        try:
            return ipaddress.ip_address(self.host).is_unspecified
        except ValueError:
            return False


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach an address."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
