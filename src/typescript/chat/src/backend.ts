/** The chat backend over HTTP: one question, an answer in pieces. */
import { SseDecoder } from "./sse";

export interface Turn {
  role: "user" | "assistant";
  content: string;
}

/** Why there is no answer, or not all of it. */
export class ChatFailed extends Error {
  constructor(
    message: string,
    /** Stable, for programs: "engine_unavailable". */
    readonly code: string,
    /** Finds the request in the backend's log; empty where the backend was not reached. */
    readonly requestId: string = "",
  ) {
    super(message);
  }
}

/** The most that an answer may have; as the page has always asked. */
const MAX_TOKENS = 1024;

/**
 * Give the pieces of an answer as they arrive.
 *
 * Throws ChatFailed where the backend says so or cannot be reached, and AbortError when `signal` is
 * aborted.
 */
export async function* ask(
  message: string,
  history: Turn[],
  signal: AbortSignal,
): AsyncGenerator<string> {
  const response = await send(message, history, signal);
  if (!response.ok || !response.body) throw await failureOf(response);
  const decoder = new SseDecoder();
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  for (;;) {
    const { done, value } = await reader.read().catch(brokenOff);
    if (done) throw new ChatFailed("The answer broke off.", "answer_cut");
    for (const event of decoder.feed(value)) {
      const data = JSON.parse(event.data);
      if (event.kind === "done") return;
      if (event.kind === "error") throw told(data);
      yield data.delta;
    }
  }
}

async function send(message: string, history: Turn[], signal: AbortSignal): Promise<Response> {
  const body = JSON.stringify({ message, history, max_tokens: MAX_TOKENS, stream: true });
  const headers = { "Content-Type": "application/json" };
  try {
    return await fetch("/api/chat", { method: "POST", headers, body, signal });
  } catch (error) {
    if (signal.aborted) throw error;
    throw new ChatFailed("The chat cannot be reached. Check your connection.", "offline");
  }
}

function brokenOff(error: unknown): never {
  if (error instanceof DOMException && error.name === "AbortError") throw error;
  throw new ChatFailed("The answer broke off.", "answer_cut");
}

async function failureOf(response: Response): Promise<ChatFailed> {
  const body = await response.json().catch(() => null);
  if (body?.error) return told(body);
  return new ChatFailed(`The chat answered with status ${response.status}.`, "unknown");
}

function told(body: { error: { message: string; code: string; request_id: string } }): ChatFailed {
  return new ChatFailed(body.error.message, body.error.code, body.error.request_id);
}
