"""Connections through a SOCKS5 proxy to a server that sends back what it gets."""

import struct

from clients import answer_late
from clients.echo import EchoClient, echo


class Client(EchoClient):
    @classmethod
    def set_up(cls, place, program):
        place.serve(answer_late(0.03))
        place.echo_port = place.serve(echo)

    def start(self):
        super().start()
        self.send(b"\x05\x01\x00")
        self.read(2)
        self.send(b"\x05\x01\x00\x01" + bytes([127, 0, 0, 1]) + struct.pack(">H", self.place.echo_port))
        if self.read(10)[1] != 0:
            raise ConnectionError("the proxy refuses")
