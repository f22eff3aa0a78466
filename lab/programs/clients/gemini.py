"""Gemini: one request for each connection, by TLS."""

import os
import ssl
import threading
import time

from clients import Base


class Client(Base):
    @classmethod
    def set_up(cls, place, program):
        place.files = os.path.join(place.folder, "files")
        os.makedirs(os.path.join(place.files, "listing"))
        os.makedirs(os.path.join(place.files, "late"))
        for size in [100, 5_000, 100_000]:
            with open(os.path.join(place.files, f"{size}.gmi"), "wb") as file:
                file.write(b"x" * size)
        with open(os.path.join(place.files, "listing", ".directory-listing-ok"), "w") as file:
            file.write("a listing\n")
        place.pipe = os.path.join(place.files, "late", ".directory-listing-ok")
        os.mkfifo(place.pipe)

    def start(self):
        self.number = 0
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        self.context.check_hostname, self.context.verify_mode = False, ssl.CERT_NONE
        self.is_used = False

    def get(self, path):
        if self.is_used:
            number = self.number
            self.socket.close()
            self.file.close()
            Base.__init__(self, self.place)
            self.number = number
        self.is_used = True
        self.file.close()
        with self.context.wrap_socket(self.socket, server_hostname="localhost") as tls:
            tls.sendall(f"gemini://localhost{path}\r\n".encode())
            header = tls.recv(1024)
            while tls.recv(1 << 16):
                pass
        if not header.startswith(b"2"):
            raise ConnectionError(f"{path}: {header}")

    def request(self):
        self.number += 1
        self.get(["/100.gmi", "/5000.gmi", "/100000.gmi", "/listing/"][self.number % 4])

    def block(self):
        """Asks for a listing whose preamble is a pipe that is written to late."""
        if self.place.block != "pipe":
            return super().block()

        def write():
            # Waits until the program has opened the pipe or waits for a writer.
            time.sleep(0.06)
            with open(self.place.pipe, "w") as pipe:
                pipe.write("a listing\n")

        writer = threading.Thread(target=write)
        writer.start()
        self.get("/late/")
        writer.join()
