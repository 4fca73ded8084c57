"""An HTTPS server on a loopback address, in threads of its own; it answers every request with what it was told."""

import ssl

from tests.threaded import ThreadedServer


class WebServer(ThreadedServer):
    """Listens at once; `requests` keeps (name asked for in SNI, header section, body) of each."""

    def __init__(self, address, files, port=0):
        self.answer = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"
        self.hangs = False  # after the answer, instead of closing
        self.requests = []
        self.present(files)
        super().__init__(address, port)

    def present(self, files):
        """Show this certificate from now on."""
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.load_cert_chain(files.chain, files.key)
        self._context.sni_callback = lambda tls, name, _: setattr(tls, "asked_for", name)

    def talk(self, connection):
        """One request."""
        connection.settimeout(10)
        with self._context.wrap_socket(connection, server_side=True) as tls:
            octets = b""
            while b"\r\n\r\n" not in octets:
                octets += self._more(tls)
            head, _, body = octets.partition(b"\r\n\r\n")
            lengths = [line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
            length = int(lengths[0].partition(b":")[2]) if lengths else 0
            while len(body) < length:
                body += self._more(tls)
            self.requests.append((tls.asked_for, head, body))
            tls.sendall(self.answer)
            if self.hangs:
                self.over.wait(10)

    def _more(self, tls):
        octets = tls.recv(65536)
        if not octets:
            raise ValueError("the client went away")
        return octets
