from __future__ import annotations

import asyncio
import base64
from collections.abc import Iterator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from eval.engines.endpoint import EndpointModel, ServerChat, content
from eval.engines.server import Server
from eval.generation import Answer, Question
from eval.settings import Endpoint, Settings
from orchestrator.errors import InputError, NotFound, RunFailed
from orchestrator.run_directory import RunDirectory
from tests.eval.fake_server import FakeServer, Reply, completion, said, status
from tests.jobs.rewards.fake_judge import FakeJudge, says

PNG = b"\x89PNG..."


def settings(**values: Any) -> Settings:
    given = {"models": {"a": "m"}, "tasks": {"t": {"path": "t"}}, "max_new_tokens": 8, **values}
    return Settings.model_validate(given)


def asked(count: int = 3, **values: Any) -> list[Question]:
    return [Question(key=(f"p{k}", 0), text=f"say {k}", **values) for k in range(count)]


async def answers(
    server: FakeServer, questions: list[Question], endpoint: dict[str, Any] | None = None, **values: Any
) -> list[Answer]:
    given = Endpoint(url=server.url, **(endpoint or {}))
    opened = await Server.open("models.a", given, RunDirectory(Path("nowhere")), 1)
    model = EndpointModel(opened, given, settings(**values))
    try:
        async with aclosing(model.answers(questions)) as found:
            return [answer async for answer in found]
    finally:
        await model.close()


def ask(reply: Reply, questions: list[Question], endpoint: dict[str, Any] | None = None, **values: Any) -> Any:
    async def main() -> tuple[list[Answer], FakeServer]:
        async with FakeServer(reply) as server:
            return await answers(server, questions, endpoint, **values), server

    return asyncio.run(main())


def in_turn(*replies: str | web.Response) -> Reply:
    """Return what answers with one after the other, and with the last one for ever."""
    left: Iterator[str | web.Response] = iter(replies)
    last: list[str | web.Response] = []

    def reply(_: dict[str, Any]) -> str | web.Response:
        last[:] = [next(left, *last)]
        return last[0]

    return reply


def test_every_question_is_answered_once() -> None:
    found, server = ask(lambda body: said(body).upper(), asked())

    assert {answer.key: answer.text for answer in found} == {("p0", 0): "SAY 0", ("p1", 0): "SAY 1", ("p2", 0): "SAY 2"}
    assert {(answer.tokens, answer.finish) for answer in found} == {(4, "stop")}
    assert [body["model"] for body in server.bodies] == ["m"] * 3


def test_so_many_are_on_their_way_as_the_settings_say() -> None:
    async def main() -> tuple[list[Answer], FakeServer]:
        async with FakeServer(lambda _: "x", after_s=0.02) as server:
            return await answers(server, asked(20), {"concurrency": 4}), server

    found, server = asyncio.run(main())

    assert len(found) == 20
    assert server.most_at_once == 4


def test_an_answer_is_there_before_the_slowest_one() -> None:
    async def reply(body: dict[str, Any]) -> str:
        await asyncio.sleep(0.2 if said(body) == "say 0" else 0)
        return said(body)

    found, _ = ask(reply, asked())

    assert found[-1].key == ("p0", 0)


def test_a_greedy_request_says_no_more_than_every_server_understands() -> None:
    _, server = ask(lambda _: "x", asked(1))

    assert server.bodies == [
        {"model": "m", "messages": [{"role": "user", "content": "say 0"}], "max_tokens": 8, "temperature": 0.0}
    ]


def test_settings_of_generation_reach_the_server() -> None:
    values = {"temperature": 0.7, "top_p": 0.9, "repetition_penalty": 1.05, "keep_special_tokens": True}

    _, server = ask(
        lambda _: "x", asked(1, system="Be brief.", seed=5), {"body": {"top_k": 20, "top_p": None}}, **values
    )

    (body,) = server.bodies
    assert body["messages"][0] == {"role": "system", "content": "Be brief."}
    assert {name: body.get(name) for name in ("seed", "temperature", "top_p", "top_k")} == {
        "seed": 5,
        "temperature": 0.7,
        "top_p": None,
        "top_k": 20,
    }
    assert (body["repetition_penalty"], body["skip_special_tokens"]) == (1.05, False)


def test_images_stand_where_the_text_has_them() -> None:
    parts = content(Question(key=("p", 0), text="See <image> and <image>!", images=(PNG, b"\xff\xd8\xff")))

    assert [part["type"] for part in parts] == ["text", "image_url", "text", "image_url", "text"]
    assert parts[1]["image_url"]["url"] == "data:image/png;base64," + base64.b64encode(PNG).decode()
    assert parts[3]["image_url"]["url"].startswith("data:image/jpeg;base64,")


def test_images_without_a_place_are_an_error() -> None:
    with pytest.raises(InputError, match="problem 'p': the text has 0 <image> for 1 image"):
        content(Question(key=("p", 0), text="See.", images=(PNG,)))


def test_a_cut_answer_says_so() -> None:
    found, _ = ask(lambda _: completion("long", finish="length"), asked(1))

    assert found[0].finish == "length"


def test_a_server_that_fails_is_asked_again() -> None:
    found, server = ask(in_turn(status(500), web.Response(text="no JSON"), "fine"), asked(1))

    assert found[0].text == "fine"
    assert len(server.bodies) == 3


def test_a_server_that_keeps_failing_ends_the_evaluation() -> None:
    with pytest.raises(RunFailed, match=r"failed 2 times on problem 'p0': status 500: .*as told"):
        ask(lambda _: status(500), asked(1), {"attempts": 2})


def test_a_busy_server_is_waited_for_without_counting_attempts() -> None:
    found, server = ask(
        in_turn(*(status(429, Retry_After="0.01") for _ in range(5)), "fine"), asked(1), {"attempts": 1}
    )

    assert found[0].text == "fine"
    assert len(server.bodies) == 6


def test_a_server_that_stays_away_ends_the_evaluation() -> None:
    with pytest.raises(RunFailed, match=r"models\.a: the server has not answered for .*outage_s is the limit"):
        ask(lambda _: status(503), asked(1), {"outage_s": 0.1})


def test_a_refusal_names_the_problem() -> None:
    with pytest.raises(InputError, match=r"problem 'p0': the server refuses it: status 400: .*too long"):
        ask(lambda _: status(400, "too long"), asked(1))


def test_refusals_can_count_as_empty_answers() -> None:
    found, _ = ask(in_turn(status(400), "x"), asked(2), {"refusals": "empty", "concurrency": 1})

    assert [(answer.text, answer.finish) for answer in found] == [("", "refused"), ("x", "stop")]


def test_a_wrong_key_is_told_at_once_and_never_shown(tmp_path: Path) -> None:
    (tmp_path / "key").write_text("mine")

    async def main() -> None:
        async with FakeServer(lambda _: "x", key="secret") as server:
            await answers(server, asked(1), {"model": "m", "api_key_file": str(tmp_path / "key")})

    with pytest.raises(NotFound, match=r"status 401: .*Correct the url") as error:
        asyncio.run(main())
    assert "mine" not in str(error.value)


def test_the_key_is_read_from_its_file(tmp_path: Path) -> None:
    (tmp_path / "key").write_text("secret\n")

    async def main() -> list[Answer]:
        async with FakeServer(lambda _: "x", key="secret") as server:
            return await answers(server, asked(1), {"api_key_file": str(tmp_path / "key")})

    assert asyncio.run(main())[0].text == "x"


def test_which_of_several_models_must_be_said() -> None:
    async def main(name: str | None) -> list[Answer]:
        async with FakeServer(lambda _: "x", models=("a", "b")) as server:
            return await answers(server, asked(1), {"model": name})

    with pytest.raises(InputError, match=r"serves a, b\. Name one of them"):
        asyncio.run(main(None))
    with pytest.raises(InputError, match=r"serves a, b, not c\. Name another model"):
        asyncio.run(main("c"))
    assert asyncio.run(main("b"))[0].text == "x"


def test_the_first_error_ends_all_requests() -> None:
    async def reply(body: dict[str, Any]) -> str | web.Response:
        if said(body) == "say 0":
            return status(400)
        await asyncio.sleep(30)
        return "late"

    with pytest.raises(InputError):
        asyncio.run(asyncio.wait_for(_against(reply), timeout=10))


async def _against(reply: Reply) -> None:
    async with FakeServer(reply) as server:
        await answers(server, asked(3))


def test_a_role_is_asked_under_its_newest_name(tmp_path: Path) -> None:
    """A service that is started again has another model name: what it was called before is unknown by then."""
    run = RunDirectory(tmp_path)
    endpoint = Endpoint(role="judge", concurrency=1)

    async def main() -> list[Answer]:
        async with FakeJudge(run, says("one"), says("two")) as judge:
            opened = await Server.open("models.a", endpoint, run, 1)
            model = EndpointModel(opened, endpoint, settings())
            found = []
            async with aclosing(model.answers(asked(2))) as coming:
                async for answer in coming:
                    found.append(answer)
                    judge.model = "judge-2"
                    judge.publish()
            await model.close()
            return found

    assert [answer.text for answer in asyncio.run(main())] == ["one", "two"]


def test_a_reader_gets_a_reply_or_nothing() -> None:
    async def main() -> list[str | None]:
        async with FakeServer(in_turn("true", status(400), completion(None))) as server:
            endpoint = Endpoint(url=server.url)
            opened = await Server.open("measure.reader", endpoint, RunDirectory(Path("nowhere")), 1)
            chat = ServerChat(opened, endpoint, max_tokens=16)
            try:
                return [await chat.complete([{"role": "user", "content": "?"}]) for _ in range(3)]
            finally:
                await chat.close()

    assert asyncio.run(main()) == ["true", None, None]
