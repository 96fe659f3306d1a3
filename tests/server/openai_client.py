#!/usr/bin/env python3
"""The PyPI package `openai`, unmodified, against `quire serve` with the real model: openai_client.py QUIRE MODEL BACKEND.

Needs: openai[realtime] (its WebSocket extra), which tools/openai-client-test.sh fetches. Checks the order of the events, the text, the usage, lanes, a continuation, an error, and that closing the
socket frees the blocks. Prints «N passed, N failed» and exits with 1 if anything failed."""
import socket
import subprocess
import sys
import time
import urllib.request

from openai import OpenAI

quire, model, backend = sys.argv[1:4]
with socket.socket() as probe:
    probe.bind(("127.0.0.1", 0))
    PORT = probe.getsockname()[1]
passed = failed = 0


def check(name, condition, detail=""):
    global passed, failed
    passed, failed = passed + bool(condition), failed + (not condition)
    print(("ok     " if condition else "FAILED ") + name + (f": {detail}" if detail and not condition else ""), flush=True)


def metric(name):
    text = urllib.request.urlopen(f"http://127.0.0.1:{PORT}/metrics").read().decode()
    return next(float(line.split()[-1]) for line in text.splitlines() if line.startswith(name + " ") or line.startswith(name + "{"))


def response(connection, **create):
    """Sends one response.create and returns its events."""
    connection.response.create(**create)
    events = []
    for event in connection:
        events.append(event)
        if event.type in ("response.completed", "response.incomplete", "response.failed", "error"):
            return events


def main():
    for _ in range(600):
        try:
            if urllib.request.urlopen(f"http://127.0.0.1:{PORT}/health").status == 200:
                break
        except OSError:
            time.sleep(0.1)
    client = OpenAI(base_url=f"http://127.0.0.1:{PORT}/v1", api_key="none")
    served = client.models.list().data[0].id
    check("the model is listed", "smollm2" in served.lower(), served)

    with client.responses.connect() as connection:
        events = response(connection, model=served, input="What is the capital of France?", temperature=0, max_output_tokens=64)
        types = [e.type for e in events]
        head = ["response.created", "response.in_progress", "response.output_item.added", "response.content_part.added", "response.output_text.delta"]
        tail = ["response.output_text.done", "response.content_part.done", "response.output_item.done", "response.completed"]
        check("events begin as they should", types[:5] == head, types[:5])
        check("events end as they should", types[-4:] == tail, types[-4:])
        check("sequence numbers rise by one", [e.sequence_number for e in events] == list(range(len(events))))
        text = "".join(e.delta for e in events if e.type == "response.output_text.delta")
        check("the answer names Paris", "Paris" in text, text)
        final = events[-1].response
        check("the deltas are the text", final.output_text == text, final.output_text)
        check("usage adds up", final.usage.total_tokens == final.usage.input_tokens + final.usage.output_tokens and final.usage.output_tokens > 0)
        again = response(connection, model=served, input="What is the capital of France?", temperature=0, max_output_tokens=64)[-1].response
        check("the same question gets the same answer", again.output_text == text, again.output_text)

        more = response(connection, model=served, input="And of Italy?", previous_response_id=final.id, temperature=0, max_output_tokens=32)[-1].response
        check("a continuation reuses the past", more.usage.input_tokens_details.cached_tokens >= final.usage.input_tokens // 16 * 16 - 16,
              more.usage.input_tokens_details.cached_tokens)
        wrong = response(connection, model=served, input="x", temperature=-1)
        check("a wrong parameter is named", wrong[-1].type == "error" and wrong[-1].error.param == "temperature", wrong)

    with client.responses.connect() as connection:
        connection.send({"type": "response.create", "input": "Tell a very long story.", "max_output_tokens": 1500, "ignore_eos": True})
        for event in connection:
            if event.type == "response.output_text.delta":
                break
    for _ in range(200):
        if metric('quire_kv_blocks{state="referenced"}') == 0:
            break
        time.sleep(0.05)
    check("closing the socket frees the blocks", metric('quire_kv_blocks{state="referenced"}') == 0)
    check("nothing runs any more", metric("quire_requests_running") == 0)


server = subprocess.Popen([quire, "-q", "serve", "--model", model, "--backend", backend, "--port", str(PORT)])
try:
    main()
finally:
    server.terminate()
    code = server.wait(60)
check("the server ends cleanly on SIGTERM", code == 0, code)
print(f"{passed} passed, {failed} failed")
sys.exit(1 if failed else 0)
