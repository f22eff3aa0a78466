"""Connections through a tunnel of bore to a server that sends back what it gets."""

from clients import Base
from clients.socks5 import echo


class Client(Base):
    @classmethod
    def set_up(cls, place, program):
        place.echo_port = place.serve(echo)

    def start(self):
        self.number = 0

    def request(self):
        self.number += 1
        if self.number % 20 == 0:
            self.socket.close()
            self.file.close()
            self.__init__(self.place)
        data = b"x" * (1 + self.number * 997 % 20000)
        self.send(data)
        self.read(len(data))
