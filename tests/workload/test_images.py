"""Images in prompts: drawn by recipe, covered by the schedule's hash, and as files give them."""

from __future__ import annotations

import json
from itertools import islice

import pytest

from bytemlperf.errors import UserError
from bytemlperf_llm.plan import scenario as scenarios
from bytemlperf_llm.plan.dataset import parse_images
from bytemlperf_llm.plan.flags import Flags
from bytemlperf_llm.plan.plan import resolve
from bytemlperf_llm.run.preflight import check_images, fit_prompts
from bytemlperf_llm.workload import Workload, schedule_line
from engines.contract import EngineInfo, Image

HELD = "data:image/png;base64,AAAA"
SEES, BLIND = EngineInfo(name="x", accepts=["images"]), EngineInfo(name="x", api="completions", accepts=["token_ids"])


def shown(width=64, height=48, count=2):
    return scenarios.load("smoke").override({"prompts.images": {"width": width, "height": height, "count": count}})


def of_file(tmp_path, *parts, text="Look."):
    line = {"messages": [{"role": "user", "content": [*parts, {"type": "text", "text": text}]}]}
    (tmp_path / "p.jsonl").write_text(json.dumps(line) + "\n")
    return scenarios.load("smoke").override({"prompts.files": [str(tmp_path / "p.jsonl")]})


def part(url):
    return {"type": "image_url", "image_url": {"url": url, "detail": "low"}}


def test_every_request_has_its_own_and_the_text_that_it_has_without():
    plain, requests = (list(islice(Workload(scenario, 0), 5)) for scenario in (scenarios.load("smoke"), shown()))
    assert [request.messages[-1].content for request in requests] == [request.messages[-1].content for request in plain]
    assert requests[0].images() == [Image(64, 48, "0-00000000/0"), Image(64, 48, "0-00000000/1")]
    assert len({image for request in requests for image in request.images()}) == 10
    assert not set(Workload(shown(), 0).aside(0).images()) & set(requests[0].images())


def test_the_schedule_hash_covers_the_recipe_and_holds_no_picture():
    one, other = (schedule_line(Workload(shown(width=width), 0).request(0), 5) for width in (4096, 4095))
    assert one != other
    assert len(one) < 1000


def test_files_give_them_as_parts(tmp_path):
    scenario = of_file(tmp_path, part(HELD), {"type": "input_image", "image_url": "http://host/a.png"})
    request = Workload(scenario, 0).request(0)
    assert request.messages is not None
    assert (request.messages[0].content, request.images()) == ("Look.", [HELD, "http://host/a.png"])
    assert HELD.encode() in schedule_line(request, None)


@pytest.mark.parametrize(
    ("broken", "said"),
    [
        ({"type": "image_url"}, "no image_url"),
        ({"type": "text"}, "no text"),
        (part("file:///etc/passwd"), "neither a data URL"),
        (part("data:text/html,x"), "neither a data URL"),
        ({"type": "audio", "text": "x"}, "audio"),
    ],
)
def test_a_part_that_can_not_be_sent_is_named_with_its_line(tmp_path, broken, said):
    with pytest.raises(UserError, match=said) as caught:
        Workload(of_file(tmp_path, broken), 0)
    assert "p.jsonl:1" in caught.value.cause


def test_an_engine_that_takes_none_is_asked_for_none(tmp_path):
    with pytest.raises(UserError, match="no images"):
        fit_prompts(resolve(Flags(engine="openai", images="64x48")), None, BLIND)
    scenario = of_file(tmp_path, part(HELD))
    with pytest.raises(UserError, match="takes none"):
        check_images(scenario, Workload(scenario, 0), BLIND)
    check_images(scenario, Workload(scenario, 0), SEES)


def test_what_the_server_fetches_is_noted(tmp_path):
    scenario, info = of_file(tmp_path, part("https://host/a.png")), EngineInfo(name="x", accepts=["images"])
    check_images(scenario, Workload(scenario, 0), info)
    assert "the server fetches them" in info.notes[0]


def test_the_flag_is_a_size_and_a_count():
    assert parse_images("512x384*3") == {"width": 512, "height": 384, "count": 3}
    assert parse_images("1x2") == {"width": 1, "height": 2, "count": 1}
    assert resolve(Flags(engine="openai", images="8x4*2")).load.scenario.prompts.sentence() == "2 images of 8 × 4"
    for wrong in ("512", "512*2", "ax3", "1x2*", "-1x2"):
        with pytest.raises(UserError, match="--images"):
            parse_images(wrong)
    with pytest.raises(UserError, match="width"):
        resolve(Flags(engine="openai", images="9000x1"))
    with pytest.raises(UserError, match="images are of"):
        resolve(Flags(engine="openai", images="9x1", tokenize_prompt=True))
