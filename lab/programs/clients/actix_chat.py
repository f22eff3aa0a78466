"""The chat of actix-ws: WebSockets, and a page."""

from clients import chat, http


class Client(chat.Client):
    path = "/ws"

    def start(self):
        super().start()
        self.page = Page(self.place)

    def request(self):
        super().request()
        if self.number % 10 == 0:
            self.page.expect([200], "/")


class Page(http.Client):
    pass
