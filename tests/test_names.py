"""One grammar of names: what is written can be read back, and what is wrong is told."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sightline.errors import InputError
from sightline.names import FIRST_STAGES, RemoteName, RerankerName, SystemName, layout_names, looks_local

words = st.text(alphabet="abz09-_./#+:", min_size=1, max_size=12)


@given(st.sampled_from(FIRST_STAGES), words)
def test_a_system_is_its_first_stage_and_all_that_follows_the_first_plus(first, reranker):
    name = f"{first}+{reranker}"
    if reranker.endswith("+"):
        with pytest.raises(InputError, match="no system"):
            SystemName.parse(name)
    else:
        parsed = SystemName.parse(name)
        assert parsed == (first, reranker) and str(parsed) == name


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("", "no system ''"),
        ("dens+minilm", "did you mean 'dense'"),
        ("dense+", "no system"),
        (7, "named by a text"),
        ("mine", "FIRST one of bm25, sparse, dense, multivector, hybrid, hybrid-multivector"),
    ],
)
def test_what_is_no_system_is_told_what_there_is(name, said):
    with pytest.raises(InputError, match=said):
        SystemName.parse(name)


def test_a_decoder_with_a_name_of_its_own_takes_the_file_of_a_layout():
    assert RerankerName.parse("smollm2#mine.yaml") == RerankerName("hf", "smollm2", "mine.yaml")
    assert RerankerName.parse("mine.yaml").kind == "layout"


def test_a_given_run_stands_in_the_place_of_a_first_stage():
    assert SystemName.parse("mine+minilm", given=("mine",)) == ("mine", "minilm")
    assert SystemName.parse("mine", given={"mine": 0}).reranker is None


@given(st.sampled_from(["hf", "cross-encoder", "encoder", "late-interaction"]), words)
def test_a_kind_stands_before_the_first_colon(kind, model):
    if kind != "cross-encoder" and model.startswith("#"):
        with pytest.raises(InputError, match="names no model"):
            RerankerName.parse(f"{kind}:{model}")
        return
    parsed = RerankerName.parse(f"{kind}:{model}")
    assert parsed.kind == kind
    assert (parsed.model, parsed.layout) == ((model, "") if kind == "cross-encoder" else model.partition("#")[::2])


@pytest.mark.parametrize("kind", ["hf", "cross-encoder", "encoder", "late-interaction", "remote"])
def test_a_kind_without_a_model_says_how_it_is_written(kind):
    with pytest.raises(InputError, match=rf"names no model; .* {kind}:"):
        RerankerName.parse(f"{kind}:")


def test_layouts_files_and_folders_are_told_apart(tmp_path):
    assert {RerankerName.parse(name).kind for name in layout_names()} == {"layout"}
    assert RerankerName.parse(tmp_path / "mine.yaml") == RerankerName("layout", str(tmp_path / "mine.yaml"))
    for name in ("sightline-mini", "trained", str(tmp_path), "cross-encoders:x", "C:/models", "hf"):
        assert RerankerName.parse(name) == RerankerName("folder", name)


@pytest.mark.parametrize("name", [None, 3, b"minilm", ["minilm"]])
def test_a_name_is_a_text_or_a_path(name):
    with pytest.raises(InputError, match="by its name"):
        RerankerName.parse(name)


def test_names_that_can_only_be_paths():
    assert all(map(looks_local, ["/a", "./a", "~/a", "a/b/c", "a\\b", "a/"]))
    assert not any(map(looks_local, ["gpt2", "Qwen/Qwen3-0.6B"]))


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("cohere/rerank-v3.5", ("cohere", "rerank-v3.5", False)),
        ("jina/jina-reranker-v3#raw", ("jina", "jina-reranker-v3", True)),
        ("http://localhost:8080/rerank", ("http://localhost:8080/rerank", "", False)),
        ("https://a.example/api/v1/rerank/BAAI/bge@main", ("https://a.example/api/v1/rerank", "BAAI/bge@main", False)),
        ("http://[::1]:80/v2/rerank/rerank/m", ("http://[::1]:80/v2/rerank", "rerank/m", False)),
        ("http://reranker/rerank/m#raw", ("http://reranker/rerank", "m", True)),
        ("HTTP://a/rerank#raw", ("HTTP://a/rerank", "", True)),
    ],
)
def test_a_remote_reranker_is_a_server_and_a_model(name, parts):
    assert RemoteName.parse(name) == parts
    assert RerankerName.parse(f"remote:{name}") == RerankerName("remote", name)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("cohere", "names no model"),
        ("cohere/ ", "names no model"),
        ("http://a/rerank/", "names no model"),
        ("http://a/v1/rerank", "names no model; .*remote:URL/MODEL"),
        ("https://a.example/v2/rerank#raw", "names no model"),
        ("ftp://a/rerank/m", "begins with http:// or https://"),
        ("file:///etc/rerank", "begins with http:// or https://"),
        ("localhost:8000/rerank/m", "begins with http:// or https://"),
        ("http://a/score/m", "ends in /rerank"),
        ("http://a b/rerank/m", "begins with"),
        ("http://a\n/rerank/m", "begins with"),
        ("http://caf\u00e9/rerank/m", "begins with"),
        ("http:///rerank/m", "has no host"),
        ("http://:80/rerank/m", "has no host"),
        ("http://a..b/rerank/m", "an impossible host or port"),
        ("http://a:99999/rerank/m", "an impossible host or port"),
        ("http://a:x/rerank/m", "an impossible host or port"),
        ("http://[::1/rerank/m", "an impossible host or port"),
        ("http://a/rerank/m#other", "may be followed by raw"),
        ("https://ann:secret@a/rerank/m", "holds no user, password or query"),
        ("https://ann:sec/ret@a/rerank/m", "holds no user, password or query"),
        ("https://a/rerank/m?key=secret", "holds no user, password or query"),
        ("https://a/rerank?key=secret", "holds no user, password or query"),
        ("ann:secret@a/rerank", "holds no user, password or query"),
        ("https://secret@a/rerank", "SIGHTLINE_REMOTE_KEY"),
    ],
)
def test_what_is_no_remote_reranker_is_told_how_to_write_one_and_no_secret_is_repeated(name, said):
    with pytest.raises(InputError, match=said) as caught:
        RerankerName.parse(f"remote:{name}")
    assert "sec" not in str(caught.value) and caught.value.__cause__ is None
