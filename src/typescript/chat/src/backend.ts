/** The chat backend over HTTP: one question, an answer in pieces. */
import { SseDecoder } from "./sse";

/** Why an answer is not whole: it reached max_tokens, was stopped, or broke off. */
export type Cut = "length" | "stopped" | "failed";

export interface Turn {
  role: "user" | "assistant";
  content: string;
  cut?: Cut;
  /** Oldest turns that the model was not given for this answer. */
  dropped?: number;
}

export type Part =
  | { kind: "piece"; text: string }
  | { kind: "end"; finishReason: string; dropped: number };

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

/** What is sent of a conversation; the backend takes a body of 1 MB and fits it to the model. */
const MAX_TURNS = 1000;
const MAX_CHARS = 200_000;

/**
 * Give the pieces of an answer as they arrive, and how it ended.
 *
 * Throws ChatFailed where the backend says so or cannot be reached, and AbortError when `signal` is
 * aborted.
 */
export async function* ask(
  message: string,
  history: Turn[],
  signal: AbortSignal,
): AsyncGenerator<Part> {
  const sent = newest(history);
  const response = await send(message, sent, signal);
  if (!response.ok || !response.body) throw await failureOf(response);
  const decoder = new SseDecoder();
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  for (;;) {
    const { done, value } = await reader.read().catch(brokenOff);
    if (done) throw new ChatFailed("The answer broke off.", "answer_cut");
    for (const event of decoder.feed(value)) {
      const part = partOf(event.kind, event.data, history.length - sent.length);
      yield part;
      if (part.kind === "end") return;
    }
  }
}

function partOf(kind: string, text: string, unsent: number): Part {
  const data = parsed(text);
  if (kind === "error") throw told(data);
  if (kind !== "done") return { kind: "piece", text: String(data["delta"] ?? "") };
  const dropped = unsent + Number(data["dropped_turns"] ?? 0);
  return { kind: "end", finishReason: String(data["finish_reason"] ?? "stop"), dropped };
}

function parsed(text: string): Record<string, unknown> {
  try {
    return JSON.parse(text);
  } catch {
    throw new ChatFailed("The answer cannot be read.", "answer_unreadable");
  }
}

/** The newest turns that a request has room for. */
export function newest(history: Turn[]): Turn[] {
  let chars = 0;
  let first = history.length;
  while (first > 0 && history.length - first < MAX_TURNS) {
    chars += history[first - 1]?.content.length ?? 0;
    if (chars > MAX_CHARS) break;
    first--;
  }
  return history.slice(first);
}

async function send(message: string, turns: Turn[], signal: AbortSignal): Promise<Response> {
  const history = turns.map(({ role, content }) => ({ role, content }));
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

/** The backend's words for an error: `{"error": {"code", "message", "request_id"}}`. */
function told(body: Record<string, unknown>): ChatFailed {
  const error = (body["error"] ?? {}) as Record<string, unknown>;
  const message = String(error["message"] ?? "The answer broke off.");
  return new ChatFailed(message, String(error["code"] ?? "unknown"), String(error["request_id"] ?? ""));
}
