"""Connections whose other side sends back what it gets."""

from clients import Base


def echo(connection):
    with connection:
        try:
            while data := connection.recv(1 << 16):
                connection.sendall(data)
        except OSError:
            pass


class EchoClient(Base):
    """A client that reads the answers, and connects anew at each 20th request."""

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
