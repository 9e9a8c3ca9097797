from modal_embedding.engine.instructions import Phrasing, phrased

PHRASING = Phrasing("find answers", "Instruct: {instruction}\nQuery: {text}")


def test_documents_are_embedded_as_they_are() -> None:
    """Nothing is added, whatever they look like."""
    texts = ["a", "{text}"]

    assert phrased(texts, PHRASING, instruction=None, query=False) == texts


def test_a_query_gets_the_models_own_instruction() -> None:
    """In the words of its template."""
    prompts = phrased(["why?"], PHRASING, instruction=None, query=True)

    assert prompts == ["Instruct: find answers\nQuery: why?"]


def test_an_instruction_of_the_callers_takes_its_place() -> None:
    """It makes every text a query, in order."""
    prompts = phrased(["a", "b"], PHRASING, instruction="sort", query=False)

    assert prompts == ["Instruct: sort\nQuery: a", "Instruct: sort\nQuery: b"]


def test_braces_are_text() -> None:
    """Neither texts nor instructions are templates: nothing in them is looked up."""
    prompts = phrased(
        ["{instruction} {0.__class__}"], PHRASING, instruction="say {text}", query=True
    )

    assert prompts == ["Instruct: say {text}\nQuery: {instruction} {0.__class__}"]
