"""A gRPC service and a client of it, without generated code: messages are bytes.

serve HOST:PORT=NAME...   servers that answer every call with their name, and with UNAVAILABLE where the last part of the
                          method's path is that name; says "ready" once all of them listen
call                      reads orders from standard input, one JSON object a line, and answers each with a line: how
                          many calls ended with which answer or status
"""

import collections
import concurrent.futures
import json
import sys

import grpc

# For one call, in seconds: longer than it takes to find out that a resource does not exist.
PATIENCE = 20


class Handler(grpc.GenericRpcHandler):
    def __init__(self, name):
        self.name = name

    def service(self, call):
        method = call.method.rsplit("/", 1)[-1]

        def answer(_, context):
            if method == self.name:
                context.set_code(grpc.StatusCode.UNAVAILABLE)
            else:
                yield self.name.encode()

        # As a stream: a refusal comes without headers before it, which a client would not retry after.
        return grpc.unary_stream_rpc_method_handler(answer)


def serve(names):
    servers = []
    for argument in names:
        address, name = argument.split("=")
        server = grpc.server(concurrent.futures.ThreadPoolExecutor(4), options=[("grpc.so_reuseport", 0)])
        server.add_generic_rpc_handlers([Handler(name)])
        if not server.add_insecure_port(address):
            raise SystemExit(f"cannot listen on {address}")
        server.start()
        servers.append(server)
    print("ready", flush=True)
    # Until the other end of the pipe is closed.
    sys.stdin.read()


def call():
    channels = {}
    for line in sys.stdin:
        order = json.loads(line)
        target = order["target"]
        if target not in channels:
            channels[target] = grpc.insecure_channel(target)
        method = channels[target].unary_unary(order["method"])
        counts = collections.Counter()
        for _ in range(order["calls"]):
            try:
                answer = method(b"", metadata=order.get("metadata", {}).items(), timeout=PATIENCE)
                counts[answer.decode()] += 1
            except grpc.RpcError as error:
                counts[error.code().name] += 1
        print(json.dumps(counts), flush=True)


if sys.argv[1] == "serve":
    serve(sys.argv[2:])
else:
    call()
