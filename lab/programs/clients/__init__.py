"""Clients of the programs. Each module has a class `Client`, whose `request` is a usual request."""

import importlib
import os
import socket
import threading
import time


class Place:
    """Where a program listens, what it serves, and what it depends on."""

    def __init__(self, port, folder, block):
        self.port, self.folder, self.block = port, folder, block
        self.servers = []

    def environment(self):
        env = {"LAB_BLOCK": self.folder} if self.block else {}
        if self.servers:
            env["LAB_PORT"] = str(self.servers[0].getsockname()[1])
        return env

    def serve(self, answer):
        """Starts a server, which calls `answer` with each connection, and returns its port."""
        listener = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.servers.append(listener)

        def accept():
            while True:
                try:
                    connection = listener.accept()[0]
                except OSError:
                    return
                threading.Thread(target=answer, args=[connection], daemon=True).start()

        threading.Thread(target=accept, daemon=True).start()
        return listener.getsockname()[1]

    def close(self):
        for server in self.servers:
            server.close()


class Base:
    """A client that has one TCP connection."""

    timeout = 20

    @classmethod
    def set_up(cls, place, program):
        """Makes what the program needs before it starts."""

    def __init__(self, place):
        self.place = place
        self.socket = socket.create_connection(("127.0.0.1", place.port), self.timeout)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.file = self.socket.makefile("rb")
        self.start()

    def start(self):
        """Does what comes before the first request."""

    def block(self):
        """Makes the program block once: the next request that comes to the place does."""
        path = os.path.join(self.place.folder, self.place.block)
        with open(path, "w"):
            pass
        end = time.monotonic() + self.timeout
        while os.path.exists(path):
            if time.monotonic() > end:
                raise TimeoutError(f"no request came to the block {self.place.block}")
            time.sleep(0.005)

    def send(self, data):
        self.socket.sendall(data)

    def read(self, length):
        data = self.file.read(length)
        if len(data) != length:
            raise ConnectionError("the connection was closed")
        return data

    def line(self):
        data = self.file.readline()
        if not data.endswith(b"\n"):
            raise ConnectionError("the connection was closed")
        return data.rstrip(b"\r\n")


def answer_late(seconds):
    """Returns what a server does that answers each connection after some time."""

    def answer(connection):
        with connection:
            time.sleep(seconds)
            connection.sendall(b"late\n")

    return answer


def find(name):
    return importlib.import_module(f"clients.{name}").Client
