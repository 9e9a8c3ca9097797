"""Gemini's view of a failed build."""

from google import genai
from google.genai import errors, types

from build_notifier.report import Report
from build_notifier.settings import NotifierSettings

# An answer that a person reads in a notification.
MAX_TOKENS = 500

TIMEOUT_MS = 30_000


def open_gemini(settings: NotifierSettings, project: str) -> genai.Client:
    """Return a client: by API key where there is one, else by the function's own account."""
    options = types.HttpOptions(base_url=settings.gemini_base_url or None, timeout=TIMEOUT_MS)
    if settings.gemini_api_key:
        return genai.Client(api_key=settings.gemini_api_key, http_options=options)
    return genai.Client(
        vertexai=True, project=project, location=settings.gemini_location, http_options=options
    )


class Gemini:
    """Reads a masked log and names cause and fix."""

    def __init__(self, settings: NotifierSettings) -> None:
        self._settings = settings

    def explain(self, report: Report) -> str:
        """Return cause and fix, or why there is no answer: a notification does not wait for one."""
        config = types.GenerateContentConfig(temperature=0.0, max_output_tokens=MAX_TOKENS)
        try:
            # Held by a name: a client that nobody holds closes its connection at once.
            with open_gemini(self._settings, report.project) as client:
                answer = client.models.generate_content(
                    model=self._settings.gemini_model, contents=report.to_prompt(), config=config
                )
        except errors.APIError as error:
            return f"No analysis: Gemini answers {error.code}."
        except Exception as error:  # noqa: BLE001  (whatever the transport raises)
            return f"No analysis: Gemini could not be asked ({type(error).__name__})."
        return (answer.text or "").strip() or "No analysis: Gemini answers nothing."
