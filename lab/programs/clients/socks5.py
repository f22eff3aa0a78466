"""Connections through a SOCKS5 proxy to a server that sends back what it gets."""

import struct

from clients import Base, answer_late


def echo(connection):
    with connection:
        try:
            while data := connection.recv(1 << 16):
                connection.sendall(data)
        except OSError:
            pass


class Client(Base):
    @classmethod
    def set_up(cls, place, program):
        place.serve(answer_late(0.03))
        place.echo_port = place.serve(echo)

    def start(self):
        self.number = 0
        self.send(b"\x05\x01\x00")
        self.read(2)
        self.send(b"\x05\x01\x00\x01" + bytes([127, 0, 0, 1]) + struct.pack(">H", self.place.echo_port))
        if self.read(10)[1] != 0:
            raise ConnectionError("the proxy refuses")

    def request(self):
        self.number += 1
        if self.number % 20 == 0:
            self.socket.close()
            self.file.close()
            self.__init__(self.place)
        data = b"x" * (1 + self.number * 997 % 20000)
        self.send(data)
        self.read(len(data))
