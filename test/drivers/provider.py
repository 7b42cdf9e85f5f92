#!/usr/bin/python3
"""A small provider of language models on 127.0.0.1, with the wire format of OpenAI's chat completions.

    provider.py SECRET...

It answers whoever brings one of the secrets, with figures that depend on the question alone; others get 401, with their
secret in the message, as real providers do. As a program it prints its base URL and serves until it is ended; the tests
use the class, which remembers every call.
"""
import json
import sys
import threading
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass(frozen=True)
class Call:
    """A call that was answered."""
    secret: str
    model: str
    max_tokens: int
    question: str
    input_tokens: int
    output_tokens: int


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        secret = self.headers.get("Authorization", "").removeprefix("Bearer ")
        if self.path != "/v1/chat/completions":
            self.reply(404, {"error": {"message": f"Unknown request URL: {self.path}"}})
        elif secret not in self.server.secrets:
            self.reply(401, {"error": {"message": f"Incorrect API key provided: {secret}", "code": "invalid_api_key"}})
        else:
            self.complete(secret, json.loads(body))

    def complete(self, secret, request):
        question = request["messages"][-1]["content"]
        content = answer_to(question)
        call = Call(secret, request["model"], request["max_tokens"], question, 7 + len(question.split()),
                    min(len(content.split()), request["max_tokens"]))
        self.server.calls.append(call)
        self.reply(200, {
            "model": call.model,
            "choices": [{"index": 0, "message": {"role": "assistant", "content": content}, "finish_reason": "stop"}],
            "usage": {"prompt_tokens": call.input_tokens, "completion_tokens": call.output_tokens,
                      "total_tokens": call.input_tokens + call.output_tokens},
        })

    def reply(self, status, answer):
        body = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        """Nothing: whoever started the server reads its calls."""


def answer_to(question):
    return f"You asked: {question}"


class Provider(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, secrets):
        super().__init__(("127.0.0.1", 0), Handler)
        self.secrets = set(secrets)
        self.calls = []
        self.base_url = f"http://127.0.0.1:{self.server_port}/v1"

    def __enter__(self):
        threading.Thread(target=self.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *exc):
        self.shutdown()
        self.server_close()


if __name__ == "__main__":
    server = Provider(sys.argv[1:])
    print(server.base_url, flush=True)
    server.serve_forever()
