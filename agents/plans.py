"""Answers a batch of different messages with one call per model: flatten, ask, reassemble."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

from agents.backends.contract import ChoiceRequest, GenerationRequest, LanguageModel
from shared.contracts.messages import Failure, RequestMessage
from shared.contracts.skills import Answers, Body, ItemFailure, Result
from shared.errors import ItemError, PermanentError

Generated = str | ItemError
Chosen = tuple[float, ...] | ItemError
Item = TypeVar("Item")


@dataclass(frozen=True)
class GenerationPlan:
    """What one message asks a model to write, and how the texts become its result."""

    model: LanguageModel
    requests: tuple[GenerationRequest, ...]
    result: Callable[[Sequence[Generated]], Result | Failure]


@dataclass(frozen=True)
class ChoicePlan:
    """What one message asks a model to choose, and how the probabilities become its result."""

    model: LanguageModel
    requests: tuple[ChoiceRequest, ...]
    result: Callable[[Sequence[Chosen]], Result | Failure]


Plan = GenerationPlan | ChoicePlan


def answer_batch(
    messages: Sequence[RequestMessage], plan: Callable[[Body], Plan]
) -> list[Result | Failure]:
    """One result per message, in order.

    A message that can't be planned (an unknown gallery, say) fails alone. What a model raises is
    not caught: the consumer then tries each message alone.
    """
    planned = [_planned(message, plan) for message in messages]
    generations = [entry for entry in planned if isinstance(entry, GenerationPlan)]
    choices = [entry for entry in planned if isinstance(entry, ChoicePlan)]
    written = _ask_models(
        [(entry.model, entry.requests) for entry in generations],
        lambda model, requests: model.generate(requests),
    )
    chosen = _ask_models(
        [(entry.model, entry.requests) for entry in choices],
        lambda model, requests: model.choose(requests),
    )
    return [_result(entry, written, chosen) for entry in planned]


def yes_answers(
    answers: Sequence[Chosen], rows: Sequence[object], questions: int, in_a_row: int = 1
) -> tuple[Answers | ItemFailure, ...]:
    """P(yes) of each row's questions.

    Args:
        answers: row by row, for every entry of `rows` that is no ItemFailure.
        questions: of each row.
        in_a_row: how many of them one answer is to.
    A row with one failed question has failed: its score would not be comparable.
    """
    results: list[Answers | ItemFailure] = []
    first = 0
    for row in rows:
        if isinstance(row, ItemFailure):
            results.append(row)
            continue
        answered = answers[first : first + questions // max(in_a_row, 1)]
        first += len(answered)
        given = [answer for answer in answered if not isinstance(answer, ItemError)]
        p_yes = tuple([probability for answer in given for probability in answer[::2]])
        if len(p_yes) == questions:
            results.append(Answers(p_yes))
        else:
            reasons = [str(answer) for answer in answered if isinstance(answer, ItemError)]
            results.append(ItemFailure(reasons[0] if reasons else "too few answers"))
    return tuple(results)


def usable(items: Sequence[Item | ItemFailure]) -> list[Item]:
    """The items that are no failures."""
    return [item for item in items if not isinstance(item, ItemFailure)]


def _planned(message: RequestMessage, plan: Callable[[Body], Plan]) -> Plan | Failure:
    try:
        return plan(message.body)
    except (PermanentError, ItemError) as error:
        return Failure(str(error))


Request = TypeVar("Request")
Answer = TypeVar("Answer")


def _ask_models(
    asked: Sequence[tuple[LanguageModel, Sequence[Request]]],
    ask: Callable[[LanguageModel, list[Request]], list[Answer]],
) -> Iterator[list[Answer]]:
    """For each entry in order, the answers to its requests; every model is asked once."""
    requests_of: dict[int, tuple[LanguageModel, list[Request]]] = {}
    for model, requests in asked:
        requests_of.setdefault(id(model), (model, []))[1].extend(requests)
    answers_of = {
        key: _one_each(ask(model, requests), requests)
        for key, (model, requests) in requests_of.items()
        if requests
    }
    given = []
    taken = dict.fromkeys(requests_of, 0)
    for model, requests in asked:
        first = taken[id(model)]
        taken[id(model)] = first + len(requests)
        answers = answers_of.get(id(model), [])  # absent: nothing was asked of this model
        given.append(answers[first : taken[id(model)]])
    return iter(given)


def _one_each(answers: list[Answer], requests: Sequence[object]) -> list[Answer]:
    """Raises: ValueError: with another count no answer could be assigned."""
    if len(answers) != len(requests):
        raise ValueError(f"a model gave {len(answers)} answers to {len(requests)} requests")
    return answers


def _result(
    entry: Plan | Failure, written: Iterator[list[Generated]], chosen: Iterator[list[Chosen]]
) -> Result | Failure:
    if isinstance(entry, GenerationPlan):
        return entry.result(next(written))
    if isinstance(entry, ChoicePlan):
        return entry.result(next(chosen))
    return entry
