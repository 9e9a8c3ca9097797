import { type KeyboardEvent, useEffect, useReducer, useRef, useState } from "react";
import Markdown from "react-markdown";
import rehypeHighlight from "rehype-highlight";
import remarkGfm from "remark-gfm";
import { ask, ChatFailed, type Turn } from "./backend";
import { type Conversation, currentOf, lastQuestion, load, reduce, save, titleOf } from "./conversations";

const newId = () => crypto.randomUUID();

export function App() {
  const [state, dispatch] = useReducer(reduce, null, () => load(localStorage, newId()));
  const stopping = useRef<AbortController | null>(null);
  const conversation = currentOf(state);
  const busy = state.answering !== null;

  useEffect(() => save(localStorage, state), [state]);
  useEffect(() => () => stopping.current?.abort(), []);

  async function answer(id: string, message: string, history: Turn[]) {
    const controller = new AbortController();
    stopping.current = controller;
    try {
      for await (const text of ask(message, history, controller.signal)) {
        dispatch({ kind: "piece", id, text });
      }
      dispatch({ kind: "ended", id });
    } catch (error) {
      if (controller.signal.aborted) return dispatch({ kind: "ended", id });
      const requestId = error instanceof ChatFailed ? error.requestId : "";
      const message = error instanceof Error ? error.message : String(error);
      dispatch({ kind: "failed", id, failure: { message, requestId } });
    }
  }

  function send(message: string) {
    dispatch({ kind: "asked", message });
    void answer(conversation.id, message, conversation.turns);
  }

  function retry() {
    const question = lastQuestion(conversation.turns);
    if (!question) return;
    dispatch({ kind: "retried" });
    void answer(conversation.id, question.message, question.history);
  }

  return (
    <div className="app">
      <Conversations
        conversations={state.conversations}
        current={state.current}
        onNew={() => dispatch({ kind: "new", id: newId() })}
        onOpen={(id) => dispatch({ kind: "open", id })}
        onDelete={(id) => {
          if (state.answering === id) stopping.current?.abort();
          dispatch({ kind: "delete", id, replacement: newId() });
        }}
      />
      <main>
        <h1 className="visually-hidden">Chat</h1>
        <Turns conversation={conversation} answering={state.answering === conversation.id} />
        {conversation.failure && (
          <div role="alert" className="failure">
            <p>{conversation.failure.message}</p>
            {conversation.failure.requestId && <p>Request {conversation.failure.requestId}</p>}
            <button type="button" onClick={retry} disabled={busy}>
              Try again
            </button>
          </div>
        )}
        <Composer key={conversation.id} busy={busy} onSend={send} onStop={() => stopping.current?.abort()} />
      </main>
    </div>
  );
}

function Conversations(props: {
  conversations: Conversation[];
  current: string;
  onNew: () => void;
  onOpen: (id: string) => void;
  onDelete: (id: string) => void;
}) {
  return (
    <nav aria-label="Conversations">
      <button type="button" onClick={props.onNew}>
        New conversation
      </button>
      <ul>
        {props.conversations.map((conversation) => (
          <li key={conversation.id}>
            <button
              type="button"
              className="open"
              aria-current={conversation.id === props.current ? "page" : undefined}
              onClick={() => props.onOpen(conversation.id)}
            >
              {titleOf(conversation)}
            </button>
            <button
              type="button"
              className="delete"
              aria-label={`Delete: ${titleOf(conversation)}`}
              onClick={() => props.onDelete(conversation.id)}
            >
              ×
            </button>
          </li>
        ))}
      </ul>
    </nav>
  );
}

function Turns({ conversation, answering }: { conversation: Conversation; answering: boolean }) {
  const end = useRef<HTMLDivElement>(null);
  useEffect(() => {
    // In braces: a browser may return a promise here, and React would call it as a clean-up.
    end.current?.scrollIntoView?.({ block: "end" });
  }, [conversation.turns, conversation.failure]);

  return (
    // A screen reader reads an answer when it is whole, not word by word.
    <div className="turns" role="log" aria-busy={answering} aria-label="Conversation" tabIndex={0}>
      {conversation.turns.length === 0 && <p className="hint">Ask the model something.</p>}
      {conversation.turns.map((turn, index) => (
        <article key={index} className={turn.role} aria-label={turn.role === "user" ? "You" : "Model"}>
          {turn.role === "user" ? (
            <p>{turn.content}</p>
          ) : (
            // HTML in an answer is shown as text, never run: react-markdown's default.
            <Markdown remarkPlugins={[remarkGfm]} rehypePlugins={[rehypeHighlight]}>
              {turn.content}
            </Markdown>
          )}
        </article>
      ))}
      {answering && <p className="hint">Writing…</p>}
      <div ref={end} />
    </div>
  );
}

function Composer({ busy, onSend, onStop }: { busy: boolean; onSend: (text: string) => void; onStop: () => void }) {
  const [text, setText] = useState("");
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
    if (event.key === "Escape" && busy) onStop();
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
      <p className="hint">Enter sends, Shift+Enter breaks the line, Escape stops.</p>
    </form>
  );
}
