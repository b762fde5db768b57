"""What gcs.py promises: the differences between GCS and S3, seen without the program under test."""

import http.client
import time
import xml.etree.ElementTree as xml

import pytest
from gcs import CONDITION, TOKEN_PATH
from gcs_identity import LONGEST_SECONDS, ServiceAccount
from kinds import BUCKET

KEY = f"/{BUCKET}/a%2Fb%2Ec"
PART = b"x" * (5 << 20)


@pytest.fixture
def ask(gcs):
    """Sends a request with the token of the account, or with another one."""

    def send(method, target, body=b"", token=None, **headers):
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        named["Authorization"] = f"Bearer {token or gcs.account.token()}"
        connection = http.client.HTTPConnection("127.0.0.1", gcs.port, timeout=30)
        try:
            connection.request(method, target, body, named)
            answer = connection.getresponse()
            return answer.status, answer.headers, answer.read()
        finally:
            connection.close()

    return send


def conditioned(generation):
    return {CONDITION: generation}


def test_generations_grow_and_conditions_on_them_hold(ask):
    status, first, _ = ask("PUT", KEY, b"1", **conditioned("0"))
    assert status == 200
    status, _, content = ask("PUT", KEY, b"2", **conditioned("0"))
    assert status == 412 and b"PreconditionFailed" in content
    generation = first["x-goog-generation"]
    status, second, _ = ask("PUT", KEY, b"3", **conditioned(generation))
    assert status == 200 and int(second["x-goog-generation"]) > int(generation)
    assert ask("PUT", KEY, b"4", **conditioned(generation))[0] == 412
    status, headers, content = ask("GET", KEY)
    assert (status, content) == (200, b"3")
    assert headers["x-goog-generation"] == second["x-goog-generation"]
    assert ask("GET", f"{KEY}?generation={generation}")[0] == 404


def test_a_read_has_ranges_and_what_the_client_asks_for(ask):
    ask("PUT", KEY, b"0123456789")
    status, headers, content = ask("GET", KEY, Range="bytes=2-4")
    assert (status, content) == (206, b"234")
    assert headers["Content-Range"] == "bytes 2-4/10"
    status, headers, content = ask("HEAD", KEY)
    assert (status, content, headers["Content-Length"]) == (200, b"", "10")
    assert headers["ETag"] and headers["Last-Modified"] and headers["x-goog-generation"]
    assert ask("GET", KEY, If_None_Match=headers["ETag"])[0] == 304


def test_what_is_not_there_can_be_neither_read_nor_deleted(ask):
    """S3 answers 204 to the second deletion."""
    ask("PUT", KEY, b"1")
    assert ask("DELETE", KEY)[0] == 204
    for method in ("DELETE", "GET"):
        status, _, content = ask(method, KEY)
        assert status == 404 and b"NoSuchKey" in content
    status, _, content = ask("PUT", "/elsewhere/a", b"1")
    assert status == 404 and b"NoSuchBucket" in content


def test_an_upload_of_parts_is_there_when_it_is_complete(gcs, ask):
    upload = begin(ask)
    etags = [put_part(ask, upload, n + 1, part) for n, part in enumerate((PART, b"end"))]
    assert ask("GET", KEY)[0] == 404
    status, headers, content = complete(ask, upload, etags)
    assert status == 200 and b"<ETag>" in content and headers["x-goog-generation"]
    assert ask("GET", KEY)[2] == PART + b"end"
    assert complete(ask, upload, etags)[0] == 404, "an upload is completed once"
    assert not gcs.server.unfinished_uploads(BUCKET)


def test_an_upload_that_is_aborted_leaves_nothing_and_small_parts_are_refused(gcs, ask):
    upload = begin(ask)
    etags = [put_part(ask, upload, n + 1, part) for n, part in enumerate((b"small", b"end"))]
    status, _, content = complete(ask, upload, etags)
    assert status == 400 and b"EntityTooSmall" in content
    assert ask("DELETE", f"{KEY}?uploadId={upload}")[0] == 204
    assert not gcs.server.unfinished_uploads(BUCKET)
    assert ask("GET", KEY)[0] == 404


def begin(ask):
    status, _, content = ask("POST", f"{KEY}?uploads=")
    assert status == 200
    return xml.fromstring(content).find("{*}UploadId").text


def put_part(ask, upload, number, part):
    status, headers, _ = ask("PUT", f"{KEY}?partNumber={number}&uploadId={upload}", part)
    assert status == 200
    return headers["ETag"]


def complete(ask, upload, etags):
    parts = "".join(
        f"<Part><PartNumber>{number}</PartNumber><ETag>{etag}</ETag></Part>"
        for number, etag in enumerate(etags, 1)
    )
    body = f"<CompleteMultipartUpload>{parts}</CompleteMultipartUpload>".encode()
    return ask("POST", f"{KEY}?uploadId={upload}", body)


def test_a_list_has_prefixes_pages_and_sizes(ask):
    for name in ("a%2F1", "a%2F2", "b"):
        ask("PUT", f"/{BUCKET}/{name}", b"123")
    target = f"/{BUCKET}?list-type=2"
    page = xml.fromstring(ask("GET", f"{target}&delimiter=%2F")[2])
    assert [each.text for each in page.findall("{*}CommonPrefixes/{*}Prefix")] == ["a/"]
    assert [each.text for each in page.findall("{*}Contents/{*}Key")] == ["b"]
    page = xml.fromstring(ask("GET", f"{target}&prefix=a%2F&max-keys=1")[2])
    assert [each.text for each in page.findall("{*}Contents/{*}Size")] == ["3"]
    more = page.find("{*}NextContinuationToken").text
    page = xml.fromstring(ask("GET", f"{target}&prefix=a%2F&continuation-token={more}")[2])
    assert [each.text for each in page.findall("{*}Contents/{*}Key")] == ["a/2"]


def test_only_tokens_that_are_good_now_are_taken(gcs, ask):
    now, account = int(time.time()), gcs.account
    impostor = ServiceAccount()
    impostor.key_id = account.key_id
    refused = {
        "no token of ours": "ya29.made-up",
        "unknown key": ServiceAccount().token(),
        "wrong signature": impostor.token(),
        "wrong claims": account.token(scope="https://www.googleapis.com/auth/drive"),
        "expired": account.token(iat=now - LONGEST_SECONDS, exp=now - 1),
    }
    for reason, token in refused.items():
        status, _, content = ask("PUT", KEY, b"1", token)
        assert status == 401 and reason.encode() in content
    assert ask("PUT", KEY, b"1", account.token(exp=now + 2 * LONGEST_SECONDS))[0] == 401
    assert sum(gcs.identity.refusals.values()) == len(refused) + 1
    assert not gcs.server.objects(BUCKET)


def test_the_metadata_service_gives_tokens_that_end(gcs, ask):
    assert ask("GET", TOKEN_PATH)[0] == 403, "a page in a browser could ask for one"
    gcs.identity.life_seconds = 60
    assert ask("GET", TOKEN_PATH, Metadata_Flavor="Google")[0] == 200
    [token] = gcs.identity.handed_out
    assert ask("PUT", KEY, b"1", token)[0] == 200
    gcs.identity.clock = lambda: time.time() + 61
    assert ask("PUT", KEY, b"1", token)[0] == 401


@pytest.mark.parametrize(
    ("method", "target", "headers"),
    [
        ("PUT", KEY, {"x-goog-copy-source": "rows/other"}),
        ("PUT", KEY, {"x-goog-meta-colour": "red"}),
        ("GET", f"{KEY}?acl", {}),
        ("GET", f"/{BUCKET}", {}),
        ("DELETE", f"/{BUCKET}", {}),
        ("DELETE", KEY, {CONDITION: "1"}),
    ],
)
def test_what_the_front_does_not_know_it_refuses(ask, method, target, headers):
    assert ask(method, target, **headers)[0] == 501
