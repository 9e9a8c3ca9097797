"""The source file that functions-framework wants; everything is in the package."""

from build_notifier.main import handle_background_event, handle_build_notification

__all__ = ["handle_background_event", "handle_build_notification"]
