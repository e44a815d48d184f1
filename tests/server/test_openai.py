"""The real `openai` client against a server of a real small pair."""

from collections.abc import Iterator

import httpx2
import openai
import pytest

from autotune.pair import Pair
from autotune.server.app import Limits
from tests.support.serving import serving

PROMPT = "def main():"


@pytest.fixture
def client(url: str) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{url}/v1", api_key="any", max_retries=0) as opened:
        yield opened


def test_completions(client: openai.OpenAI, pair: Pair) -> None:
    expected = pair.generate(PROMPT, 40)
    answer = client.completions.create(model="demo", prompt=PROMPT, max_tokens=40, temperature=0)
    (choice,) = answer.choices
    assert choice.text == expected.text
    assert choice.finish_reason == "length"
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 40
    assert answer.usage.prompt_tokens == len(pair.tokenizer.encode(PROMPT))
    details = answer.usage.completion_tokens_details
    assert details is not None
    assert details.accepted_prediction_tokens == 40 - expected.statistics.rounds
    same = client.completions.create(model="demo", prompt=pair.tokenizer.encode(PROMPT), max_tokens=40, temperature=0)
    assert same.choices[0].text == expected.text


def test_a_stream_is_the_same_text(client: openai.OpenAI, pair: Pair) -> None:
    chunks = list(
        client.completions.create(
            model="demo",
            prompt=PROMPT,
            max_tokens=30,
            temperature=0,
            stream=True,
            stream_options={"include_usage": True},
        )
    )
    assert "".join(chunk.choices[0].text for chunk in chunks[:-1]) == pair.generate(PROMPT, 30).text
    assert len(chunks) > 3
    assert chunks[-2].choices[0].finish_reason == "length"
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens == 30


def test_seeds_repeat_themselves_and_others_differ(client: openai.OpenAI) -> None:
    texts = [
        client.completions.create(model="demo", prompt=PROMPT, max_tokens=30, temperature=1.0, seed=seed)
        .choices[0]
        .text
        for seed in (5, 5, -6)
    ]
    assert texts[0] == texts[1] != texts[2]


def test_stop_strings(client: openai.OpenAI, pair: Pair) -> None:
    whole = pair.generate(PROMPT, 60).text
    stop = whole[20:24]
    for stops in (stop, ["@@@@", stop]):
        answer = client.completions.create(model="demo", prompt=PROMPT, max_tokens=60, temperature=0, stop=stops)
        assert answer.choices[0].text == whole[: whole.index(stop)]
        assert answer.choices[0].finish_reason == "stop"


def test_logprobs(client: openai.OpenAI) -> None:
    answer = client.completions.create(model="demo", prompt=PROMPT, max_tokens=12, temperature=0, logprobs=3)
    told = answer.choices[0].logprobs
    assert told is not None
    assert told.token_logprobs is not None
    assert told.top_logprobs is not None
    assert "".join(told.tokens or []) == answer.choices[0].text
    for logprob, likeliest in zip(told.token_logprobs, told.top_logprobs, strict=True):
        assert logprob == pytest.approx(max(likeliest.values()))  # greedy: the token is the likeliest
        assert len(likeliest) == 3


def test_rounds_are_told_where_they_are_asked_for(url: str, pair: Pair) -> None:
    body = {"prompt": PROMPT, "max_tokens": 40, "temperature": 0, "return_rounds": True}
    choice = httpx2.post(f"{url}/v1/completions", json=body).json()["choices"][0]
    rounds = choice["rounds"]
    kinds = [piece["kind"] for each in rounds for piece in each["pieces"]]
    assert "".join(piece["text"] for each in rounds for piece in each["pieces"]) == choice["text"]
    assert kinds.count("accepted") == sum(each["accepted"] for each in rounds)
    assert len(kinds) - kinds.count("accepted") == len(rounds)
    for each in rounds:
        assert each["pieces"][-1]["kind"] == ("bonus" if each["accepted"] == each["drafted"] > 0 else "corrected")
    alone = httpx2.post(f"{url}/v1/completions", json={**body, "lookahead": 0}).json()
    assert alone["choices"][0]["text"] == choice["text"]
    assert alone["usage"]["autotune"] | {"tokens_per_s": 0} == {"rounds": 40, "tokens_per_s": 0, "lookahead": 0}


def test_a_model_without_a_chat_template_says_so(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="no chat template") as refused:
        client.chat.completions.create(model="demo", messages=[{"role": "user", "content": "hello"}])
    assert refused.value.code == "no_chat_template"


def test_the_served_model_is_listed(client: openai.OpenAI) -> None:
    (model,) = client.models.list().data
    assert model.id == "demo"
    told = model.model_dump()["autotune"]
    assert (told["target"], told["lookahead"], told["draft"]["layers"], told["lookup"]) == ("demo", 3, 6, None)
    with pytest.raises(openai.NotFoundError, match="only 'demo'"):
        client.completions.create(model="gpt-4", prompt=PROMPT)


def test_a_key_is_asked_for(pair: Pair) -> None:
    with serving(pair.sibling(), limits=Limits(api_key="secret")) as url:
        assert httpx2.get(f"{url}/healthz").status_code == 200
        for headers in ({}, {"Authorization": "Bearer wrong"}):
            refused = httpx2.get(f"{url}/v1/models", headers=headers)
            assert refused.status_code == 401
            assert refused.json()["error"]["code"] == "invalid_api_key"
        assert httpx2.get(f"{url}/v1/models", headers={"Authorization": "Bearer secret"}).status_code == 200


def test_metrics_count_what_was_done(pair: Pair) -> None:
    with serving(pair.sibling()) as url:
        body = {"prompt": PROMPT, "max_tokens": 40, "temperature": 0}
        usage = httpx2.post(f"{url}/v1/completions", json=body).json()["usage"]
        page = httpx2.get(f"{url}/metrics").text
    counted = dict(line.rsplit(" ", 1) for line in page.splitlines() if not line.startswith("#"))
    label = '{model_name="demo"}'
    assert float(counted[f"vllm:generation_tokens_total{label}"]) == 40
    assert float(counted[f"vllm:prompt_tokens_total{label}"]) == usage["prompt_tokens"]
    accepted = usage["completion_tokens_details"]["accepted_prediction_tokens"]
    assert float(counted[f"vllm:spec_decode_num_accepted_tokens_total{label}"]) == accepted
    by_position = [float(value) for name, value in counted.items() if "accepted_tokens_per_pos_total" in name]
    assert sum(by_position) == accepted
    assert by_position == sorted(by_position, reverse=True)
    assert float(counted[f"vllm:time_to_first_token_seconds_count{label}"]) == 1
    assert float(counted['vllm:request_success_total{finished_reason="length",model_name="demo"}']) == 1
