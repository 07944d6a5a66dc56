"""FiVE-Acc against a real HTTP server: what is asked, what counts as an answer, and the four accuracies."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from chat_server import Answer, Endpoint, said

from cogvideo_core.endpoints import chat
from cogvideo_core.errors import EndpointUnreachable
from cogvideo_core.judging.metrics import questions
from cogvideo_core.judging.metrics.measure import measured
from cogvideo_core.judging.metrics.samples import Question, Sample
from cogvideo_core.settings.metric_specs import MetricSpec

EDIT = np.full((9, 16, 16, 3), 90, np.uint8)
SWAN = Question("yes_no", "Is there a swan in the video?", (), "no")
FLAMINGO = Question("yes_no", "Is there a flamingo in the video?", (), "yes")
CHOICE = Question("multiple_choice", "What is in the video?", ("A swan", "A flamingo"), "b")
WRITTEN = Question("multiple_choice", "What is it? \na) A swan \nb) A flamingo", (), "B")


@pytest.fixture
def endpoint(monkeypatch: pytest.MonkeyPatch) -> Iterator[Endpoint]:
    monkeypatch.setattr(chat, "WAIT_S", 0.01)
    with Endpoint(lambda request: said("")) as found:
        yield found


def answering(swan: str, flamingo: str, choice: str) -> Any:
    def answer(request: dict[str, Any]) -> Answer:
        text = request["messages"][0]["content"][-1]["text"]
        return said(choice if "What is" in text else swan if "swan" in text else flamingo)

    return answer


def accuracies(endpoint: Endpoint, asked: tuple[Question, ...], names: tuple[str, ...] = ()) -> dict[str, float]:
    spec = MetricSpec(vlm=endpoint.url, vlm_model="m")
    names = names or tuple(f"five_acc{part}" for part in ("_yes_no", "_multi_choice", "_union", "_inter", ""))
    return measured(names, spec, [Sample(EDIT, EDIT, questions=asked)])[0]


@pytest.mark.parametrize(
    ("answers", "wanted"),
    [
        (("no", "yes", "b"), (1, 1, 1, 1, 1)),
        (("No.", "**Yes**, it is.", "(B) A flamingo"), (1, 1, 1, 1, 1)),
        (("yes", "yes", "b"), (0, 1, 1, 0, 0.5)),
        (("no", "no", "b"), (0, 1, 1, 0, 0.5)),
        (("no", "yes", "a"), (1, 0, 1, 0, 0.5)),
        (("no", "yes", "A flamingo"), (1, 1, 1, 1, 1)),
        (("no", "yes", "A small bird"), (1, 0, 1, 0, 0.5)),
        (("yes", "no", "a"), (0, 0, 0, 0, 0)),
        (("I can't tell", "", "Perhaps b"), (0, 0, 0, 0, 0)),
    ],
)
def test_accuracies_by_hand(endpoint: Endpoint, answers: tuple[str, str, str], wanted: tuple[float, ...]) -> None:
    """Both yes-or-no answers must be right for YN-Acc; union, intersection and the mean of the four follow."""
    endpoint.answer = answering(*answers)
    assert tuple(accuracies(endpoint, (SWAN, FLAMINGO, CHOICE)).values()) == wanted


def test_what_is_asked(endpoint: Endpoint) -> None:
    """One request a question, with the stills and the options by letter; options that the text holds stay there."""
    endpoint.answer = answering("no", "yes", "b")
    accuracies(endpoint, (SWAN, FLAMINGO, CHOICE, WRITTEN))
    texts = [asked["messages"][0]["content"][-1]["text"] for asked in endpoint.asked]
    assert len(texts) == 4 and SWAN.text in texts[0] and texts[0].startswith(questions.ASK)
    assert texts[2].endswith("What is in the video?\na) A swan\nb) A flamingo")
    assert texts[3].endswith(WRITTEN.text) and endpoint.asked[0]["model"] == "m"
    assert len(endpoint.asked[0]["messages"][0]["content"]) == 1 + len(questions.shown(EDIT, 4))


def test_one_kind_of_question_has_its_accuracy_alone(endpoint: Endpoint) -> None:
    """Without the other kind there is no union, intersection or mean; without questions nobody is asked."""
    endpoint.answer = answering("no", "yes", "b")
    assert accuracies(endpoint, (FLAMINGO,)) == {"five_acc_yes_no": 1}
    assert accuracies(endpoint, (CHOICE,)) == {"five_acc_multi_choice": 1}
    asked = len(endpoint.asked)
    assert accuracies(endpoint, ()) == {} and len(endpoint.asked) == asked
    assert accuracies(endpoint, (SWAN, CHOICE), ("mse",)) == {"mse": 0} and len(endpoint.asked) == asked


@pytest.mark.parametrize(("count", "taken"), [(40, list(range(2, 40, 4))), (9, [2, 6]), (6, [3]), (3, [1]), (1, [0])])
def test_stills_are_those_of_the_benchmark(count: int, taken: list[int]) -> None:
    """About every fourth frame from the third on, as its code takes them."""
    frames = np.arange(count, dtype=np.uint8)[:, None, None, None]
    assert questions.shown(frames, 64).ravel().tolist() == taken
    assert len(questions.shown(frames, 4)) == min(4, len(taken))


def test_an_endpoint_that_fails_is_named(endpoint: Endpoint) -> None:
    """In one sentence, with the setting."""
    endpoint.answer = lambda request: (401, b"", {})
    with pytest.raises(EndpointUnreachable, match=r"field metrics\.vlm: .*status 401"):
        accuracies(endpoint, (SWAN,))
