"""HTTP/1.1, for the explorer of files of http-server."""

import os

from clients import http


class Client(http.Client):
    @classmethod
    def set_up(cls, place, program):
        super().set_up(place, program)
        os.makedirs(os.path.join(place.files, "big"))
        for number in range(10_000 if place.block == "listing" else 0):
            open(os.path.join(place.files, "big", f"{number}.txt"), "w").close()

    def request(self):
        self.number += 1
        paths = ["/api/v1/100.txt", "/api/v1/5000.txt", "/api/v1/listing", "/", "/api/v1/0.txt"]
        self.expect([200], paths[self.number % len(paths)])

    def block(self):
        if self.place.block == "listing":
            self.expect([200], "/api/v1/big")
        else:
            super().block()
