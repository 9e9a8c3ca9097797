"""Have the kernel notice that another machine is gone without a word: power, network, sleep."""

import socket

# After 10 s of silence it is asked three times, 5 s apart.  A program that is merely busy, as an
# engine with a long prompt, need not answer: the kernel below it does.
IDLE_S, BETWEEN_S, TIMES = 10, 5, 3


def enable_keepalive(own: socket.socket, unread_s: float) -> None:
    """Break a connection whose peer is gone; what is sent may be unacknowledged for *unread_s*.

    Connections that are accepted on *own* inherit it.
    """
    own.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    own.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, IDLE_S)
    own.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, BETWEEN_S)
    own.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, TIMES)
    own.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(1000 * unread_s))
