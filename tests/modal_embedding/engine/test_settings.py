import pytest
from hypothesis import given
from hypothesis import strategies as st

from modal_embedding.engine.settings import (
    KALM_DIMENSIONS,
    EmbeddingSettings,
    carried,
    check_protected,
    read_embedding_settings,
)
from servekit.errors.tree import SettingInvalid


def read(**environ: str) -> EmbeddingSettings:
    return read_embedding_settings(environ, lambda _: None)


def test_an_empty_environment_serves_kalm() -> None:
    """Model, revision, dimensions and hardware are those that the service was made for."""
    settings = read()

    assert settings.model_name == "tencent/KaLM-Embedding-Gemma3-12B-2511"
    assert settings.model_revision == "CausalLM"
    assert settings.matryoshka_dimensions == (3840, 2048, 1024, 512, 256, 128, 64)
    assert (settings.gpu, settings.max_model_len) == ("A100-40GB", 8192)
    assert (settings.gpu_memory_utilization, settings.enforce_eager) == (0.9, True)


def test_another_model_does_not_inherit_what_is_true_of_kalm() -> None:
    """A branch named CausalLM and sizes of KaLM would be wrong for anything else."""
    settings = read(MODEL_NAME="org/other")

    assert settings.model_revision == ""
    assert settings.matryoshka_dimensions == ()


def test_another_model_may_name_its_own_revision_and_dimensions() -> None:
    """What is set is kept, by either name."""
    settings = read(MODEL_NAME="org/other", REVISION="v2", MATRYOSHKA_DIMENSIONS="512, 64")

    assert settings.model_revision == "v2"
    assert settings.matryoshka_dimensions == (512, 64)


def test_a_query_is_put_as_its_model_was_trained() -> None:
    """KaLM's prompt has blanks around the end of the line, that of most others has none."""
    assert read().query_template == "Instruct: {instruction} \n Query: {text}"
    assert read(MODEL_NAME="org/other").query_template == "Instruct: {instruction}\nQuery: {text}"
    own = "{instruction}: {text}"
    assert read(MODEL_NAME="org/other", QUERY_TEMPLATE=own).query_template == own


def test_callers_use_the_served_name_where_there_is_one() -> None:
    """Without one, the model's."""
    assert read(SERVED_MODEL_NAME="e").public_model_name == "e"
    assert read(MODEL_NAME="a/b").public_model_name == "a/b"


@pytest.mark.parametrize(
    ("name", "value", "remedy"),
    [
        ("MAX_MODEL_LEN", "-1", "0 for the model's own"),
        ("GPU_MEMORY_UTILIZATION", "1.5", "up to 1"),
        ("MATRYOSHKA_DIMENSIONS", "64,-1", "sizes"),
        ("QUERY_TEMPLATE", "Query: {text}", "{instruction}"),
        ("MAX_INPUTS", "many", "MAX_INPUTS"),
    ],
)
def test_a_value_that_cannot_be_is_named_with_its_remedy(
    name: str, value: str, remedy: str
) -> None:
    """One line says which variable, and what to do."""
    with pytest.raises(SettingInvalid, match=name) as caught:
        read(**{name: value})

    assert remedy in str(caught.value)


@given(
    st.fixed_dictionaries(
        {},
        optional={
            "MODEL_NAME": st.sampled_from(["a/b", "c"]),
            "MODEL_REVISION": st.sampled_from(["main", ""]),
            "MATRYOSHKA_DIMENSIONS": st.sampled_from(["512,64", "8"]),
            "MAX_MODEL_LEN": st.integers(1, 9999).map(str),
            "PROXY_AUTH": st.sampled_from(["0", "1", "true"]),
            "HOME": st.just("/root"),
        },
    )
)
def test_a_container_reads_what_was_deployed(environ: dict[str, str]) -> None:
    """What travels in the image gives the same settings, and nothing else travels."""
    travelling = carried(environ)

    assert read(**travelling) == read(**environ)
    assert "HOME" not in travelling


def test_a_key_never_travels_in_the_image() -> None:
    """An image is seen by more people than a secret."""
    assert carried({"EMBEDDING_API_KEY": "k"}) == {}


def test_an_endpoint_that_anybody_could_call_is_refused() -> None:
    """Either Modal's edge asks, or we do."""
    with pytest.raises(SettingInvalid, match="MODAL_SECRETS"):
        check_protected(read(PROXY_AUTH="0"))

    check_protected(read())
    check_protected(read(PROXY_AUTH="0", MODAL_SECRETS="embedding-key"))


def test_kalm_can_be_cut_to_the_sizes_of_its_card() -> None:
    """Largest first: the first is the model's own."""
    assert list(KALM_DIMENSIONS) == sorted(KALM_DIMENSIONS, reverse=True)
