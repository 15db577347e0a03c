"""Evaluation through an endpoint beside the server's own benchmark, on one server, in turns.

    python -m bench.eval_endpoint --problems 128 --tokens 64 --concurrency 16 --rounds 5

A tiny model with images is served by vLLM. In every round the same questions, images included, are answered with the
same number of tokens at the same concurrency: by ``vllm bench serve``, by our endpoint engine alone, and by a whole
evaluation, which also measures every answer with the rewards of the recipe and writes it to the disk. Nobody's start
counts. Exit code 1 if the evaluation's throughput is more than 5 % below that of the server's own benchmark.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import aclosing, contextmanager
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from urllib.error import URLError
from urllib.request import urlopen

import psutil
import yaml

from bench.figures import Figure, table
from eval.engines.endpoint import EndpointModel, content
from eval.engines.server import Server
from eval.evaluation import Evaluation
from eval.generation import questions
from eval.job import Job, jobs_of
from eval.meter import Meter
from eval.settings import Endpoint, Settings
from jobs import data, entry
from jobs.entry import Context, Drain

CHECKOUT = Path(__file__).resolve().parent.parent
SHARE = 0.95
"""Of the server's own benchmark that an evaluation must reach."""
WALL = "output tokens per second"
CPU = "output tokens per second of the server's processor"
START_S = 300.0
ROUND_S = 600.0
BENCH = (
    "from jobs import torchvision_cpu; torchvision_cpu.repair(); import argparse; "
    "from vllm.benchmarks import serve; from vllm.utils.argparse_utils import FlexibleArgumentParser; "
    "parser = FlexibleArgumentParser(); serve.add_cli_args(parser); serve.main(parser.parse_args())"
)


@dataclass(frozen=True, kw_only=True)
class Work:
    """What everybody answers.

    Attributes:
        problems: How many.
        tokens: Of every answer; the end token does not end it.
        concurrency: Requests at a time.
        rounds: Turns of everybody.
    """

    problems: int = 128
    tokens: int = 64
    concurrency: int = 16
    rounds: int = 5


@dataclass(frozen=True, kw_only=True)
class Turn:
    """Somebody's turn.

    Attributes:
        per_s: Tokens per second.
        per_cpu_s: Tokens per second of the server's processor.
    """

    per_s: float
    per_cpu_s: float


@dataclass(frozen=True, kw_only=True)
class Result:
    """One turn a round.

    Attributes:
        work: What was answered.
        theirs: ``vllm bench serve``.
        engine: Our endpoint engine alone.
        evaluation: A whole evaluation.
    """

    work: Work
    theirs: tuple[Turn, ...]
    engine: tuple[Turn, ...]
    evaluation: tuple[Turn, ...]

    def figures(self) -> list[Figure]:
        """Return the rows of a table."""
        whose = {"vllm bench serve": self.theirs, "our engine alone": self.engine, "our evaluation": self.evaluation}
        return [
            *(Figure(what=WALL, who=who, values=[turn.per_s for turn in turns]) for who, turns in whose.items()),
            *(Figure(what=CPU, who=who, values=[turn.per_cpu_s for turn in turns]) for who, turns in whose.items()),
            Figure(
                what="our evaluation / vllm bench serve, round by round",
                who="tokens per second",
                values=[ours.per_s / theirs.per_s for ours, theirs in self._pairs],
                goal=SHARE,
                bound="at least",
            ),
            Figure(
                what="our evaluation / vllm bench serve, round by round",
                who="per second of the server's processor",
                values=[ours.per_cpu_s / theirs.per_cpu_s for ours, theirs in self._pairs],
                note="what else runs on the machine changes this less; it tells how full the server's batches were",
            ),
        ]

    @property
    def _pairs(self) -> list[tuple[Turn, Turn]]:
        return list(zip(self.evaluation, self.theirs, strict=True))


def measure(folder: Path, work: Work, model: Path, problems: Path) -> Result:
    """Serve the model and let everybody answer in turn, in another order every round.

    Args:
        folder: For logs and results.
        work: What to answer.
        model: A Hugging Face folder.
        problems: A parquet file of the source ``geo3k``.
    """
    examples = _repeated(data.load("geo3k", problems), work.problems)
    turns: dict[str, list[Turn]] = {"theirs": [], "engine": [], "evaluation": []}
    with _served(folder, model, work) as (url, server):
        requests = folder / "requests.jsonl"
        settings = _settings(url, problems, work)
        lines = [json.dumps({"content": content(question)}) for question in questions(settings, examples)]
        requests.write_text("\n".join(lines) + "\n", encoding="utf-8")
        asyncio.run(_engine_alone(settings, examples))  # the server has then seen every image
        for turn in range(work.rounds):
            parts: dict[str, Callable[[], float]] = {
                "theirs": partial(_bench_serve, folder, url, model, requests, work),
                "engine": lambda: asyncio.run(_engine_alone(settings, examples)),
                "evaluation": partial(_evaluation, folder / f"out{turn}", settings, examples),
            }
            for who in [*parts][turn % 3 :] + [*parts][: turn % 3]:
                turns[who].append(_turn(server, work, parts[who]))
                print(f"round {turn + 1} of {work.rounds}: {who} {turns[who][-1]}", file=sys.stderr, flush=True)
    return Result(work=work, **{who: tuple(of) for who, of in turns.items()})


def _turn(server: psutil.Process, work: Work, part: Callable[[], float]) -> Turn:
    before_s = _cpu_s(server)
    per_s = part()
    return Turn(per_s=per_s, per_cpu_s=work.problems * work.tokens / (_cpu_s(server) - before_s))


def _cpu_s(server: psutil.Process) -> float:
    """Return the processor's seconds that a server and its engine have used."""
    times = [process.cpu_times() for process in (server, *server.children(recursive=True))]
    return sum(time.user + time.system for time in times)


def _settings(url: str, problems: Path, work: Work) -> Settings:
    endpoint = {"url": url, "concurrency": work.concurrency, "body": {"ignore_eos": True}}
    return Settings.model_validate(
        {
            "models": {"served": endpoint},
            "tasks": {"scenes": {"path": str(problems)}},
            "max_new_tokens": work.tokens,
        }
    )


def _repeated(examples: Sequence[data.Example], count: int) -> list[data.Example]:
    """Return so many problems, the same ones again under other names if there are too few."""
    return [replace(examples[k % len(examples)], id=f"p{k}") for k in range(count)]


async def _engine_alone(settings: Settings, examples: Sequence[data.Example]) -> float:
    endpoint = settings.models["served"]
    assert isinstance(endpoint, Endpoint)
    with TemporaryDirectory() as nowhere:
        context = _context(Path(nowhere), settings)
        model = EndpointModel(await Server.open("models.served", endpoint, context.run, 1), endpoint, settings)
        try:
            began, tokens = time.monotonic(), 0
            async with aclosing(model.answers(questions(settings, examples))) as answers:
                async for answer in answers:
                    tokens += answer.tokens
            return tokens / (time.monotonic() - began)
        finally:
            await model.close()


def _evaluation(out: Path, settings: Settings, examples: Sequence[data.Example]) -> float:
    context = _context(out, settings)
    (job,) = jobs_of(context, settings, "served", {"scenes": list(examples)})
    return asyncio.run(_evaluated(context, settings, job))


async def _evaluated(context: Context, settings: Settings, job: Job) -> float:
    endpoint = settings.models["served"]
    assert isinstance(endpoint, Endpoint)
    model = EndpointModel(await Server.open("models.served", endpoint, context.run, 1), endpoint, settings)
    try:
        async with Meter(context, settings, job) as meter:
            await meter.measure(job.examples[0], "<answer>1</answer>")  # starts the answer checker
            began = time.monotonic()
            await Evaluation(context, Drain(), meter, model, job).run()
            took_s = time.monotonic() - began
    finally:
        await model.close()
    return float(sum(row["tokens"] for row in job.samples.done.values())) / took_s


def _context(out: Path, settings: Settings) -> Context:
    out.mkdir(parents=True, exist_ok=True)
    file = out / "settings.yaml"
    file.write_text(yaml.safe_dump(settings.model_dump(mode="json", exclude_defaults=True)), encoding="utf-8")
    return entry.start("eval", Settings, ["--settings", str(file), "--out", str(out)])[0]


def _bench_serve(folder: Path, url: str, model: Path, requests: Path, work: Work) -> float:
    """Run the server's own benchmark and return its output throughput."""
    options: dict[str, Any] = {
        "backend": "openai-chat",
        "base-url": url.removesuffix("/v1"),
        "endpoint": "/v1/chat/completions",
        "model": model,
        "served-model-name": "tiny",
        "dataset-name": "custom_image",
        "dataset-path": requests,
        "custom-output-len": work.tokens,
        "num-prompts": work.problems,
        "max-concurrency": work.concurrency,
        "temperature": 0,
        "result-dir": folder,
        "result-filename": "bench.json",
    }
    flags = ["--ignore-eos", "--save-result", "--disable-tqdm", "--disable-shuffle"]
    argv = [sys.executable, "-c", BENCH, *(f"--{name}={value}" for name, value in options.items()), *flags]
    with (folder / "bench.log").open("ab") as log:
        subprocess.run(argv, cwd=CHECKOUT, env=_environment(), stdout=log, stderr=log, timeout=ROUND_S, check=True)
    found = json.loads((folder / "bench.json").read_text(encoding="utf-8"))
    if found["completed"] != work.problems:
        raise RuntimeError(f"vllm bench serve completed {found['completed']} of {work.problems}: {folder}/bench.log.")
    return float(found["output_throughput"])


@contextmanager
def _served(folder: Path, model: Path, work: Work) -> Iterator[tuple[str, psutil.Process]]:
    """Serve a model and yield its URL and process."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    options = {
        "model": model,
        "served-model-name": "tiny",
        "host": "127.0.0.1",
        "port": port,
        "dtype": "float32",
        "max-model-len": 1024,
        "max-num-seqs": work.concurrency,
        "distributed-executor-backend": "uni",
    }
    flags = ["--enforce-eager", "--no-enable-prefix-caching", "--disable-uvicorn-access-log"]
    argv = [sys.executable, "-m", "jobs.judge.vllm_server", *(f"--{k}={v}" for k, v in options.items()), *flags]
    with (folder / "server.log").open("wb") as log:
        server = subprocess.Popen(argv, cwd=CHECKOUT, env=_environment(), stdout=log, stderr=log)
        try:
            _wait(server, f"http://127.0.0.1:{port}/health", folder / "server.log")
            yield f"http://127.0.0.1:{port}/v1", psutil.Process(server.pid)
        finally:
            server.terminate()
            try:
                server.wait(30)
            except subprocess.TimeoutExpired:
                server.kill()


def _wait(server: subprocess.Popen[bytes], url: str, log: Path) -> None:
    until = time.monotonic() + START_S
    while True:
        try:
            with urlopen(url, timeout=5):
                return
        except (URLError, OSError):
            if server.poll() is not None or time.monotonic() > until:
                raise RuntimeError(f"vLLM did not start; {log} says why.") from None
            time.sleep(0.5)


def _environment() -> dict[str, str]:
    tuning = {
        "OMP_NUM_THREADS": "1",
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_NO_USAGE_STATS": "1",
        "HF_HUB_OFFLINE": "1",
    }
    return dict(os.environ) | tuning


def _tiny(folder: Path) -> tuple[Path, Path]:
    """Return the tiny policy and its test problems, built unless they are in the cache."""
    settings = folder / "tiny.yaml"
    settings.write_text("seed: 1\n", encoding="utf-8")
    argv = [sys.executable, "-m", "jobs.tiny", "--settings", str(settings), "--out", str(folder / "tiny")]
    subprocess.run(argv, cwd=CHECKOUT, check=True, timeout=3600)
    outputs = json.loads((folder / "tiny/outputs/tiny.json").read_text(encoding="utf-8"))
    return Path(outputs["policy"]), Path(outputs["test_data"])


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print the table and return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m bench.eval_endpoint", description=__doc__.partition("\n")[0])
    for name, default in asdict(Work()).items():
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--tiny", type=Path, help="a folder that jobs.tiny built (default: the cache's)")
    parser.add_argument("--keep", type=Path, help="where to leave logs (default: nowhere)")
    given = parser.parse_args(arguments)
    work = Work(**{name: getattr(given, name) for name in asdict(Work())})
    with TemporaryDirectory() as temporary:
        folder = given.keep or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        model, problems = (given.tiny / "policy", given.tiny / "test.parquet") if given.tiny else _tiny(folder)
        result = measure(folder, work, model, problems)
    figures = result.figures()
    print("\n".join(table(figures)))
    print(json.dumps(asdict(result)))
    return int(any(figure.missed for figure in figures))


if __name__ == "__main__":
    sys.exit(main())
