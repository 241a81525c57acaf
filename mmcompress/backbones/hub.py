"""Whether the model hub can be asked: without a network, nobody should wait for retries."""

import socket
import urllib.parse
import urllib.request

from huggingface_hub import constants


def hub_reachable(timeout: float = 5.0) -> bool:
    """Whether a connection to the model hub opens within `timeout` seconds.

    True behind a proxy, which has to find out for itself; False when `HF_HUB_OFFLINE` is set.
    """
    if constants.HF_HUB_OFFLINE:
        return False
    url = urllib.parse.urlparse(constants.ENDPOINT)
    if url.scheme in urllib.request.getproxies() or url.hostname is None:
        return True
    port = url.port or (80 if url.scheme == "http" else 443)
    try:
        socket.create_connection((url.hostname, port), timeout=timeout).close()
    except OSError:
        return False
    return True
