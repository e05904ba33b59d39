"""Few-shot expert: a language model that is shown examples of its category, then asked."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import KW_ONLY, dataclass, field, replace
from typing import Any, Self

import torch
from torch import Tensor

from i2moe._common.checks import TOLERANCE
from i2moe._common.modalities import Modality, leaves, map_leaves
from i2moe.mmoe.parts.training import n_samples_of, select

__all__ = ["Exchange", "FewShotExpert"]


@dataclass(frozen=True)
class Exchange:
    """One question to the language model.

    Args:
        prompt: what it was asked.
        answer: what it said.
        accepted: whether that names a class.
    """

    prompt: str
    answer: str
    accepted: bool


@dataclass(eq=False, repr=False)
class FewShotExpert:
    r"""Classify by asking a language model, with k examples in the prompt.

    As an expert of `MMoE` it is fitted with the samples of one category, so that the examples are of the same
    interaction as the question:

        instruction, example 1, "Answer: happy", ..., example k, "Answer: sad", the sample, "Answer:"

    An answer is accepted if it names exactly one label (upper and lower case alike), or holds a JSON object of labels
    and probabilities. Any other is refused and asked for again. Answers are remembered: the same prompt is paid for
    once, also if it is sent from several threads at the same time.

    Source: the experts of MMoE's first version (Yu et al., 2023).

    Args:
        generate: maps a prompt to the model's answer; a `ChatEndpoint`, or any function of text. If it has an attribute
            `n_concurrent`, that many samples are asked about at the same time.
        template: describes a sample: a function of its M modalities (tensors without batch axis), or a format string
            with a field per modality, "image: {0}; text: {1}". For raw text let a modality hold row numbers,
            (B, 1), and the function look them up.
        labels: the names of the C classes.
        k: number of examples, as evenly spread over the classes as there are.
        instruction: the first lines of the prompt; asks for one of the labels by default.
        confidence: the probability of a label that is named without one; the others share the rest.
        n_attempts: how often a sample is asked about before giving up.
        seed: draws the examples.

    Attributes:
        transcript: each `Exchange` so far, in order of completion.

    Raises:
        TypeError: if `generate` or the template is of the wrong type.
        ValueError: if labels are not different or a number is out of range.

    Example:
        >>> def model(prompt):  # in place of a language model: repeats the first example's answer
        ...     return prompt.split("Answer: ")[1].split("\n")[0]
        >>> expert = FewShotExpert(model, "numbers {0}", ["low", "high"], k=1)
        >>> expert.fit((torch.tensor([[0.9]]),), torch.tensor([1]))
        >>> print(expert.prompt((torch.tensor([0.1]),)))
        Answer with one of: low, high.
        <BLANKLINE>
        numbers [0.9]
        Answer: high
        <BLANKLINE>
        numbers [0.1]
        Answer:
        >>> expert((torch.tensor([[0.1]]),))
        tensor([[0.1000, 0.9000]])
    """

    generate: Callable[[str], str]
    template: str | Callable[[tuple[Modality, ...]], str]
    labels: Sequence[str]
    k: int = 4
    _: KW_ONLY
    instruction: str | None = None
    confidence: float = 0.9
    n_attempts: int = 3
    seed: int = 0
    examples: tuple[str, ...] = field(default=(), init=False)
    transcript: list[Exchange] = field(default_factory=list, init=False)

    def __post_init__(self) -> None:
        if not callable(self.generate):
            raise TypeError(f"generate must map a prompt to an answer, however it is a {type(self.generate).__name__}")
        if not isinstance(self.template, str) and not callable(self.template):
            raise TypeError(f"template must be a string or a function, however it is a {type(self.template).__name__}")
        self.labels = tuple(self.labels)
        folded = {label.strip().casefold() for label in self.labels}
        if len(folded) < max(2, len(self.labels)) or "" in folded:
            raise ValueError(f"labels must be at least two different, not empty names, however they are {self.labels}")
        if self.k < 0 or self.n_attempts < 1 or not 1 / len(folded) < self.confidence <= 1:
            raise ValueError(
                "k must be at least 0, n_attempts at least 1 and confidence above chance and at most 1, "
                f"however they are {self.k}, {self.n_attempts} and {self.confidence}"
            )
        self._answers: dict[str, list[float]] = {}
        self._under_way: dict[str, Future[list[float]]] = {}

    def fit(self, modalities: tuple[Modality, ...], target: Tensor) -> None:
        """Choose the k examples from the samples of a category.

        Args:
            modalities: M modalities of N samples.
            target: (N,) classes.

        Raises:
            ValueError: if a class has no label.
        """
        if len(target) and not 0 <= int(target.min()) <= int(target.max()) < len(self.labels):
            raise ValueError(
                f"classes must lie in [0, {len(self.labels)}), however they lie in "
                f"[{int(target.min())}, {int(target.max())}]"
            )
        chosen = _spread(target.cpu(), self.k, self.seed)
        samples = [self._describe(_one(modalities, i)) for i in chosen]
        answers = [self.labels[int(target[i])] for i in chosen]
        self.examples = tuple(f"{sample}\nAnswer: {answer}" for sample, answer in zip(samples, answers, strict=True))

    def __call__(self, modalities: tuple[Modality, ...]) -> Tensor:
        """Return class probabilities (B, C), asking about each sample.

        Raises:
            ValueError: if the model does not name a label however often it is asked.
        """
        n_samples = n_samples_of(modalities)
        prompts = [self.prompt(_one(modalities, b)) for b in range(n_samples)]
        with ThreadPoolExecutor(max(1, int(getattr(self.generate, "n_concurrent", 1)))) as pool:
            futures = [pool.submit(self._ask, prompt) for prompt in prompts]
            try:
                found = [future.result() for future in futures]
            except BaseException:
                pool.shutdown(wait=True, cancel_futures=True)  # no more questions are asked, or paid for
                raise
        return torch.tensor(found, device=leaves(modalities)[0].device)

    def prompt(self, sample: tuple[Modality, ...]) -> str:
        """Return what is asked about one sample (modalities without batch axis)."""
        instruction = self.instruction
        if instruction is None:
            instruction = f"Answer with one of: {', '.join(self.labels)}."
        return "\n\n".join([instruction, *self.examples, f"{self._describe(sample)}\nAnswer:"])

    def parse(self, answer: str) -> list[float] | None:
        """Read class probabilities from an answer, or return None where it names no class or several."""
        by_label = _json_object(answer)
        if by_label and any(_same(key, label) for key in by_label for label in self.labels):
            return _probabilities(by_label, self.labels)
        named = []
        for i in sorted(range(len(self.labels)), key=lambda i: -len(self.labels[i])):
            answer, n_found = _pattern(self.labels[i]).subn("", answer)  # "not happy" does not name "happy"
            named += [i] * (n_found > 0)
        if len(named) != 1:
            return None
        rest = (1 - self.confidence) / (len(self.labels) - 1)
        return [self.confidence if i == named[0] else rest for i in range(len(self.labels))]

    def state_dict(self) -> dict[str, Any]:
        """Return the examples and the answers so far, for checkpoints."""
        return {"examples": list(self.examples), "answers": dict(self._answers)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over what `state_dict` returned."""
        self.examples = tuple(state["examples"])
        self._answers = dict(state["answers"])

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        """Copy the examples and share the language model, whose connections cannot be copied."""
        copied = replace(self)
        copied.load_state_dict(self.state_dict())
        return copied

    def _ask(self, prompt: str) -> list[float]:
        """Return the answer to a prompt; who asks while it is under way waits for it."""
        own: Future[list[float]] = Future()
        first = self._under_way.setdefault(prompt, own)  # atomic: of several threads one comes first
        if first is own:
            try:
                if prompt not in self._answers:
                    self._answers[prompt] = self._generate(prompt)
                own.set_result(self._answers[prompt])
            except BaseException as error:
                own.set_exception(error)
            finally:
                del self._under_way[prompt]
        return first.result()

    def _generate(self, prompt: str) -> list[float]:
        answer = ""
        for attempt in range(self.n_attempts):
            asked = prompt if attempt == 0 else f"Answer with nothing but one of: {', '.join(self.labels)}.\n\n{prompt}"
            answer = self.generate(asked)
            if not isinstance(answer, str):
                raise TypeError(f"generate must return text, however it returned a {type(answer).__name__}")
            found = self.parse(answer)
            self.transcript.append(Exchange(asked, answer, found is not None))
            if found is not None:
                return found
        raise ValueError(
            f"the language model must name one of {self.labels}, however after {self.n_attempts} attempts it said "
            f"{answer[:200]!r}; see the transcript, or make the instruction clearer"
        )

    def _describe(self, sample: tuple[Modality, ...]) -> str:
        if isinstance(self.template, str):
            return self.template.format(*(_text(modality) for modality in sample))
        return self.template(sample)


def _one(modalities: tuple[Modality, ...], b: int) -> tuple[Modality, ...]:
    """Take sample b without batch axis."""
    return tuple(map_leaves(lambda x: x[0], modality) for modality in select(modalities, torch.tensor([b])))


def _text(modality: Modality) -> str:
    values = [leaf.detach().cpu().flatten().tolist() for leaf in leaves(modality)]
    rounded = [[round(value, 3) if isinstance(value, float) else value for value in leaf] for leaf in values]
    return " ".join(str(leaf) for leaf in rounded)


def _spread(target: Tensor, k: int, seed: int) -> list[int]:
    """Draw up to k samples, one of each class in turn."""
    order = torch.randperm(len(target), generator=torch.Generator().manual_seed(seed)).tolist()
    of_class: dict[int, int] = {}
    turn = {}
    for i in order:
        label = int(target[i])
        turn[i] = of_class[label] = of_class.get(label, -1) + 1
    return sorted(order, key=lambda i: turn[i])[:k]  # sorting keeps the drawn order within a turn


def _pattern(label: str) -> re.Pattern[str]:
    return re.compile(rf"(?<!\w){re.escape(label.strip())}(?!\w)", re.IGNORECASE)


def _same(a: str, b: str) -> bool:
    return a.strip().casefold() == b.strip().casefold()


def _json_object(answer: str) -> dict[str, Any] | None:
    """Find a JSON object in an answer, bare or with text around it."""
    found = re.search(r"\{.*\}", answer, re.DOTALL)
    try:
        value = json.loads(found.group()) if found else None
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _probabilities(by_label: dict[str, Any], labels: Sequence[str]) -> list[float] | None:
    """Read {"label": probability, ...}; None unless all are labels and probabilities that sum to 1."""
    numbers = {key.strip().casefold(): value for key, value in by_label.items()}
    if not all(isinstance(value, int | float) and 0 <= value <= 1 for value in numbers.values()):
        return None
    values = [float(numbers.pop(label.strip().casefold(), 0.0)) for label in labels]
    if numbers or abs(sum(values) - 1) > TOLERANCE:
        return None
    return [value / sum(values) for value in values]
