/** Conversations as values: what can happen to them, and how they are kept.  Pure. */
import type { Turn } from "./backend";

export interface Failure {
  message: string;
  requestId: string;
}

export interface Conversation {
  id: string;
  turns: Turn[];
  /** Why the last question has no whole answer. */
  failure: Failure | null;
}

export interface State {
  conversations: Conversation[];
  current: string;
  /** The conversation that an answer is being written for. */
  answering: string | null;
}

export type Action =
  | { kind: "new"; id: string }
  | { kind: "open"; id: string }
  | { kind: "delete"; id: string; replacement: string }
  | { kind: "asked"; message: string }
  | { kind: "retried" }
  | { kind: "piece"; id: string; text: string }
  | { kind: "ended"; id: string }
  | { kind: "failed"; id: string; failure: Failure };

const KEY = "servekit-chat";

/** As many as a browser keeps without trouble: its storage holds 5 MB. */
const MAX_CONVERSATIONS = 50;

export function empty(id: string): Conversation {
  return { id, turns: [], failure: null };
}

export function titleOf(conversation: Conversation): string {
  const first = conversation.turns[0]?.content.trim();
  if (!first) return "New conversation";
  return first.length > 40 ? `${first.slice(0, 39)}…` : first;
}

export function currentOf(state: State): Conversation {
  return state.conversations.find(({ id }) => id === state.current) ?? empty(state.current);
}

/** The last question, and what came before it. */
export function lastQuestion(turns: Turn[]): { message: string; history: Turn[] } | null {
  const index = turns.findLastIndex(({ role }) => role === "user");
  const turn = turns[index];
  return turn ? { message: turn.content, history: turns.slice(0, index) } : null;
}

export function reduce(state: State, action: Action): State {
  switch (action.kind) {
    case "new":
      return opened(state, action.id);
    case "open":
      return { ...state, current: action.id };
    case "delete":
      return without(state, action.id, action.replacement);
    case "asked": {
      const turn: Turn = { role: "user", content: action.message };
      const asked = changed(state, state.current, (it) => ({
        ...it,
        turns: [...it.turns, turn],
        failure: null,
      }));
      return { ...asked, answering: state.current };
    }
    case "retried": {
      const asked = changed(state, state.current, (it) => {
        const index = it.turns.findLastIndex(({ role }) => role === "user");
        return { ...it, turns: it.turns.slice(0, index + 1), failure: null };
      });
      return { ...asked, answering: state.current };
    }
    case "piece":
      return changed(state, action.id, (it) => ({ ...it, turns: extended(it.turns, action.text) }));
    case "ended":
      return { ...state, answering: null };
    case "failed": {
      const failed = changed(state, action.id, (it) => ({ ...it, failure: action.failure }));
      return { ...failed, answering: null };
    }
  }
}

function opened(state: State, id: string): State {
  const kept = state.conversations.filter(({ turns }) => turns.length > 0);
  return { ...state, conversations: [empty(id), ...kept].slice(0, MAX_CONVERSATIONS), current: id };
}

function without(state: State, id: string, replacement: string): State {
  const left = state.conversations.filter((it) => it.id !== id);
  const conversations = left.length > 0 ? left : [empty(replacement)];
  const current = state.current === id ? (conversations[0]?.id ?? replacement) : state.current;
  return { ...state, conversations, current };
}

function changed(state: State, id: string, change: (it: Conversation) => Conversation): State {
  const conversations = state.conversations.map((it) => (it.id === id ? change(it) : it));
  return { ...state, conversations };
}

function extended(turns: Turn[], text: string): Turn[] {
  const last = turns.at(-1);
  if (last?.role !== "assistant") return [...turns, { role: "assistant", content: text }];
  return [...turns.slice(0, -1), { ...last, content: last.content + text }];
}

/** Return what was kept, or a first conversation. */
export function load(storage: Pick<Storage, "getItem">, id: string): State {
  try {
    const kept = JSON.parse(storage.getItem(KEY) ?? "null");
    if (Array.isArray(kept?.conversations) && kept.conversations.length > 0) {
      return { conversations: kept.conversations, current: kept.current, answering: null };
    }
  } catch {
    // Kept by an older version, or storage is closed to us: begin anew.
  }
  return { conversations: [empty(id)], current: id, answering: null };
}

export function save(storage: Pick<Storage, "setItem">, state: State): void {
  try {
    const { conversations, current } = state;
    storage.setItem(KEY, JSON.stringify({ conversations, current }));
  } catch {
    // Full, or a private window: the conversation goes on, and is not kept.
  }
}
