import { useCallback, useEffect, useReducer, useRef, useState } from "react";
import { ask, ChatFailed, type Turn } from "./backend";
import { download, newId } from "./browser";
import { Composer } from "./Composer";
import { Conversations } from "./Conversations";
import { type Action, asMarkdown, CONTINUE, currentOf, lastQuestion, reduce, type State, titleOf } from "./conversations";
import { changeOf, load, save } from "./storage";
import { Turns } from "./Turns";

/** Pieces are shown together at this interval: Markdown is read anew each time, and eyes are slower. */
const SHOW_EVERY_MS = 60;

/** How much of an answer a reload may lose. */
const SAVE_EVERY_MS = 1000;

export function App() {
  const [state, dispatch] = useReducer(reduce, null, () => load(localStorage, newId()));
  const [editing, setEditing] = useState<{ id: string; index: number } | null>(null);
  const { answer, stop } = useAnswers(dispatch);
  useKept(state, dispatch);

  const conversation = currentOf(state);
  const busy = state.answering !== null;
  const edited = editing?.id === conversation.id ? editing.index : null;
  const { turns } = conversation;

  const askAt = useCallback(
    (message: string, at: number) => {
      setEditing(null);
      dispatch({ kind: "asked", message, at, now: Date.now() });
      void answer(conversation.id, message, turns.slice(0, at));
    },
    [answer, conversation.id, turns],
  );

  /** Ask the last question once more; its answer so far is forgotten. */
  const regenerate = useCallback(() => {
    const at = lastQuestion(turns);
    const question = turns[at];
    if (question) askAt(question.content, at);
  }, [askAt, turns]);

  const goOn = useCallback(() => {
    dispatch({ kind: "continued" });
    void answer(conversation.id, CONTINUE, turns);
  }, [answer, conversation.id, turns]);

  const edit = useCallback((index: number) => setEditing({ id: conversation.id, index }), [conversation.id]);

  return (
    <div className="app">
      <Conversations
        conversations={state.conversations}
        current={state.current}
        onNew={() => dispatch({ kind: "new", id: newId() })}
        onOpen={(id) => dispatch({ kind: "open", id })}
        onDelete={(id) => {
          if (state.answering === id) stop();
          dispatch({ kind: "delete", id, replacement: newId() });
        }}
        onExport={() => download(`${titleOf(conversation)}.md`, asMarkdown(conversation))}
      />
      <main>
        <h1 className="visually-hidden">Chat</h1>
        <Turns
          key={conversation.id}
          conversation={conversation}
          answering={state.answering === conversation.id}
          busy={busy}
          onEdit={edit}
          onRegenerate={regenerate}
          onContinue={goOn}
        />
        {conversation.failure && (
          <div role="alert" className="failure">
            <p>{conversation.failure.message}</p>
            {conversation.failure.requestId && <p>Request {conversation.failure.requestId}</p>}
            <button type="button" onClick={regenerate} disabled={busy}>
              Try again
            </button>
          </div>
        )}
        <Composer
          key={`${conversation.id} ${edited}`}
          initial={edited === null ? "" : (turns[edited]?.content ?? "")}
          busy={busy}
          onSend={(text) => askAt(text, edited ?? turns.length)}
          onStop={stop}
          onCancel={edited === null ? undefined : () => setEditing(null)}
        />
      </main>
    </div>
  );
}

/** Ask the backend, and turn what comes into actions. */
function useAnswers(dispatch: (action: Action) => void) {
  const stopping = useRef<AbortController | null>(null);
  const stop = useCallback(() => stopping.current?.abort(), []);
  useEffect(() => stop, [stop]);

  const answer = useCallback(
    async (id: string, message: string, history: Turn[]) => {
      const controller = new AbortController();
      stopping.current = controller;
      const shown = new Pieces((text) => dispatch({ kind: "piece", id, text }));
      try {
        for await (const part of ask(message, history, controller.signal)) {
          if (part.kind === "piece") shown.add(part.text);
          else {
            shown.flush();
            const cut = part.finishReason === "length" ? "length" : undefined;
            dispatch({ kind: "ended", id, cut, dropped: part.dropped });
          }
        }
      } catch (error) {
        shown.flush();
        if (controller.signal.aborted) return dispatch({ kind: "ended", id, cut: "stopped" });
        const requestId = error instanceof ChatFailed ? error.requestId : "";
        const message = error instanceof Error ? error.message : String(error);
        dispatch({ kind: "failed", id, failure: { message, requestId } });
      }
    },
    [dispatch],
  );
  return { answer, stop };
}

/** Collects pieces, and shows the first at once and the others at an interval. */
class Pieces {
  private text = "";
  private timer: ReturnType<typeof setTimeout> | null = null;

  constructor(private readonly show: (text: string) => void) {}

  add(text: string): void {
    this.text += text;
    if (this.timer !== null) return;
    this.showNow();
    this.timer = setTimeout(() => {
      this.timer = null;
      this.showNow();
    }, SHOW_EVERY_MS);
  }

  flush(): void {
    if (this.timer !== null) clearTimeout(this.timer);
    this.timer = null;
    this.showNow();
  }

  private showNow(): void {
    if (this.text) this.show(this.text);
    this.text = "";
  }
}

/** Keep the conversations, and take over what another tab keeps. */
function useKept(state: State, dispatch: (action: Action) => void) {
  const saved = useRef<State | null>(null);
  const savedAt = useRef(0);
  useEffect(() => {
    // While an answer is written, now and then: a record of 100 kB is not for every piece.
    const writing = state.answering !== null && saved.current?.answering === state.answering;
    if (writing && Date.now() - savedAt.current < SAVE_EVERY_MS) return;
    save(localStorage, state, saved.current);
    saved.current = state;
    savedAt.current = Date.now();
  }, [state]);

  useEffect(() => {
    const onStorage = (event: StorageEvent) => {
      const change = changeOf(event);
      if (change) dispatch({ kind: "merged", ...change, replacement: newId() });
    };
    addEventListener("storage", onStorage);
    return () => removeEventListener("storage", onStorage);
  }, [dispatch]);
}
