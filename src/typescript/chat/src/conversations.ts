/** Conversations as values: what can happen to them.  Pure. */
import type { Cut, Turn } from "./backend";

export interface Failure {
  message: string;
  requestId: string;
}

export interface Conversation {
  id: string;
  turns: Turn[];
  /** Why the last question has no whole answer. */
  failure: Failure | null;
  /** When it last changed, in milliseconds since 1970; the newest is listed first. */
  changedAt: number;
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
  /** A question; from the turn `at` on, what was said before is replaced. */
  | { kind: "asked"; message: string; at: number; now: number }
  /** The last answer goes on. */
  | { kind: "continued" }
  | { kind: "piece"; id: string; text: string }
  | { kind: "ended"; id: string; cut?: Cut | undefined; dropped?: number }
  | { kind: "failed"; id: string; failure: Failure }
  /** Another tab has changed a conversation, or deleted it. */
  | { kind: "merged"; id: string; conversation: Conversation | null; replacement: string };

/** As many as a browser keeps without trouble: its storage holds 5 MB. */
export const MAX_CONVERSATIONS = 50;

/** What the model is asked for the rest of an answer; the page does not show it. */
export const CONTINUE = "Continue your last answer from exactly where it stopped. Do not repeat anything.";

export function empty(id: string): Conversation {
  return { id, turns: [], failure: null, changedAt: 0 };
}

export function titleOf(conversation: Conversation): string {
  const first = conversation.turns[0]?.content.trim();
  if (!first) return "New conversation";
  return first.length > 40 ? `${first.slice(0, 39)}…` : first;
}

export function currentOf(state: State): Conversation {
  return state.conversations.find(({ id }) => id === state.current) ?? empty(state.current);
}

/** Where the last question stands, or -1. */
export function lastQuestion(turns: Turn[]): number {
  return turns.findLastIndex(({ role }) => role === "user");
}

/** Whether a conversation speaks of `text`. */
export function mentions(conversation: Conversation, text: string): boolean {
  const wanted = text.trim().toLowerCase();
  return conversation.turns.some(({ content }) => content.toLowerCase().includes(wanted));
}

export function asMarkdown(conversation: Conversation): string {
  const said = conversation.turns.map(({ role, content }) => {
    return `## ${role === "user" ? "You" : "Model"}\n\n${content}\n`;
  });
  return `# ${titleOf(conversation)}\n\n${said.join("\n")}`;
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
        turns: [...it.turns.slice(0, action.at), turn],
        failure: null,
        changedAt: action.now,
      }));
      return { ...asked, answering: state.current };
    }
    case "continued": {
      const asked = changed(state, state.current, (it) => ({ ...it, failure: null }));
      return { ...asked, answering: state.current };
    }
    case "piece":
      return changed(state, action.id, (it) => ({ ...it, turns: extended(it.turns, action.text) }));
    case "ended":
      return { ...marked(state, action.id, action.cut, action.dropped), answering: null };
    case "failed": {
      const failed = changed(state, action.id, (it) => ({ ...it, failure: action.failure }));
      return { ...marked(failed, action.id, "failed"), answering: null };
    }
    case "merged":
      return merged(state, action.id, action.conversation, action.replacement);
  }
}

/** A conversation as it is if the page closes now, in the middle of an answer. */
export function interrupted(conversation: Conversation): Conversation {
  const last = conversation.turns.at(-1);
  if (last?.role !== "assistant") {
    return { ...conversation, failure: { message: "The page was closed before the answer.", requestId: "" } };
  }
  return { ...conversation, turns: [...conversation.turns.slice(0, -1), { ...last, cut: "failed" }] };
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

/** Take what another tab has kept, but not over an answer that is being written here. */
function merged(state: State, id: string, kept: Conversation | null, replacement: string): State {
  if (state.answering === id) return state;
  if (kept === null) return without(state, id, replacement);
  if (state.conversations.some((it) => it.id === id)) return changed(state, id, () => kept);
  return { ...state, conversations: [kept, ...state.conversations].slice(0, MAX_CONVERSATIONS) };
}

function changed(state: State, id: string, change: (it: Conversation) => Conversation): State {
  const conversations = state.conversations.map((it) => (it.id === id ? change(it) : it));
  return { ...state, conversations };
}

/** Say of the last answer how it ended. */
function marked(state: State, id: string, cut?: Cut, dropped = 0): State {
  return changed(state, id, (it) => {
    const last = it.turns.at(-1);
    if (last?.role !== "assistant") return it;
    const { cut: _cut, dropped: _dropped, ...answer } = last;
    const turn = { ...answer, ...(cut && { cut }), ...(dropped > 0 && { dropped }) };
    return { ...it, turns: [...it.turns.slice(0, -1), turn] };
  });
}

function extended(turns: Turn[], text: string): Turn[] {
  const last = turns.at(-1);
  if (last?.role !== "assistant") return [...turns, { role: "assistant", content: text }];
  return [...turns.slice(0, -1), { ...last, content: last.content + text }];
}
