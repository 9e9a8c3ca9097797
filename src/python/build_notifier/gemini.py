"""Gemini's analysis of a failed build."""

from google import genai
from google.genai import errors, types

from build_notifier.report import Report
from build_notifier.settings import NotifierSettings

# Thinking counts as output: at 500 tokens a thinking model ends before its first word.
MAX_OUTPUT_TOKENS = 4096
# For models before Gemini 3, which take a budget in tokens and no level.
THINKING_TOKENS = 1024
# An analysis that a person reads in a notification.
MAX_ANALYSIS_CHARS = 2500

TIMEOUT_MS = 30_000


def open_gemini(settings: NotifierSettings, project: str) -> genai.Client:
    """Return a client: by API key where there is one, else by the function's own account."""
    options = types.HttpOptions(base_url=settings.gemini_base_url or None, timeout=TIMEOUT_MS)
    if settings.gemini_api_key:
        return genai.Client(api_key=settings.gemini_api_key.reveal(), http_options=options)
    return genai.Client(
        vertexai=True, project=project, location=settings.gemini_location, http_options=options
    )


class Gemini:
    """Reads a masked log and names cause and fix."""

    def __init__(self, settings: NotifierSettings) -> None:
        self._settings = settings

    def explain(self, report: Report) -> str:
        """Return cause and fix, or why there is no answer: a notification does not wait for one."""
        model = self._settings.gemini_model
        try:
            # Held by a name: a client without a reference closes its connection at once.
            with open_gemini(self._settings, report.project) as client:
                answer = client.models.generate_content(
                    model=model, contents=report.to_prompt(), config=generation_config(model)
                )
        except errors.APIError as error:
            return f"No analysis: Gemini answers {error.code}."
        except Exception as error:  # noqa: BLE001  (whatever the transport raises)
            return f"No analysis: Gemini could not be reached ({type(error).__name__})."
        return analysis_of(answer)


def generation_config(model: str) -> types.GenerateContentConfig:
    """Return how *model* is asked: little thinking, and room for the answer after it.  Pure."""
    thinking = types.ThinkingConfig(thinking_level=types.ThinkingLevel.LOW)
    if model.startswith("gemini-2.5"):
        thinking = types.ThinkingConfig(thinking_budget=THINKING_TOKENS)
    if model.startswith(("gemini-2.0", "gemini-1", "gemma")):
        return types.GenerateContentConfig(max_output_tokens=MAX_OUTPUT_TOKENS)
    return types.GenerateContentConfig(
        max_output_tokens=MAX_OUTPUT_TOKENS, thinking_config=thinking
    )


def analysis_of(answer: types.GenerateContentResponse) -> str:
    """Return the text of *answer*; where it has none, which of the reasons that is.  Pure."""
    feedback = answer.prompt_feedback
    if feedback is not None and feedback.block_reason:
        return f"No analysis: Gemini refused the prompt ({feedback.block_reason.value})."
    if not answer.candidates:
        return "No analysis: Gemini returned no candidate."
    candidate = answer.candidates[0]
    parts = (candidate.content.parts if candidate.content else None) or []
    text = "".join(part.text for part in parts if part.text and not part.thought).strip()
    reason = candidate.finish_reason.value if candidate.finish_reason else "unknown"
    if not text:
        return f"No analysis: {_WITHOUT_TEXT.get(reason, _OTHERWISE).format(reason=reason)}"
    cut = len(text) > MAX_ANALYSIS_CHARS or reason == "MAX_TOKENS"
    return f"{text[:MAX_ANALYSIS_CHARS]} [cut]" if cut else text


_WITHOUT_TEXT = {
    "STOP": "Gemini answered without text.",
    "MAX_TOKENS": f"Gemini used all {MAX_OUTPUT_TOKENS} output tokens for thinking.",
    "SAFETY": "Gemini's safety filter withheld the answer ({reason}).",
    "RECITATION": "Gemini withheld the answer as a recitation ({reason}).",
}
_OTHERWISE = "Gemini stopped without text ({reason})."
