"""The page of a report: whole, safe, and without a link to anywhere."""

from __future__ import annotations

import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import torch

from i2moe._common.tasks import Task
from i2moe.interpretation import InteractionReport, explain
from i2moe.interpretation.report.html.examples import chosen_samples
from tests.test_report_alone import batches, made_up, make

VOID = {"meta", "link", "rect", "line", "br"}
HOSTILE = "<script>alert('x')</script>&\"'"


class Page(HTMLParser):
    """Checks that tags are closed in order, and collects tags, anchors, attributes and text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.ids: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.text = ""
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]
        self.ids += [value or "" for name, value in attrs if name == "id"]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.text += data


def page_of(report: InteractionReport, folder: Path, **options: Any) -> Page:
    report.to_html(folder / "report.html", **options)
    return Page((folder / "report.html").read_text(encoding="utf-8"))


def sections(page: Page) -> list[str]:
    return [name for name in page.ids if not name.startswith("sample-")]


@pytest.mark.parametrize("task", ["classification", "multilabel", "regression"])
@pytest.mark.parametrize("n_draws", [0, 1])
def test_the_page_has_all_sections(tmp_path: Path, task: Task, n_draws: int) -> None:
    report = explain(make(3, task=task), batches(3, task=task), task=task, n_draws=n_draws)
    page = page_of(report, tmp_path)
    assert sections(page) == ["good", "drives", "without", "sure", "samples", "words"]
    links = {value[1:] for name, value in page.attributes if name == "href" and value.startswith("#")}
    assert links == set(sections(page))
    assert page.tags.count("h1") == 1
    assert page.tags.count("article") >= 3
    assert "Agreement: " not in page.text
    assert "of variance" in page.text
    assert "nan" not in re.sub(r"[a-z]nan|nan[a-z]", "", page.text.lower())


def test_without_marginals_and_passes(tmp_path: Path) -> None:
    page = page_of(InteractionReport.example(), tmp_path)
    assert sections(page) == ["good", "drives", "sure", "samples", "words"]
    assert "#without" not in [value for name, value in page.attributes if name == "href"]
    assert "no predictions from single modalities" in page.text
    assert "members differ" not in page.text.lower()


def test_a_report_of_a_single_sample_has_a_page(tmp_path: Path) -> None:
    whole = made_up()
    one = {
        name: getattr(whole, name)[:1]
        for name in ("weights", "expert_predictions", "prediction", "target", "checksums", "marginals")
    }
    page_of(replace(whole, predictions_without=whole.predictions_without[:1], **one), tmp_path)  # type: ignore[index]


def test_numbers_are_the_reports(tmp_path: Path) -> None:
    report = made_up()
    page = page_of(report, tmp_path)
    assert "For each sample, the model is asked which of 2 classes it is (cat, dog)." in page.text
    assert "Always saying the most frequent class would reach 50.0%" in page.text
    assert f"{report.overall.mean[0]:.1%}" in page.text
    assert "25.0 pp" in page.text
    for index in map(int, re.findall(r"sample-(\d+)", " ".join(page.ids))):
        assert report.sample(index) in page.text


def test_warnings_are_shown(tmp_path: Path) -> None:
    report = made_up()
    lost = replace(report, marginals=torch.zeros(400, 2, 2))
    assert lost.warnings()
    page = page_of(lost, tmp_path)
    for warning in lost.warnings():
        assert warning in page.text


def test_names_are_escaped(tmp_path: Path) -> None:
    names = (f"image{HOSTILE}", "text")
    report = replace(
        made_up(),
        modality_names=names,
        expert_names=(f"uniqueness/{names[0]}", "uniqueness/text", "synergy", "redundancy"),
        output_names=(f"cat{HOSTILE}", "dog"),
    )
    page = page_of(report, tmp_path, title=f"Title{HOSTILE}")
    assert "script" not in page.tags
    for name in ("Title", "cat", "image"):
        assert f"{name}{HOSTILE}" in page.text
    assert "script" not in Page(report._repr_html_()).tags


def test_the_page_loads_nothing_from_elsewhere(tmp_path: Path) -> None:
    page = page_of(made_up(), tmp_path)
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert not {"script", "img", "iframe", "object", "embed"} & set(page.tags)
    assert not re.search(r"https?:|//|url\(|@import", text.replace("<!DOCTYPE html>", ""))
    loaded = [value for name, value in page.attributes if name in ("src", "href") and not value.startswith("#")]
    assert loaded == ["data:,"]
    assert "default-src 'none'" in text


def test_many_classes_and_modalities_stay_readable(tmp_path: Path) -> None:
    n, n_classes = 200, 100
    logits = torch.randn(n, n_classes)
    report = replace(
        made_up(n),
        prior=torch.full((n_classes,), 1 / n_classes),
        output_names=tuple(f"class {c}" for c in range(n_classes)),
        prediction=logits,
        expert_predictions=logits.unsqueeze(1).expand(n, 4, n_classes),
        target=torch.arange(n) % n_classes,
        marginals=None,
        predictions_without=None,
    )
    page = page_of(report, tmp_path)
    assert "70 smaller ones are left out." in page.text
    assert "class 7, ...)" in page.text


def test_a_gain_is_drawn_to_the_left_of_zero(tmp_path: Path) -> None:
    report = made_up()
    assert report.predictions_without is not None
    better = replace(report, prediction=-report.prediction, predictions_without=report.predictions_without)
    page_of(better, tmp_path)
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "-100.0 pp" in text
    assert re.search(r'aria-label="without text: -100.0 pp">.*?<rect x="0.00" width="100.00"', text)


def test_a_notebook_shows_the_summary_and_a_figure() -> None:
    page = Page(made_up()._repr_html_())
    assert "400 samples, classification, accuracy 100.0%" in page.text
    assert page.tags.count("svg") == 1


@pytest.mark.parametrize("n_modalities", [2, 6])
def test_the_page_has_a_sample_of_each_interaction(n_modalities: int) -> None:
    names = tuple(f"m{i}" for i in range(n_modalities))
    expert_names = (*(f"uniqueness/{name}" for name in names), "synergy", "redundancy")
    n_experts = n_modalities + 2
    report = made_up(20 * n_experts)
    report = replace(
        report,
        modality_names=names,
        expert_names=expert_names,
        interactions=(*range(n_modalities), "synergy", "redundancy"),
        weights=torch.eye(n_experts).repeat(20, 1),
        expert_predictions=report.expert_predictions[:, :1].repeat(1, n_experts, 1),
        marginals=None,
        predictions_without=None,
    )
    assert {f"rests on {name}" for name in expert_names} <= set(chosen_samples(report).values())


def test_a_sample_that_rests_on_an_interaction_is_right_and_rests_on_it_most() -> None:
    torch.manual_seed(0)
    weights = torch.rand(200, 4).softmax(1)
    report = replace(made_up(200), weights=weights)
    chosen = {why: index for index, why in chosen_samples(report).items() if why.startswith("rests on")}
    assert len(chosen) > 2
    for why, index in chosen.items():
        assert report.expert_names[int(weights[index].argmax())] == why.removeprefix("rests on ")
        assert report.correct[index]
        assert not report.near_prior[index]
