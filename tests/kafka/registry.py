"""What a schema registry answers to clients, over HTTP: no real one can be installed from a package registry, and its
interface is small. The schemas are put there, and messages written, by Confluent's own client."""
import base64
import http.server
import json
import re
import threading
import urllib.parse


class Registry:
    def __init__(self, user="reader", password="secret"):
        self.subjects, self.schemas, self.is_down, self.asked = {}, [], False, 0
        self.login = "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()
        registry = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self):  # noqa: N802 - the library's name
                self.answer(None)

            def do_POST(self):  # noqa: N802
                self.answer(json.loads(self.rfile.read(int(self.headers["content-length"]))))

            def answer(self, body):
                status, text = registry.answer(urllib.parse.unquote(self.path.split("?")[0]), body, self.headers)
                data = json.dumps(text).encode()
                self.send_response(status)
                self.send_header("content-type", "application/vnd.schemaregistry.v1+json")
                self.send_header("content-length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *_):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"127.0.0.1:{self.server.server_address[1]}"
        self.url = f"http://{self.address}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def client(self, user="reader", password="secret"):
        """The settings of Confluent's client."""
        return {"url": self.url, "basic.auth.user.info": f"{user}:{password}"}

    def answer(self, path, body, headers):
        self.asked += 1
        if self.is_down:
            return 503, {"error_code": 50302, "message": "down"}
        if headers.get("authorization") != self.login:
            return 401, {"error_code": 40101, "message": "who are you?"}
        if found := re.fullmatch(r"/schemas/ids/(\d+)", path):
            number = int(found[1])
            if not 0 < number <= len(self.schemas):
                return 404, {"error_code": 40403, "message": "no such schema"}
            return 200, self.schemas[number - 1]
        if found := re.fullmatch(r"/subjects/(.+)/versions/(\d+|latest)", path):
            versions = self.subjects.get(found[1], [])
            version = len(versions) if found[2] == "latest" else int(found[2])
            if not 0 < version <= len(versions):
                return 404, {"error_code": 40402, "message": "no such version"}
            number = versions[version - 1]
            return 200, {"subject": found[1], "version": version, "id": number} | self.schemas[number - 1]
        if found := re.fullmatch(r"/subjects/([^/]+?)(/versions)?", path):
            schema = {name: body[name] for name in ("schema", "schemaType", "references") if body.get(name)}
            if schema.get("schemaType") == "AVRO":
                del schema["schemaType"]
            if schema not in self.schemas:
                if not found[2]:
                    return 404, {"error_code": 40403, "message": "no such schema"}
                self.schemas.append(schema)
            number = self.schemas.index(schema) + 1
            versions = self.subjects.setdefault(found[1], [])
            if number not in versions:
                versions.append(number)
            return 200, {"id": number, "subject": found[1], "version": versions.index(number) + 1} | schema
        return 404, {"error_code": 404, "message": path}

    def close(self):
        self.server.shutdown()
        self.server.server_close()
