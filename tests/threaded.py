"""What every server of the tests that runs in threads has in common."""

import contextlib
import socket
import threading


class ThreadedServer:
    """Listens as soon as it is made; a subclass says how to `talk(connection)`, in a thread for each."""

    def __init__(self, address="127.0.0.1", port=0, *, listening=None):
        self.connections, self.over = 0, threading.Event()
        self._socket = listening or socket.create_server((address, port))
        if self._socket.family != socket.AF_UNIX:
            self.address, self.port = self._socket.getsockname()
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self):
        """Take nobody any more; `over` tells those who wait."""
        self.over.set()
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)  # wakes the thread in accept()
        self._socket.close()

    def _accept(self):
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            self.connections += 1
            if connection.family != socket.AF_UNIX:
                # What is sent in two pieces would wait 40 ms for an acknowledgement that the client delays.
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            threading.Thread(target=self._guarded, args=(connection,), daemon=True).start()

    def _guarded(self, connection):
        with contextlib.suppress(OSError, ValueError), connection:
            self.talk(connection)
