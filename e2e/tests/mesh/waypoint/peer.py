"""Servers and clients that are not ours, for tests through a waypoint: gRPC's own, and WebSocket by hand (RFC 6455).

server PORT         whom waypoints ask and tell (an authorizer, a rate limiter, a processor, a collector), and who says everything again
websocket PORT      says every text again, in capitals
first PORT          says something before it has heard anything
listen HOST PORT    says nothing, and prints what it hears first
call ADDRESS METHOD TEXT...   calls a method with these messages, and prints what comes back, trailers included
talk HOST PORT TEXT...        the same with WebSocket
"""

import base64
import hashlib
import os
import socket
import struct
import sys
import threading
from concurrent import futures

import grpc

ENOUGH = 30
told = []


def check(request, context):
    # google.rpc.Status in field 1: empty is yes, code 7 is no.
    return b"\x0a\x00" if b"open sesame" in request else b"\x0a\x02\x08\x07"


def limit(request, context):
    # overall_code in field 1.
    return b"\x08\x02" if b"greedy" in request else b"\x08\x01"


def export(request, context):
    told.append(request)
    return b""


def field(number, data):
    return bytes([number << 3 | 2, len(data)]) + data


def process(requests, context):
    # Request headers are field 2 of a question and 1 of an answer, those of an answer 3 and 2; 7 is an answer of its own.
    for request in requests:
        line = field(1, b"x-processed") + field(3, b"yes")
        changed = field(1, field(2, field(1, field(1, line))))
        if request[0] == 0x12:
            yield field(7, field(1, b"\x08\x92\x03")) if b"unwelcome" in request else field(1, changed)
        elif request[0] == 0x1A:
            yield field(2, changed)


def everything(request, context):
    return b" ".join(span.hex().encode() for span in told)


def once(request, context):
    context.set_trailing_metadata((("x-end", "of one"),))
    return request


def each(requests, context):
    count = 0
    for request in requests:
        count += 1
        yield request
    context.set_trailing_metadata((("x-end", f"of {count}"),))


METHODS = {
    "/envoy.service.auth.v3.Authorization/Check": grpc.unary_unary_rpc_method_handler(check),
    "/envoy.service.ratelimit.v3.RateLimitService/ShouldRateLimit": grpc.unary_unary_rpc_method_handler(limit),
    "/opentelemetry.proto.collector.trace.v1.TraceService/Export": grpc.unary_unary_rpc_method_handler(export),
    "/opentelemetry.proto.collector.logs.v1.LogsService/Export": grpc.unary_unary_rpc_method_handler(export),
    "/envoy.service.ext_proc.v3.ExternalProcessor/Process": grpc.stream_stream_rpc_method_handler(process),
    "/peer.Told/All": grpc.unary_unary_rpc_method_handler(everything),
    "/peer.Echo/Once": grpc.unary_unary_rpc_method_handler(once),
    "/peer.Echo/Each": grpc.stream_stream_rpc_method_handler(each),
}


class Handler(grpc.GenericRpcHandler):
    def service(self, details):
        return METHODS.get(details.method)


def server(port):
    running = grpc.server(futures.ThreadPoolExecutor(8))
    running.add_generic_rpc_handlers((Handler(),))
    running.add_insecure_port(f"[::]:{port}")
    running.start()
    running.wait_for_termination()


def call(address, method, *texts):
    with grpc.insecure_channel(address) as channel:
        requests = [text.encode() for text in texts]
        if method.endswith("Each"):
            answers = channel.stream_stream(method)(iter(requests), timeout=ENOUGH)
            said = [answer.decode() for answer in answers]
        else:
            answer, answers = channel.unary_unary(method).with_call(requests[0], timeout=ENOUGH)
            said = [answer.decode()]
        print(said, dict(answers.trailing_metadata()).get("x-end"), answers.code())


def read(stream, length):
    data = b""
    while len(data) < length:
        more = stream.recv(length - len(data))
        if not more:
            raise EOFError
        data += more
    return data


def head(stream):
    data = b""
    while not data.endswith(b"\r\n\r\n"):
        data += read(stream, 1)
    return data.decode()


def frame(text, mask):
    data = text.encode()
    key = os.urandom(4) if mask else b"\0\0\0\0"
    data = bytes(byte ^ key[place % 4] for place, byte in enumerate(data))
    return struct.pack("!BB", 0x81, len(data) | (0x80 if mask else 0)) + (key if mask else b"") + data


def unframe(stream):
    _, length = read(stream, 2)
    key = read(stream, 4) if length & 0x80 else b"\0\0\0\0"
    data = read(stream, length & 0x7F)
    return bytes(byte ^ key[place % 4] for place, byte in enumerate(data)).decode()


def serve_one(stream):
    with stream:
        lines = head(stream).split("\r\n")
        key = next(line.split(": ", 1)[1] for line in lines if line.lower().startswith("sec-websocket-key"))
        accept = base64.b64encode(hashlib.sha1((key + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11").encode()).digest())
        stream.sendall(
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Accept: " + accept + b"\r\n\r\n"
        )
        try:
            while True:
                stream.sendall(frame(unframe(stream).upper(), False))
        except EOFError:
            pass


def websocket(port):
    with socket.create_server(("", int(port))) as listener:
        while True:
            stream, _ = listener.accept()
            threading.Thread(target=serve_one, args=(stream,), daemon=True).start()


def shake(stream, host):
    key = base64.b64encode(os.urandom(16)).decode()
    stream.sendall(
        f"GET /talk HTTP/1.1\r\nHost: {host}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        f"Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n\r\n".encode()
    )
    return head(stream).split(" ")[1]


def talk(host, port, *texts):
    with socket.create_connection((host, int(port)), timeout=ENOUGH) as stream:
        status = shake(stream, host)
        said = []
        for text in texts:
            stream.sendall(frame(text, True))
            said.append(unframe(stream))
        print(status, said)


def welcome(stream):
    with stream:
        stream.sendall(b"welcome\n")
        # Whoever is spoken to ends it.
        stream.recv(1)


def first(port):
    with socket.create_server(("::", int(port)), family=socket.AF_INET6, dualstack_ipv6=True) as listener:
        while True:
            stream, _ = listener.accept()
            threading.Thread(target=welcome, args=(stream,), daemon=True).start()


def listen(host, port):
    with socket.create_connection((host, int(port)), timeout=ENOUGH) as stream:
        print(read(stream, len(b"welcome")).decode())


if __name__ == "__main__":
    commands = {"server": server, "websocket": websocket, "call": call, "talk": talk, "first": first, "listen": listen}
    commands[sys.argv[1]](*sys.argv[2:])
