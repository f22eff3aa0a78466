"""The protocol of Redis, as far as mini-redis knows it."""

import random

from clients import Base


class Client(Base):
    def start(self):
        self.number = random.randrange(1000)

    def command(self, *words):
        parts = [f"*{len(words)}\r\n".encode()]
        for word in words:
            data = word if isinstance(word, bytes) else str(word).encode()
            parts.append(b"$%d\r\n%s\r\n" % (len(data), data))
        self.send(b"".join(parts))
        kind = self.line()
        if kind[:1] == b"-":
            raise ConnectionError(kind.decode())
        if kind[:1] == b"$" and kind != b"$-1":
            return self.read(int(kind[1:]) + 2)[:-2]
        return kind

    def request(self):
        self.number += 1
        key = f"key-{self.number % 1000}"
        if self.number % 3 == 0:
            self.command("set", key, b"x" * (self.number % 5000), "px", 50 + self.number % 100)
        elif self.number % 100 == 1:
            self.command("publish", "channel", "a message")
        else:
            self.command("get", key)
