"""The web application, without a network: answers, refusals, limits."""

import asyncio
import re
import time

import pytest

pytest.importorskip("fastapi", reason="ss4rec[serve] is not installed")
pytest.importorskip("httpx", reason="httpx is not installed")

from starlette.testclient import TestClient

from ss4rec.serve.app import make_app
from ss4rec.serve.batcher import Batcher, BusyError
from ss4rec.serve.guards import Guard, Limits
from ss4rec.serve.store import StoreError


@pytest.fixture
def client(service):
    with TestClient(make_app(service), raise_server_exceptions=False) as client:
        yield client


def events(*rows, user="17"):
    return {"events": [{"user": user, "item": item, "time": time} for item, time in rows]}


def test_from_events_to_a_list(client):
    sent = events(("i001", 1000), ("i002", 2000), ("unheard of", 2500))
    answer = client.post("/events", json=sent)
    assert answer.status_code == 200, answer.text
    assert answer.json() | {"model": 0} == {
        "added": 3,
        "repeated": 0,
        "unknown_items": ["unheard of"],
        "unread_context": [],
        "model": 0,
    }
    assert client.post("/events", json=sent).json()["repeated"] == 3
    body = client.post("/recommend", json={"user": 17, "k": 3}).json()
    assert (body["user"], body["events"], body["newest"], body["model"]["name"]) == ("17", 2, 2000, "model-0")
    assert len(body["items"]) == 3
    assert not {"i001", "i002"} & {item["item"] for item in body["items"]}
    assert client.get("/recommend", params={"user": 17, "k": 3}).json() == body
    later = client.get("/recommend", params={"user": 17, "k": 3, "at": "1970-02-01T00:00:00Z"}).json()
    assert later["items"] != body["items"]
    assert client.get("/recommend?user=17&k=90&exclude_seen=false&at=now").json()["events"] == 2
    history = [
        {"item": "i001", "time": 1000},
        {"item": "i002", "time": 2000},
        {"item": "other", "time": 2001},
    ]
    assert client.post("/recommend", json={"history": history, "k": 3}).json()["items"] == body["items"]
    near = client.post("/similar", json={"items": ["i001", "i002"], "k": 2}).json()
    assert [len(near["similar"][item]) for item in ("i001", "i002")] == [2, 2]
    assert [item["title"] for item in client.get("/items?search=seven").json()] == ["Seven Samurai (1954)"]


def test_what_it_says_of_itself(client):
    assert client.get("/health").json() == {"status": "alive"}
    assert client.get("/ready").json() == {"status": "ready", "model": "model-0"}
    assert client.get("/model").json()["data"]["name"] == "made up"
    client.post("/events", json=events(("i001", 1)))
    client.get("/recommend?user=17")
    client.get("/nowhere")
    figures = client.get("/metrics").text
    assert 'ss4rec_serve_requests_total{path="/recommend",status="200"} 1.0' in figures
    assert 'ss4rec_serve_requests_total{path="other",status="404"} 1.0' in figures
    assert 'ss4rec_serve_seconds_bucket{le="+Inf",path="/events"} 1.0' in figures
    assert re.search(r'ss4rec_serve_model\{fingerprint="\w{16}",name="model-0"\} 1.0', figures)
    assert "ss4rec_serve_rebuilt_total 1.0" in figures
    paths = client.get("/openapi.json").json()["paths"]
    assert {"/events", "/recommend", "/similar", "/health", "/ready", "/metrics", "/model"} <= set(paths)
    assert client.get("/docs").status_code == 200


REFUSED = [
    ("/events", {"events": []}, 400, "events: List should have at least 1 item"),
    ("/events", {"events": [{"user": "a", "item": "b"}]}, 400, "events.0.time: Field required"),
    ("/events", {"events": [{"user": "a", "item": "b", "time": "soon"}]}, 400, "'soon' is no time"),
    ("/events", {"events": [{"user": "a", "item": "b", "time": 1e12}]}, 400, "are these milliseconds"),
    ("/events", {"events": [{"user": "a", "item": "b", "time": True}]}, 400, "is no time"),
    ("/events", {"events": [{"user": "a", "item": "b", "time": time.time() + 9e6}]}, 400, "in the future"),
    ("/events", {"events": [{"user": "", "item": "b", "time": 5}]}, 400, "at least 1 character"),
    ("/events", {"events": [{"user": "a", "item": "b", "time": 5, "rating": "good"}]}, 400, "valid number"),
    ("/events", {"events": [{"user": "a", "item": "b", "time": 5, "context": [1]}]}, 400, "valid dictionary"),
    (
        "/recommend",
        {"history": [{"item": "i001", "time": 4, "context": {"x": 1}}]},
        400,
        "not x; leave it out",
    ),
    ("/events", {"event": []}, 400, "event: Extra inputs are not permitted"),
    ("/recommend", {}, 400, "name a user or give a history"),
    ("/recommend", {"user": "a", "history": [{"item": "i001", "time": 4}]}, 400, "one of the two"),
    ("/recommend", {"user": "a", "k": 0}, 400, "k: Input should be greater than or equal to 1"),
    ("/recommend", {"user": "stranger"}, 404, "nothing is known of user 'stranger'"),
    ("/recommend", {"history": [{"item": "x", "time": 4}]}, 400, "no item that the model knows"),
    (
        "/recommend",
        {"history": [{"item": "i001", "time": 4}], "profile": {"sex": "X"}},
        400,
        "nobody with sex=X",
    ),
    ("/similar", {"items": ["x"]}, 400, "does not know the item 'x'"),
    ("/elsewhere", {}, 404, "Not Found: /elsewhere"),
]


@pytest.mark.parametrize(("path", "body", "status", "sentence"), REFUSED)
def test_what_is_refused_in_one_sentence(client, path, body, status, sentence):
    answer = client.post(path, json=body)
    assert answer.status_code == status, answer.text
    assert set(answer.json()) == {"error"}
    assert sentence in answer.json()["error"]


def test_bad_queries_and_bodies(client):
    for query in ("user=a&k=x", "user=a&at=never", "k=3", "user=a&k=9999"):
        answer = client.get(f"/recommend?{query}")
        assert (answer.status_code, set(answer.json())) == (400, {"error"}), query
    answer = client.post("/events", content=b"{not json")
    assert (answer.status_code, set(answer.json())) == (400, {"error"})
    assert client.delete("/events").status_code == 405


def test_an_id_that_belongs_to_another_event(client):
    body = events(("i001", 1000))
    body["events"][0]["id"] = "click-1"
    assert client.post("/events", json=body).status_code == 200
    body["events"][0]["item"] = "i002"
    answer = client.post("/events", json=body)
    assert answer.status_code == 409
    assert "click-1" in answer.json()["error"]


def test_a_store_that_fails_acknowledges_nothing(service, monkeypatch):
    def fails(events):
        raise StoreError("the event store is full")

    monkeypatch.setattr(service.store, "add", fails)
    with TestClient(make_app(service)) as client:
        answer = client.post("/events", json=events(("i001", 1)))
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
    assert answer.json() == {"error": "the event store is full"}


def test_tokens_sizes_and_rates(service):
    now = [0.0]
    limits = Limits(tokens=("secret", "other"), body_bytes=300, requests_per_s=2, burst_s=1)
    app = make_app(service, limits)
    app.clock = lambda: now[0]
    assert isinstance(app, Guard)
    with TestClient(app) as client:
        for headers in ({}, {"authorization": "Bearer secreT"}, {"authorization": "Basic secret "}):
            answer = client.get("/model", headers=headers)
            assert (answer.status_code, set(answer.json())) == (401, {"error"})
        assert [client.get(path).status_code for path in ("/health", "/ready")] == [200, 200]
        client.headers["authorization"] = "Bearer secret"
        assert [client.get("/model").status_code for _ in range(3)] == [200, 200, 429]
        assert client.get("/model", headers={"authorization": "Bearer other"}).status_code == 200
        now[0] += 0.5
        assert [client.get("/model").status_code for _ in range(2)] == [200, 429]
        now[0] += 9
        assert client.post("/events", content=b" " * 301).status_code == 413
        assert client.post("/events", content=iter([b" " * 200] * 2)).status_code == 413


def test_requests_that_wait_become_one_batch():
    sizes = []

    def work(batch):
        sizes.append(len(batch))
        time.sleep(0.02)
        return [number * 10 if number != 3 else StoreError("three") for number in batch]

    async def crowd():
        batcher = Batcher("crowd", work, most=6, most_waiting=20)
        answers = await asyncio.gather(*(batcher.ask(n) for n in range(25)), return_exceptions=True)
        batcher.close()
        return answers

    answers = asyncio.run(crowd())
    assert [a for a in answers if isinstance(a, int)] == [n * 10 for n in range(20) if n != 3]
    assert [type(a) for a in answers if not isinstance(a, int)] == [StoreError, *[BusyError] * 5]
    assert sizes == [6, 6, 6, 2]


def test_what_a_model_does_not_read_is_kept_and_named(client):
    sent = events(("i001", 1000))
    sent["events"][0]["context"] = {"device": "phone"}
    assert client.post("/events", json=sent).json()["unread_context"] == ["device"]
    told = {"users": [{"user": 17, "profile": {"sex": "F", "age": 25}}]}
    answer = client.post("/users", json=told).json()
    assert (answer["written"], answer["unread"]) == (1, ["age=25", "sex=F"])
    assert client.get("/recommend?user=17").status_code == 200
    for wrong in ({"sex": ["F"]}, {"": "F"}, {str(n): n for n in range(40)}):
        answer = client.post("/users", json={"users": [{"user": 17, "profile": wrong}]})
        assert answer.status_code == 400, answer.text
        assert "profile" in answer.json()["error"]
    history = [{"item": "i001", "time": 1000, "context": {"device": "phone"}}]
    answer = client.post("/recommend", json={"history": history})
    assert (answer.status_code, answer.json()["error"]) == (
        400,
        "the run reads nothing of events, not device; leave it out",
    )


def test_the_short_way_answers_as_the_long_one(service, monkeypatch):
    from ss4rec.serve import short_way

    bodies = [
        ("/events", events(("i001", 1000), ("i002", "1970-01-01T01:00:00Z"), ("unheard of", 2500))),
        ("/events", events(("i001", 1000)) | {"more": 1}),
        ("/events", {"events": [events(("i003", 5))["events"][0] | {"id": "x"}]}),
        ("/events", {"events": [events(("i004", 5))["events"][0] | {"id": "x"}]}),
        ("/recommend", {"user": 17, "k": 3, "at": "now"}),
        ("/recommend", {"user": "17", "k": 3, "at": 5}),
        ("/recommend", {"user": "17", "k": 0}),
        ("/recommend", {"user": "nobody"}),
        ("/recommend", {}),
    ]

    def answers():
        with TestClient(make_app(service), raise_server_exceptions=False) as client:
            found = [client.post(path, json=body) for path, body in bodies]
            found += [client.post(path, content="{", headers=JSON) for path in ("/events", "/recommend")]
            return [(one.status_code, one.json(), dict(one.headers)) for one in found]

    answers()  # writes the events
    short = answers()
    monkeypatch.setattr(short_way, "_is_json", lambda scope: False)
    assert answers() == short
    assert {status for status, _, _ in short} == {200, 400, 404, 409}


def test_an_error_of_the_short_way_is_a_sentence_and_a_line_of_the_log(service, client, monkeypatch):
    def fail(asks):
        raise RuntimeError("never to be told")

    client.post("/events", json=events(("i001", 1000)))
    monkeypatch.setattr(service.store, "since", fail)
    answer = client.post("/recommend", json={"user": "17"})
    assert (answer.status_code, answer.json()) == (500, {"error": "the server failed; its log says how"})
    assert 'path="/recommend",status="500"' in client.get("/metrics").text


JSON = {"content-type": "application/json"}
