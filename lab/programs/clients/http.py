"""HTTP/1.1, for servers of files: requests for files of several sizes, ranges, and listings."""

import base64
import os

from clients import Base


class Client(Base):
    @classmethod
    def set_up(cls, place, program):
        place.files = os.path.join(place.folder, "files")
        os.makedirs(os.path.join(place.files, "listing"))
        for size in [0, 100, 5_000, 100_000, 2_000_000]:
            with open(os.path.join(place.files, f"{size}.txt"), "wb") as file:
                file.write((b"a line of a text file\n" * (size // 22 + 1))[:size])
        for number in range(200):
            with open(os.path.join(place.files, "listing", f"{number}.txt"), "wb") as file:
                file.write(b"x" * number)

    def start(self):
        self.number = 0

    def get(self, path, *headers, method="GET", body=b""):
        lines = [f"{method} {path} HTTP/1.1", "Host: localhost", *headers]
        if body:
            lines.append(f"Content-Length: {len(body)}")
        self.send("\r\n".join([*lines, "", ""]).encode() + body)
        status = int(self.line().split()[1])
        length, chunked, close = 0, False, False
        while line := self.line().lower():
            name, _, value = line.partition(b":")
            length = int(value) if name == b"content-length" else length
            chunked = chunked or (name == b"transfer-encoding" and b"chunked" in value)
            close = close or (name == b"connection" and b"close" in value)
        if chunked:
            while size := int(self.line(), 16):
                self.read(size + 2)
            self.line()
        elif method != "HEAD" and status not in (204, 304):
            self.read(length)
        if close:
            self.socket.close()
            self.file.close()
            number = self.number
            self.__init__(self.place)
            self.number = number
        return status

    def expect(self, wanted, *arguments, **keywords):
        status = self.get(*arguments, **keywords)
        if status not in wanted:
            raise ConnectionError(f"status {status} of {arguments}")

    def request(self):
        self.number += 1
        requests = [
            ["/100.txt"],
            ["/5000.txt"],
            ["/0.txt"],
            ["/100000.txt"],
            ["/100.txt", "Range: bytes=10-19"],
            ["/missing.txt"],
            ["/listing/"],
        ]
        if self.number % 50 == 0:
            return self.expect([200], "/2000000.txt")
        self.expect([200, 206, 404], *requests[self.number % len(requests)])

    @staticmethod
    def authorization():
        return "Authorization: Basic " + base64.b64encode(b"user:secret").decode()

    def block(self):
        if self.place.block == "password":
            self.expect([200], "/100.txt", self.authorization())
        elif self.place.block == "compression":
            self.expect([200], "/2000000.txt", "Accept-Encoding: br")
        else:
            super().block()
