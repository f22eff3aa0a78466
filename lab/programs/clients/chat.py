"""A WebSocket chat, whose server sends each message to all other connections."""

import base64
import os
import select
import struct

from clients import Base


class Client(Base):
    path = "/"

    def start(self):
        key = base64.b64encode(os.urandom(16)).decode()
        lines = [f"GET {self.path} HTTP/1.1", "Host: localhost", "Upgrade: websocket", "Connection: Upgrade"]
        lines += [f"Sec-WebSocket-Key: {key}", "Sec-WebSocket-Version: 13", "", ""]
        self.send("\r\n".join(lines).encode())
        if b"101" not in self.line():
            raise ConnectionError("no WebSocket")
        while self.line():
            pass
        self.number = 0

    def frame(self, opcode, data):
        mask = os.urandom(4)
        length = bytes([0x80 | len(data)]) if len(data) < 126 else b"\xfe" + struct.pack(">H", len(data))
        masked = bytes(byte ^ mask[index % 4] for index, byte in enumerate(data))
        self.send(bytes([0x80 | opcode]) + length + mask + masked)

    def drop_what_came(self):
        while select.select([self.socket], [], [], 0)[0]:
            if not self.socket.recv(1 << 16):
                raise ConnectionError("the connection was closed")

    def request(self):
        self.number += 1
        self.frame(1, b"a message " * (1 + self.number % 20))
        self.drop_what_came()
