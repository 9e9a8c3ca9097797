/** Where a question is written. */
import { type KeyboardEvent, useState } from "react";

export function Composer(props: {
  /** What stands there at first: a question that is to be changed. */
  initial: string;
  busy: boolean;
  onSend: (text: string) => void;
  onStop: () => void;
  /** Leave the change of a question; undefined where none is being changed. */
  onCancel: (() => void) | undefined;
}) {
  const { busy, onSend, onStop, onCancel } = props;
  const [text, setText] = useState(props.initial);
  const ready = text.trim() !== "" && !busy;

  function send() {
    if (!ready) return;
    onSend(text.trim());
    setText("");
  }

  function onKeyDown(event: KeyboardEvent) {
    // Enter while composing chooses a character in Chinese, Japanese and Korean.
    if (event.key === "Enter" && !event.shiftKey && !event.nativeEvent.isComposing) {
      event.preventDefault();
      send();
    }
    if (event.key === "Escape") {
      if (busy) onStop();
      else onCancel?.();
    }
  }

  return (
    <form
      onSubmit={(event) => {
        event.preventDefault();
        send();
      }}
    >
      <textarea
        aria-label="Message"
        placeholder="Message"
        rows={2}
        autoFocus
        value={text}
        onChange={(event) => setText(event.target.value)}
        onKeyDown={onKeyDown}
      />
      {busy ? (
        <button type="button" onClick={onStop}>
          Stop
        </button>
      ) : (
        <button type="submit" disabled={!ready}>
          Send
        </button>
      )}
      <p className="hint">
        {onCancel
          ? "What follows this question is replaced; Escape leaves it as it was."
          : "Enter sends, Shift+Enter breaks the line, Escape stops."}
      </p>
    </form>
  );
}
