"""Connections through a tunnel of bore to a server that sends back what it gets."""

from clients.echo import EchoClient, echo


class Client(EchoClient):
    @classmethod
    def set_up(cls, place, program):
        place.echo_port = place.serve(echo)
