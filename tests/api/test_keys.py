"""Keys at work: when they begin and cease to count, what they cost, and which models they name."""

import asyncio
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any

import httpx2
import openai
import pytest

from app.api.keyring import MOST_REMEMBERED, Keyring, open_keyring
from app.domain.keys import Key, masked, mint, parse
from app.domain.tenancy import ALL_SCOPES, Caller, Scope
from app.errors import Unauthenticated, Unavailable
from app.store import keys
from app.store.db import Database, SystemTx
from app.store.keys import ListedKey
from tests.api.asking import CREATE, create, invalid, refusal
from tests.keys import IMPATIENT, client_with, in_system, new_key, revoke
from tests.live import LiveServer
from tests.migrations.databases import new_database
from tests.waiting import patience, wait_until


@pytest.fixture(scope="module", autouse=True)
def served(quiet_database_url: str) -> Generator[LiveServer]:
    """A server that began without any key."""
    config = '[[upstreams]]\nname = "offline"\nprotocol = "offline"\nmodels = ["offline", "other", "third"]\n'
    with LiveServer(quiet_database_url, config, environment=IMPATIENT) as live:
        with client_with(live, None) as client:
            made = create(client, "before there were keys")
            asyncio.run(new_key(quiet_database_url, "default", Scope.READ))
            wait_until(lambda: client.get(CREATE).status_code == 401)
        with client_with(live, asyncio.run(new_key(quiet_database_url, "default"))) as client:
            assert client.get(f"{CREATE}/{made['id']}").json() == made
        yield live


async def test_the_first_key_closes_a_running_server_and_the_default_tenant_keeps_its_own(
    served: LiveServer,
) -> None:
    with client_with(served, None) as client:
        assert client.get(CREATE).status_code == 401


async def test_a_revoked_key_is_refused_within_the_cache_time(
    served: LiveServer, quiet_database_url: str
) -> None:
    key = await new_key(quiet_database_url, "revoking")
    with client_with(served, key) as client:
        assert client.get(CREATE).status_code == 200
        await revoke(quiet_database_url, key)
        wait_until(lambda: client.get(CREATE).status_code == 401)


async def test_an_expiring_key_ends_by_itself(served: LiveServer, quiet_database_url: str) -> None:
    key = await new_key(quiet_database_url, "expiring", lifetime=timedelta(seconds=1))
    with client_with(served, key) as client:
        assert client.get(CREATE).status_code == 200
        wait_until(lambda: client.get(CREATE).status_code == 401)


async def test_tenants_see_their_own(served: LiveServer, quiet_database_url: str) -> None:
    one, other = [await new_key(quiet_database_url, name) for name in ("one", "other")]
    with client_with(served, one) as client:
        made = create(client, "mine")
    with client_with(served, other) as client:
        assert client.get(f"{CREATE}/{made['id']}").status_code == 404
        assert client.get(CREATE).json()["data"] == []
    with client_with(served, await new_key(quiet_database_url, "one", Scope.AUDIT)) as client:
        assert client.get(f"{CREATE}/{made['id']}").json() == made


async def test_the_official_client_raises_what_it_ought_to(
    served: LiveServer, quiet_database_url: str
) -> None:
    def ask(key: Key) -> str | None:
        with openai.OpenAI(base_url=served.base_url, api_key=key.text) as client:
            return client.responses.create(model="offline", input="hi").status

    with pytest.raises(openai.AuthenticationError) as refused:
        ask(mint())
    assert refused.value.code == "invalid_api_key"
    reader = await new_key(quiet_database_url, "sdk", Scope.READ)
    with pytest.raises(openai.PermissionDeniedError) as forbidden:
        ask(reader)
    assert forbidden.value.code == "insufficient_permissions"
    assert ask(await new_key(quiet_database_url, "sdk")) == "completed"


class TestModels:
    @pytest.fixture
    def client(self, served: LiveServer, quiet_database_url: str) -> Generator[httpx2.Client]:
        key = asyncio.run(new_key(quiet_database_url, "choosy", models=["off*", "thir?"]))
        with client_with(served, key) as client:
            yield client

    def test_only_those_of_the_tenant_are_listed(self, client: httpx2.Client) -> None:
        assert [model["id"] for model in client.get("/v1/models").json()["data"]] == ["offline", "third"]

    @pytest.mark.parametrize(
        ("path", "body"),
        [
            (CREATE, {"model": "MODEL", "input": "hi"}),
            (CREATE, {"model": "MODEL", "input": "hi", "stream": True}),
            (f"{CREATE}/input_tokens", {"model": "MODEL", "input": "hi"}),
        ],
    )
    def test_one_outside_is_an_unknown_one(
        self, client: httpx2.Client, path: str, body: dict[str, object]
    ) -> None:
        for name in ("other", "nosuch"):
            told = refusal(client.post(path, json={**body, "model": name}))
            words = f"The requested model '{name}' does not exist."
            assert told == invalid(words, code="model_not_found", param="model")
        assert client.post(path, json={**body, "model": "third"}).status_code == 200

    def test_nor_is_it_shown(self, client: httpx2.Client) -> None:
        told = [client.get(f"/v1/models/{name}").text.replace(name, "X") for name in ("other", "nosuch")]
        assert told[0] == told[1]
        assert client.get("/v1/models/third").status_code == 200

    def test_nor_is_its_window(self, client: httpx2.Client) -> None:
        name = create(client)["id"]
        for model, status in (("other", 400), ("nosuch", 400), ("third", 200)):
            answer = client.get(f"{CREATE}/{name}/context", params={"model": model})
            assert answer.status_code == status


async def listed(database_url: str, key: Key) -> ListedKey:
    return next(each for each in await in_system(database_url, keys.list_all) if each.id == key.id)


class Counting(Database):
    """Counts the transactions for all tenants, which is what lookups are."""

    begun = 0

    @asynccontextmanager
    async def begin_system(self) -> AsyncGenerator[SystemTx]:
        self.begun += 1
        async with super().begin_system() as tx:
            yield tx


@pytest.fixture
async def counting(quiet_database_url: str) -> AsyncGenerator[Counting]:
    await new_key(quiet_database_url, "default")
    db = await Counting.connect(quiet_database_url, size=2)
    assert isinstance(db, Counting)
    yield db
    await db.close()


class Failing(Database):
    """Fails in a way that nobody foresaw, once it is told to; and says when it has worked again."""

    must_fail = has_failed = False

    def __init__(self, pool: Any, *, is_ours: bool = True) -> None:
        super().__init__(pool, is_ours=is_ours)
        self.works_again = asyncio.Event()

    @asynccontextmanager
    async def begin_system(self) -> AsyncGenerator[SystemTx]:
        if self.must_fail:
            self.must_fail, self.has_failed = False, True
            raise LookupError
        async with super().begin_system() as tx:
            yield tx
        if self.has_failed:
            self.works_again.set()


def test_a_failure_that_nobody_foresaw_does_not_leave_a_server_open(postgres_url: str, migrated: str) -> None:
    async def run(url: str) -> None:
        db = await Failing.connect(url, size=2)
        assert isinstance(db, Failing)
        async with open_keyring(db, cache_seconds=0.05) as keyring:
            assert await keyring.caller(None) == Caller()
            db.must_fail = True
            await new_key(url, "late")
            async with patience():
                await db.works_again.wait()
            with pytest.raises(Unauthenticated):
                await keyring.caller(None)
        await db.close()

    with new_database(postgres_url, like=migrated) as url:
        asyncio.run(run(url))


class TestKeyring:
    async def test_many_requests_are_one_lookup(self, counting: Counting, quiet_database_url: str) -> None:
        key = await new_key(quiet_database_url, "busy", models=["m"])
        async with open_keyring(counting, cache_seconds=60) as keyring:
            before = counting.begun
            callers = await asyncio.gather(*(keyring.caller(key.text) for _ in range(200)))
            assert counting.begun == before + 1
        assert {(caller.key_id, caller.models, caller.scopes) for caller in callers} == {
            (key.id, ("m",), Scope.WRITE)
        }

    async def test_uses_are_noted_without_a_write_per_request(
        self, counting: Counting, quiet_database_url: str
    ) -> None:
        used, unused = [await new_key(quiet_database_url, "noting") for _ in range(2)]
        async with open_keyring(counting, cache_seconds=60) as keyring:
            for _ in range(100):
                await keyring.caller(used.text)
            before = counting.begun
            await keyring.note_uses()
            assert counting.begun == before + 1
        assert (await listed(quiet_database_url, used)).last_used_at
        assert (await listed(quiet_database_url, unused)).last_used_at is None

    async def test_the_last_uses_are_noted_at_the_end(
        self, counting: Counting, quiet_database_url: str
    ) -> None:
        key = await new_key(quiet_database_url, "ending")
        async with open_keyring(counting, cache_seconds=60) as keyring:
            await keyring.caller(key.text)
        assert (await listed(quiet_database_url, key)).last_used_at

    async def test_a_wrong_secret_is_no_use(self, counting: Counting, quiet_database_url: str) -> None:
        key = await new_key(quiet_database_url, "guessed")
        async with open_keyring(counting, cache_seconds=60) as keyring:
            with pytest.raises(Unauthenticated):
                await keyring.caller(Key(key.id, mint().secret).text)
        assert (await listed(quiet_database_url, key)).last_used_at is None

    async def test_guesses_are_looked_up_together_and_remembered(self, counting: Counting) -> None:
        guesses = [mint().text for _ in range(500)]
        async with open_keyring(counting, cache_seconds=60) as keyring:
            before = counting.begun
            for _ in range(2):
                answers = await asyncio.gather(*map(keyring.caller, guesses), return_exceptions=True)
                assert {type(answer) for answer in answers} == {Unauthenticated}
            assert counting.begun <= before + 2

    async def test_what_is_remembered_of_guesses_is_bounded_and_pushes_no_key_out(
        self, counting: Counting, quiet_database_url: str
    ) -> None:
        key = await new_key(quiet_database_url, "steady")
        async with open_keyring(counting, cache_seconds=60) as keyring:
            await keyring.caller(key.text)
            guesses = (mint().text for _ in range(MOST_REMEMBERED + 1000))
            await asyncio.gather(*map(keyring.caller, guesses), return_exceptions=True)
            before = counting.begun
            await keyring.caller(key.text)
            assert counting.begun == before
            assert len(keyring._unknown) <= MOST_REMEMBERED

    async def test_what_is_no_key_by_its_form_asks_nobody(self, counting: Counting) -> None:
        async with open_keyring(counting, cache_seconds=60) as keyring:
            before = counting.begun
            for text in ("", "hf_", "sk-" + "a" * 70, "hf_" + "g" * 32 + "_" + "a" * 43, "é" * 79):
                with pytest.raises(Unauthenticated):
                    await keyring.caller(text)
            assert counting.begun == before

    async def test_without_postgres_a_key_that_is_not_remembered_is_not_believed(
        self, quiet_database_url: str
    ) -> None:
        key = await new_key(quiet_database_url, "away")
        db = await Database.connect(quiet_database_url, size=1)
        keyring = Keyring(db, cache_seconds=60)
        await keyring.look()
        await db.close()
        with pytest.raises(Unavailable):
            await keyring.caller(key.text)

    async def test_whose_client_hangs_up_spoils_nobody_elses_lookup(
        self, counting: Counting, quiet_database_url: str
    ) -> None:
        key = await new_key(quiet_database_url, "shared")
        async with open_keyring(counting, cache_seconds=60) as keyring, asyncio.TaskGroup() as tasks:
            gone = tasks.create_task(keyring.caller(key.text))
            stays = tasks.create_task(keyring.caller(key.text))
            await asyncio.sleep(0)
            gone.cancel()
            assert (await stays).key_id == key.id


class TestText:
    def test_a_key_is_read_as_it_is_written(self) -> None:
        key = mint()
        assert parse(key.text) == key
        assert key.text == f"hf_{key.id.hex}_{key.secret}"
        assert len(key.text) == 79

    def test_no_two_keys_share_a_hash(self) -> None:
        key = mint()
        others = [mint(), Key(key.id, mint().secret), Key(mint().id, key.secret)]
        assert key.fits(key.hash)
        assert not any(key.fits(other.hash) for other in others)
        assert len(key.hash) == 32

    def test_its_secret_is_not_in_what_is_logged(self) -> None:
        key = mint()
        assert key.secret not in repr(key)

    @pytest.mark.parametrize(
        ("text", "shown"),
        [
            ("hf_" + "0" * 32 + "_" + "a" * 39 + "1234", "hf_****1234"),
            ("sk-proj-" + "a" * 36 + "wxyz", "****wxyz"),
            ("hunter2", "****"),
            ("a" * 40 + "ü", "****"),
        ],
    )
    def test_a_refused_key_is_masked(self, text: str, shown: str) -> None:
        assert masked(text) == shown

    def test_scopes_imply_each_other(self) -> None:
        allowed = {scope: {each for each in Scope if Caller(scopes=scope).may(each)} for scope in Scope}
        assert allowed == {
            Scope.READ: {Scope.READ},
            Scope.WRITE: {Scope.READ, Scope.WRITE},
            Scope.AUDIT: {Scope.READ, Scope.AUDIT},
            Scope.ADMIN: set(ALL_SCOPES),
        }
