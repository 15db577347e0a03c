"""What is known of a problem, and what to ask next: a pure function of the problem, the log and the settings.

    solution  ->  its answer is right?  ->  facts  ->  those that can be used  ->  those that are confirmed  ->  a row
    (teacher)     (eval.answers)            (extractor)   (jobs.construct.facts)     (verifier)

The first candidate, by number, that comes to the end makes the row. So it does not matter in which order
answers arrive, how often the job was interrupted, or whether a batch file brought them.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal, Protocol

from eval import facts as verdicts
from jobs import data
from jobs.construct import facts, prompts
from jobs.construct.facts import Dropped
from jobs.construct.log import Answer
from jobs.construct.request import Request, Stage
from jobs.construct.settings import Endpoint, Settings
from jobs.data import Example

WARMER = 0.5
Step = Literal["distil", "answer", "extract", "facts", "verify"]
STEPS: tuple[Step, ...] = ("distil", "answer", "extract", "facts", "verify")


class Known(Protocol):
    """What the pipeline looks up; see ``jobs.construct.log.Log``."""

    def answer(self, key: str) -> Answer | None: ...

    def verdict(self, key: str, truth: str) -> tuple[bool | None] | None: ...


@dataclass(frozen=True, kw_only=True)
class Asking:
    """These requests have to be answered before one can tell more."""

    requests: tuple[Request, ...]


@dataclass(frozen=True, kw_only=True)
class Checking:
    """A solution's answer has to be compared with the true one.

    Attributes:
        key: Of the request that the solution answers.
        trajectory: The solution.
    """

    key: str
    trajectory: str


@dataclass(frozen=True, kw_only=True)
class Rejection:
    """Why one candidate makes no row.

    Attributes:
        candidate: Its number.
        step: How far it came.
        reason: Why it came no further, in words that are the same for all of a kind.
        detail: What a person would like to see besides.
    """

    candidate: int
    step: Step
    reason: str
    detail: str = ""


@dataclass(frozen=True, kw_only=True)
class Kept:
    """A problem with its annotation.

    Attributes:
        example: The problem.
        candidate: Which solution it was made from.
        trajectory: The solution.
        facts: The facts, in order.
        dropped: Facts of this solution that were left out.
        requests: Keys of the requests behind it, by stage.
        rejections: Candidates before this one.
    """

    example: Example
    candidate: int
    trajectory: str
    facts: tuple[str, ...]
    dropped: tuple[Dropped, ...]
    requests: dict[Stage, tuple[str, ...]]
    rejections: tuple[Rejection, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Lost:
    """A problem without annotation: no candidate came to the end."""

    example: Example
    rejections: tuple[Rejection, ...]

    @property
    def furthest(self) -> Rejection:
        """The candidate that came furthest, of several the last."""
        return max(self.rejections, key=lambda rejection: (STEPS.index(rejection.step), rejection.candidate))


State = Asking | Checking | Kept | Lost


@dataclass(frozen=True, kw_only=True)
class Pipeline:
    """The settings of one construction.

    Attributes:
        settings: The job's.
        models: What answers at each stage: a name that stays the same across restarts of a server.
    """

    settings: Settings
    models: dict[Stage, str]

    def state(self, example: Example, known: Known) -> State:
        """Return what is to be done for a problem, or what became of it."""
        requests = [self.distil(example, candidate) for candidate in range(self.settings.distil.candidates)]
        rejections: list[Rejection] = []
        for candidate, request in enumerate(requests):
            answer = known.answer(request.key)
            if answer is None:
                together = requests if self.settings.distil.ask == "all" else [request]
                return Asking(requests=tuple(one for one in together if known.answer(one.key) is None))
            state = _Candidate(self, example, candidate, request, known).state(answer)
            if not isinstance(state, Rejection):
                return _with(state, tuple(rejections))
            rejections.append(state)
        return Lost(example=example, rejections=tuple(rejections))

    def distil(self, example: Example, candidate: int) -> Request:
        """Return the question for one solution."""
        wanted = self.settings.distil
        seed = {} if wanted.seed is None else {"seed": wanted.seed + candidate}
        return Request(
            stage="distil",
            row=example.id,
            candidate=candidate,
            model=self.models["distil"],
            messages=prompts.distil(data.prompt(example, wanted.instruction), wanted.system),
            images=example.images,
            options=_options(
                {"temperature": wanted.temperature, "top_p": wanted.top_p} | seed,
                self.settings.teacher,
                wanted.max_tokens,
            ),
        )

    def extract(self, example: Example, candidate: int, trajectory: str, sample: int) -> Request:
        """Return the question for one list of facts."""
        wanted = self.settings.extract
        seed = {} if wanted.seed is None else {"seed": wanted.seed + sample}
        return Request(
            stage="extract",
            row=example.id,
            candidate=candidate,
            sample=sample,
            model=self.models["extract"],
            messages=prompts.extract(example.problem, trajectory, wanted.template),
            options=_options(
                {"temperature": WARMER if sample else 0.0} | seed, self.settings.extractor, wanted.max_tokens
            ),
        )

    def verify(self, example: Example, candidate: int, trajectory: str, kept: tuple[str, ...]) -> tuple[Request, ...]:
        """Return the questions, one for every vote, whether facts are true; none if nobody is to be asked."""
        wanted = self.settings.verify
        if wanted is None:
            return ()
        images = example.images if wanted.against == "image" else ()
        messages = prompts.verify(
            kept, trajectory, against=wanted.against, template=wanted.template, images=len(images)
        )
        return tuple(
            Request(
                stage="verify",
                row=example.id,
                candidate=candidate,
                sample=vote,
                model=self.models["verify"],
                messages=messages,
                images=images,
                options=_options({"temperature": 1.0 if vote else 0.0}, wanted.endpoint, wanted.max_tokens),
            )
            for vote in range(wanted.votes)
        )

    def prompt_hashes(self) -> dict[str, str]:
        """Return the hash of every stage's fixed texts."""
        wanted = self.settings
        hashes = {
            "distil": prompts.fingerprint(wanted.distil.system, wanted.distil.instruction),
            "extract": prompts.fingerprint(prompts.SYSTEM[wanted.extract.template]),
        }
        if wanted.verify is not None:
            hashes["verify"] = prompts.fingerprint(prompts.verify_system(wanted.verify.against, wanted.verify.template))
        return hashes


@dataclass(frozen=True)
class _Candidate:
    """One solution on its way."""

    pipeline: Pipeline
    example: Example
    number: int
    request: Request
    known: Known

    def state(self, answer: Answer) -> Asking | Checking | Kept | Rejection:
        if answer.refused:
            return self._rejected("distil", "refused", answer.refused)
        if answer.finish == "length":
            return self._rejected("distil", "cut off")
        if not answer.text.strip():
            return self._rejected("distil", "empty", answer.finish)
        verdict = self.known.verdict(self.request.key, self.example.answer)
        if verdict is None:
            return Checking(key=self.request.key, trajectory=answer.text)
        if verdict[0] is None:
            return self._rejected("answer", "could not be compared")
        return self._extracted(answer.text) if verdict[0] else self._rejected("answer", "wrong")

    def _extracted(self, trajectory: str) -> Asking | Kept | Rejection:
        """Return what the first list of facts with enough that can be used leads to."""
        rejection = None
        keys: list[str] = []
        for sample in range(self.pipeline.settings.extract.tries):
            request = self.pipeline.extract(self.example, self.number, trajectory, sample)
            answer = self.known.answer(request.key)
            if answer is None:
                return Asking(requests=(request,))
            keys.append(request.key)
            found = self._sifted(answer)
            if isinstance(found, facts.Sifted):
                return self._verified(trajectory, found, tuple(keys))
            rejection = found
        assert rejection is not None
        return rejection

    def _sifted(self, answer: Answer) -> facts.Sifted | Rejection:
        if answer.refused:
            return self._rejected("extract", "refused", answer.refused)
        if answer.finish == "length":
            return self._rejected("extract", "cut off")
        limits = self.pipeline.settings.facts
        found = facts.sift(answer.text, self.example.answer, limits)
        if not found.kept and not found.dropped:
            return self._rejected("extract", "no tags", answer.text[:200])
        if len(found.kept) < limits.least:
            return self._rejected("facts", "too few", _listed(found.dropped))
        return found

    def _verified(self, trajectory: str, found: facts.Sifted, extracted: tuple[str, ...]) -> Asking | Kept | Rejection:
        requests = self.pipeline.verify(self.example, self.number, trajectory, found.kept)
        answers = [self.known.answer(request.key) for request in requests]
        missing = tuple(request for request, answer in zip(requests, answers, strict=True) if answer is None)
        if missing:
            return Asking(requests=missing)
        confirmed = self._confirmed(found.kept, [answer for answer in answers if answer is not None])
        doubted = tuple(Dropped(fact=fact, reason="not confirmed") for fact in found.kept if fact not in confirmed)
        if len(confirmed) < self.pipeline.settings.facts.least:
            return self._rejected("verify", "too few confirmed", _listed(doubted))
        return Kept(
            example=self.example,
            candidate=self.number,
            trajectory=trajectory,
            facts=confirmed,
            dropped=(*found.dropped, *doubted),
            requests={
                "distil": (self.request.key,),
                "extract": extracted,
                "verify": tuple(request.key for request in requests),
            },
        )

    def _confirmed(self, kept: tuple[str, ...], answers: list[Answer]) -> tuple[str, ...]:
        """Return the facts on which enough votes agree. A vote that cannot be read confirms nothing."""
        wanted = self.pipeline.settings.verify
        if wanted is None:
            return kept
        asked = range(1, len(kept) + 1)
        readings = [verdicts.read(answer.text, asked) for answer in answers]
        scores = [reading.scores for reading in readings if reading is not None]
        needed = wanted.agreement * wanted.votes
        return tuple(fact for k, fact in enumerate(kept) if sum(score[k] for score in scores) >= needed)

    def _rejected(self, step: Step, reason: str, detail: str = "") -> Rejection:
        return Rejection(candidate=self.number, step=step, reason=reason, detail=detail)


def _with(state: Asking | Checking | Kept, rejections: tuple[Rejection, ...]) -> State:
    if not isinstance(state, Kept):
        return state
    return replace(state, rejections=rejections)


def _options(ours: dict[str, Any], endpoint: Endpoint, max_tokens: int) -> dict[str, Any]:
    options = {**ours, **endpoint.body, endpoint.token_field: max_tokens}
    return {name: value for name, value in options.items() if value is not None}


def _listed(dropped: tuple[Dropped, ...]) -> str:
    return "; ".join(f"{one.reason}: {one.fact}" for one in dropped)[:400]
