"""MQTT 3.1.1: each connection publishes to a topic that it has subscribed to."""

import os
import random
import struct

from clients import Base


def text(value):
    return struct.pack(">H", len(value)) + value.encode()


class Client(Base):
    @classmethod
    def set_up(cls, place, program):
        place.config = os.path.join(place.folder, "rumqttd.toml")
        with open(os.path.join(program.folder, "rumqttd.toml")) as template:
            content = template.read().replace("{port}", str(place.port))
        with open(place.config, "w") as file:
            file.write(content)

    def start(self):
        self.name = f"lab-{random.randrange(1 << 30)}"
        self.packet(0x10, text("MQTT") + b"\x04\x02\x00\x3c" + text(self.name))
        if self.receive() != (0x20, b"\x00\x00"):
            raise ConnectionError("refused")
        self.packet(0x82, b"\x00\x01" + text(self.name + "/#") + b"\x01")
        self.await_packet(0x90)
        self.number = 0

    def packet(self, kind, body):
        length, rest = b"", len(body)
        while True:
            rest, digit = divmod(rest, 128)[0], rest % 128
            length += bytes([digit | (0x80 if rest else 0)])
            if not rest:
                break
        self.send(bytes([kind]) + length + body)

    def receive(self):
        kind, length, shift = self.read(1)[0], 0, 0
        while True:
            digit = self.read(1)[0]
            length |= (digit & 0x7F) << shift
            shift += 7
            if digit < 0x80:
                return kind, self.read(length)

    def await_packet(self, wanted):
        """Reads packets until one is of this kind, and acknowledges messages."""
        while True:
            kind, body = self.receive()
            if kind >> 4 == 3 and kind & 6:
                end = 2 + struct.unpack(">H", body[:2])[0]
                self.packet(0x40, body[end : end + 2])
            if kind == wanted:
                return

    def request(self):
        self.number += 1
        body = text(f"{self.name}/{self.number % 7}") + struct.pack(">H", 1 + self.number % 60000)
        self.packet(0x32, body + b"x" * (self.number * 37 % 3000))
        self.await_packet(0x40)
