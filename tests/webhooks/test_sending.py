"""One attempt: signed, sent to a checked address and nowhere else, and judged by its status."""

import datetime as dt
import ssl
from collections.abc import AsyncGenerator, Sequence
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from openai import OpenAI
from standardwebhooks import Webhook

from app import ids
from app.domain.webhooks import LONGEST_ASKED_SECONDS, Event, Outcome, mint_secret
from app.webhooks.sending import Rules, Sender, signed_headers
from tests.webhooks.receiving import Receiver, hang, receiving

LOOPBACK = (ip_network("127.0.0.0/8"),)
SECRET, OLD = mint_secret(), mint_secret()
EVENT = Event(ids.new_uuid(), "response.completed", 1)
NOT_ALLOWED = Outcome("address_not_allowed")


class Names:
    """Name servers of the test's own: what each name stands for, the next time it is asked for."""

    def __init__(self, **answers: Sequence[str]) -> None:
        self.answers = {name.replace("_", "."): list(found) for name, found in answers.items()}
        self.asked = list[str]()

    def __call__(self, name: str, port: int) -> Sequence[Any]:
        self.asked.append(name)
        if name not in self.answers:
            raise OSError(-2, "Name or service not known")
        found = self.answers[name]
        return [_found(text, port) for text in found]


def _found(text: str, port: int) -> Any:
    """As `socket.getaddrinfo` has it."""
    family = 2 if ip_address(text).version == 4 else 10
    return family, 1, 6, "", (text, port) if family == 2 else (text, port, 0, 0)


async def sent(url: str, *secrets: str, event: Event = EVENT, **how: Any) -> Outcome:
    """Send once, with a sender of its own."""
    rules = Rules(how.pop("allowed", LOOPBACK), how.pop("timeout_seconds", 5.0))
    sender = Sender(rules, **how)
    try:
        return await sender.send(url, event, secrets or (SECRET,))
    finally:
        await sender.close()


class TestAnswers:
    @pytest.mark.parametrize("status", [200, 201, 202, 204, 299])
    async def test_any_2xx_is_delivered(self, receiver: Receiver, status: int) -> None:
        receiver.answers = [status]
        assert await sent(receiver.url()) == Outcome("delivered", status)

    @pytest.mark.parametrize("status", [400, 404, 410, 429, 500, 503])
    async def test_errors_are_failures_also_where_it_says_gone(self, receiver: Receiver, status: int) -> None:
        receiver.answers = [status]
        assert await sent(receiver.url()) == Outcome("refused", status)

    @pytest.mark.parametrize(
        ("status", "asked", "heeded"),
        [
            (429, "7", 7),
            (503, "0.5", 0.5),
            (503, "9999999", LONGEST_ASKED_SECONDS),
            (503, "Wed, 21 Oct 2015 07:28:00 GMT", 0),
            (429, "soon", None),
            (429, "Wed, 21 Oct 2015 07:28:00 +" + "9" * 30, None),
            (500, "7", None),
            (301, "7", None),
            (200, "7", None),
        ],
    )
    async def test_who_has_too_much_to_do_may_ask_for_time(
        self, receiver: Receiver, status: int, asked: str, heeded: float | None
    ) -> None:
        async def answer(_: web.Request) -> web.StreamResponse:
            return web.Response(status=status, headers={"retry-after": asked})

        receiver.answers = [answer]
        assert (await sent(receiver.url())).asked_seconds == heeded

    @pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
    async def test_redirects_are_failures_and_not_followed(self, receiver: Receiver, status: int) -> None:
        receiver.answers = [status]
        assert await sent(receiver.url()) == Outcome("redirected", status)
        assert [each.path for each in receiver.received] == ["/hook"]

    async def test_who_hangs_is_given_up(self, receiver: Receiver) -> None:
        receiver.answers = [hang]
        assert await sent(receiver.url(), timeout_seconds=0.2) == Outcome("timed_out")

    async def test_of_an_endless_answer_only_the_status_is_read(self, receiver: Receiver) -> None:
        async def pour(request: web.Request) -> web.StreamResponse:
            response = web.StreamResponse()
            await response.prepare(request)
            while True:
                await response.write(b"x" * 65_536)

        receiver.answers = [pour]
        assert await sent(receiver.url()) == Outcome("delivered", 200)

    async def test_nobody_there_is_a_word(self, receiver: Receiver) -> None:
        async with receiving() as gone:
            url = gone.url()
        assert await sent(url) == Outcome("unreachable")
        assert (await sent("http://nowhere.test/x", lookup=Names())).reason == "name_not_found"

    async def test_what_is_no_http_is_a_word(self, receiver: Receiver) -> None:
        async def hang_up(request: web.Request) -> web.StreamResponse:
            assert request.transport
            request.transport.close()
            return web.Response()

        receiver.answers = [hang_up]
        assert await sent(receiver.url()) == Outcome("connection_broken")

    @pytest.mark.parametrize(
        "url", ["https://", "https://[x/", "https://a:99999/", "ftp://a/", "http://127.1/"]
    )
    async def test_what_cannot_be_asked_is_a_word(self, url: str) -> None:
        found = await sent(url, lookup=Names())
        assert found.status_code is None
        assert found.reason in {"url_invalid", "connection_broken", "name_not_found", "unreachable"}


class TestSignatures:
    async def test_the_official_client_and_the_standard_s_library_verify_it(self, receiver: Receiver) -> None:
        await sent(receiver.url())
        [got] = receiver.received
        client = OpenAI(api_key="unused", webhook_secret=SECRET)
        event = client.webhooks.unwrap(got.body, got.headers)
        assert (event.id, event.type) == (EVENT.name, EVENT.type)
        assert Webhook(SECRET).verify(got.body, dict(got.headers)) == got.event
        assert got.headers["Content-Type"] == "application/json"

    async def test_two_secrets_sign_beside_each_other(self, receiver: Receiver) -> None:
        await sent(receiver.url(), SECRET, OLD)
        [got] = receiver.received
        signatures = got.headers["webhook-signature"].split(" ")
        assert len(signatures) == 2
        assert all(each.startswith("v1,") for each in signatures)
        for secret in (SECRET, OLD):
            OpenAI(api_key="unused").webhooks.unwrap(got.body, got.headers, secret=secret)

    def test_the_same_event_later_has_the_same_id_and_another_signature(self) -> None:
        first, second = (signed_headers(EVENT, [SECRET], now) for now in (1000, 1001))
        assert first["webhook-id"] == second["webhook-id"] == EVENT.name
        assert first["webhook-timestamp"] == "1000"
        assert first["webhook-signature"] != second["webhook-signature"]


class TestWall:
    """Loopback is where the receivers of these tests are: refused, until it is allowed."""

    @pytest.mark.parametrize("host", ["127.0.0.1", "[::ffff:127.0.0.1]", "[::1]", "0.0.0.0", "[::]"])
    @pytest.mark.parametrize("scheme", ["http", "https"])
    async def test_addresses_in_the_url_are_checked(self, receiver: Receiver, host: str, scheme: str) -> None:
        assert await sent(receiver.url(host=host, scheme=scheme), allowed=()) == NOT_ALLOWED
        assert receiver.received == []

    @pytest.mark.parametrize("address", ["127.0.0.1", "10.0.0.1", "169.254.169.254", "::1", "fe80::1"])
    async def test_addresses_that_names_stand_for_are_checked(self, receiver: Receiver, address: str) -> None:
        names = Names(hook_test=[address])
        assert await sent(receiver.url(host="hook.test"), allowed=(), lookup=names) == NOT_ALLOWED
        assert receiver.received == []

    @pytest.mark.parametrize("host", ["localhost", "0x7f.1", "0177.0.0.1"])
    async def test_what_the_system_itself_makes_of_a_name_is_checked(
        self, receiver: Receiver, host: str
    ) -> None:
        found = await sent(receiver.url(host=host), allowed=())
        assert found.reason in {"address_not_allowed", "name_not_found", "url_invalid"}
        assert receiver.received == []

    async def test_of_several_addresses_only_admitted_ones_are_used(self, receiver: Receiver) -> None:
        names = Names(hook_test=["10.0.0.1", "127.0.0.1", "::1"])
        assert await sent(receiver.url(host="hook.test"), lookup=names) == Outcome("delivered", 200)

    async def test_a_name_is_asked_for_once_and_its_answer_is_what_is_used(self, receiver: Receiver) -> None:
        """One that changes between check and use changes nothing: there is nothing between them."""

        class Turncoat(Names):
            def __call__(self, name: str, port: int) -> Sequence[Any]:
                found = super().__call__(name, port)
                self.answers[name] = ["10.0.0.1"]
                return found

        names = Turncoat(hook_test=["127.0.0.1"])
        url = receiver.url(host="hook.test")
        rules = Rules(LOOPBACK, 5.0)
        sender = Sender(rules, lookup=names)
        assert await sender.send(url, EVENT, [SECRET]) == Outcome("delivered", 200)
        assert names.asked == ["hook.test"]
        assert await sender.send(url, EVENT, [SECRET]) == NOT_ALLOWED
        assert names.asked == ["hook.test"] * 2
        await sender.close()

    async def test_what_is_not_encrypted_goes_to_allowed_networks_alone(self) -> None:
        names = Names(hook_test=["1.1.1.1"])
        assert await sent("http://hook.test/", lookup=names) == NOT_ALLOWED
        assert await sent("http://1.1.1.1/") == NOT_ALLOWED

    async def test_a_redirect_to_a_private_address_leads_nowhere(self, receiver: Receiver) -> None:
        async with receiving() as private:

            async def redirect(_: web.Request) -> web.StreamResponse:
                return web.Response(status=307, headers={"location": private.url()})

            receiver.answers = [redirect]
            assert await sent(receiver.url()) == Outcome("redirected", 307)
            assert private.received == []


class TestTls:
    """The address is pinned, and the certificate is still one of the name."""

    @pytest.fixture
    async def secure(self, tmp_path: Path) -> AsyncGenerator[tuple[Receiver, ssl.SSLContext]]:
        serving, trusting = certificate(tmp_path, "hook.test")
        async with receiving(ssl_context=serving) as it:
            yield it, trusting

    async def test_the_name_s_certificate_is_taken(self, secure: tuple[Receiver, ssl.SSLContext]) -> None:
        receiver, trusting = secure
        names = Names(hook_test=["127.0.0.1"])
        url = receiver.url(host="hook.test", scheme="https")
        assert await sent(url, lookup=names, trusted=trusting) == Outcome("delivered", 200)

    async def test_another_name_s_is_not(self, secure: tuple[Receiver, ssl.SSLContext]) -> None:
        receiver, trusting = secure
        names = Names(other_test=["127.0.0.1"])
        url = receiver.url(host="other.test", scheme="https")
        assert await sent(url, lookup=names, trusted=trusting) == Outcome("certificate_invalid")
        assert receiver.received == []

    async def test_nor_one_for_which_nobody_vouches(self, secure: tuple[Receiver, ssl.SSLContext]) -> None:
        receiver, _ = secure
        names = Names(hook_test=["127.0.0.1"])
        url = receiver.url(host="hook.test", scheme="https")
        assert await sent(url, lookup=names) == Outcome("certificate_invalid")


def certificate(folder: Path, name: str) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """A context that serves as this name, and one that trusts it."""
    key, subject = ec.generate_private_key(ec.SECP256R1()), x509.Name([])
    now = dt.datetime.now(dt.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=True)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    file = folder / "certificate.pem"
    pem, plain = serialization.Encoding.PEM, serialization.NoEncryption()
    private = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, plain)
    file.write_bytes(private + made.public_bytes(pem))
    serving = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    serving.load_cert_chain(file)
    return serving, ssl.create_default_context(cafile=str(file))
