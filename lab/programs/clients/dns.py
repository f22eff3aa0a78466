"""DNS by UDP, for a zone of the lab. Now and then a query goes by TCP."""

import os
import random
import socket
import struct

from clients import Base


class Client(Base):
    @classmethod
    def set_up(cls, place, program):
        zone = "@ 300 IN SOA ns.lab.test. admin.lab.test. 1 3600 600 86400 300\n@ 300 IN NS ns\nns 300 IN A 127.0.0.1\n"
        zone += "".join(f"host{number} 300 IN A 10.0.{number // 250}.{number % 250}\n" for number in range(1000))
        with open(os.path.join(place.folder, "lab.test.zone"), "w") as file:
            file.write("$ORIGIN lab.test.\n" + zone)
        place.config = os.path.join(place.folder, "named.toml")
        with open(place.config, "w") as file:
            file.write(f'listen_addrs_ipv4 = ["127.0.0.1"]\nlisten_port = {place.port}\ndirectory = "{place.folder}"\n')
            file.write('drop_privileges = false\n[[zones]]\nzone = "lab.test"\nzone_type = "Primary"\n')
            file.write('file = "lab.test.zone"\n')

    def start(self):
        self.udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.udp.settimeout(self.timeout)
        self.udp.connect(("127.0.0.1", self.place.port))
        self.number = 0

    def request(self):
        self.number += 1
        identity = random.randrange(1 << 16)
        name = f"host{random.randrange(1200)}.lab.test"
        labels = b"".join(bytes([len(label)]) + label.encode() for label in name.split("."))
        query = struct.pack(">6H", identity, 0x0100, 1, 0, 0, 0) + labels + b"\0" + struct.pack(">2H", 1, 1)
        if self.number % 10 == 0:
            self.send(struct.pack(">H", len(query)) + query)
            answer = self.read(struct.unpack(">H", self.read(2))[0])
        else:
            self.udp.send(query)
            answer = self.udp.recv(4096)
        if answer[:2] != query[:2] or answer[3] & 15 not in (0, 3):
            raise ConnectionError(f"a wrong answer about {name}")
