"""Clients that ask all the time and say what they hear, and streams that last, for tests through a waypoint.

origin PORT TEXT         a server over HTTP/1.1: any POST is answered with TEXT, and GET with what is long
kept HOST PORT           asks over one connection for as long as it is kept, and says the status and the text
fresh HOST PORT          the same, over a new connection each time
calls ADDRESS            the same with gRPC, over one connection
converse KIND HOST PORT  sends each line that it reads over one stream, and prints what comes back: grpc, websocket, download
"""

import http.client
import http.server
import os
import socket
import sys
import time

import grpc

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
# Nothing is left beside the tests.
sys.dont_write_bytecode = True
import peer

ENOUGH = 60
# Requests leave the machine to others in between; what is looked for lasts as long as two of them or so.
PAUSE = 0.003
PIECE = bytes(range(256)) * 256
PIECES = 1024


class Origin(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1
    disable_nagle_algorithm = True

    def do_POST(self):
        self.rfile.read(int(self.headers.get("content-length", 0)))
        text = sys.argv[3].encode()
        self.send_response(200)
        self.send_header("content-length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def do_GET(self):
        self.send_response(200)
        self.send_header("content-length", str(len(PIECE) * PIECES))
        self.end_headers()
        for _ in range(PIECES):
            self.wfile.write(PIECE)

    def log_message(self, *_):
        pass


class Server(http.server.ThreadingHTTPServer):
    address_family = socket.AF_INET6
    request_queue_size = 128


def origin(port, _text):
    Server(("::", int(port)), Origin).serve_forever()


def say(*words):
    print(*words, flush=True)


def ask(connection):
    try:
        # No method that is safe to repeat.
        connection.request("POST", "/", body=b"")
        answer = connection.getresponse()
        say(answer.status, answer.read().decode().strip())
    except (OSError, http.client.HTTPException) as error:
        say("failed:", repr(error))
        connection.close()


def kept(host, port):
    # Opens another connection only after an answer that says that this one ends.
    connection = http.client.HTTPConnection(host, int(port), timeout=ENOUGH)
    while True:
        ask(connection)
        time.sleep(PAUSE)


def fresh(host, port):
    while True:
        connection = http.client.HTTPConnection(host, int(port), timeout=ENOUGH)
        ask(connection)
        connection.close()
        time.sleep(PAUSE)


def calls(address):
    with grpc.insecure_channel(address) as channel:
        once = channel.unary_unary("/peer.Echo/Once")
        while True:
            try:
                say(200, once(b"hello", timeout=ENOUGH).decode())
            except grpc.RpcError as error:
                say("failed:", error.code(), error.details())
            time.sleep(PAUSE)


def lines():
    for line in sys.stdin:
        yield line.rstrip("\n")


def converse(kind, host, port):
    {"grpc": over_grpc, "websocket": over_websocket, "download": over_download}[kind](host, port)


def over_grpc(host, port):
    with grpc.insecure_channel(f"{host}:{port}") as channel:
        for answer in channel.stream_stream("/peer.Echo/Each")(line.encode() for line in lines()):
            say(answer.decode())


def over_websocket(host, port):
    with socket.create_connection((host, int(port)), timeout=ENOUGH) as stream:
        peer.shake(stream, host)
        for line in lines():
            stream.sendall(peer.frame(line, True))
            say(peer.unframe(stream).lower())


def over_download(host, port):
    connection = http.client.HTTPConnection(host, int(port), timeout=ENOUGH)
    connection.request("GET", "/")
    answer = connection.getresponse()
    left = PIECES
    for line in lines():
        for _ in range(left if line == "end" else 1):
            if answer.read(len(PIECE)) != PIECE:
                sys.exit("not what was sent")
            left -= 1
        if line == "end" and answer.read():
            sys.exit("more than was said")
        say(line)


if __name__ == "__main__":
    all_of_them = {"origin": origin, "kept": kept, "fresh": fresh, "calls": calls, "converse": converse}
    all_of_them[sys.argv[1]](*sys.argv[2:])
