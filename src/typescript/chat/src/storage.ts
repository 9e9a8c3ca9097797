/**
 * Conversations in the browser's storage, one record each, so that a broken one costs itself alone and
 * two tabs do not overwrite each other's.
 */
import { type Conversation, empty, interrupted, MAX_CONVERSATIONS, type State } from "./conversations";
import type { Turn } from "./backend";

const PREFIX = "servekit-chat/";
const CURRENT = "servekit-chat-current";
/** All conversations in one record, as older versions kept them. */
const OLD = "servekit-chat";

type Store = Pick<Storage, "getItem" | "setItem" | "removeItem" | "key" | "length">;

/** Return what was kept, the newest first; `id` is for a first conversation where there is none. */
export function load(store: Store, id: string): State {
  const conversations = [...keptIn(store), ...oldIn(store)]
    .sort((one, other) => other.changedAt - one.changedAt)
    .slice(0, MAX_CONVERSATIONS);
  const [first] = conversations;
  if (!first) return { conversations: [empty(id)], current: id, answering: null };
  const wanted = read(store, CURRENT);
  const current = conversations.find((it) => it.id === wanted) ?? first;
  return { conversations, current: current.id, answering: null };
}

/** Write what differs from `before`, the state that was saved last. */
export function save(store: Store, state: State, before: State | null): void {
  const known = new Map(before?.conversations.map((it) => [it.id, it]));
  for (const conversation of state.conversations) {
    if (conversation.turns.length > 0 && known.get(conversation.id) !== conversation) {
      const kept = state.answering === conversation.id ? interrupted(conversation) : conversation;
      write(store, PREFIX + conversation.id, JSON.stringify(kept));
    }
    known.delete(conversation.id);
  }
  for (const id of known.keys()) attempt(() => store.removeItem(PREFIX + id));
  write(store, CURRENT, state.current);
  attempt(() => store.removeItem(OLD));
}

/** What another tab's change of storage means; null where it is not about a conversation. */
export function changeOf(
  event: Pick<StorageEvent, "key" | "newValue">,
): { id: string; conversation: Conversation | null } | null {
  if (!event.key?.startsWith(PREFIX)) return null;
  const id = event.key.slice(PREFIX.length);
  if (event.newValue === null) return { id, conversation: null };
  const conversation = conversationOf(event.newValue);
  return conversation?.id === id ? { id, conversation } : null;
}

function keptIn(store: Store): Conversation[] {
  const found = [];
  const count = attempt(() => store.length) ?? 0;
  for (let index = 0; index < count; index++) {
    const key = attempt(() => store.key(index)) ?? "";
    const conversation = key.startsWith(PREFIX) ? conversationOf(read(store, key)) : null;
    if (conversation && PREFIX + conversation.id === key) found.push(conversation);
  }
  return found;
}

function oldIn(store: Store): Conversation[] {
  const kept = parsed(read(store, OLD));
  const list = isRecord(kept) && Array.isArray(kept["conversations"]) ? kept["conversations"] : [];
  return list.map(checked).filter((it) => it !== null && it.turns.length > 0) as Conversation[];
}

function conversationOf(text: string | null): Conversation | null {
  return checked(parsed(text));
}

function checked(value: unknown): Conversation | null {
  if (!isRecord(value) || typeof value["id"] !== "string" || !Array.isArray(value["turns"])) return null;
  if (!value["turns"].every(isTurn)) return null;
  const failure = isRecord(value["failure"])
    ? {
        message: String(value["failure"]["message"] ?? ""),
        requestId: String(value["failure"]["requestId"] ?? ""),
      }
    : null;
  const changedAt = Number(value["changedAt"]) || 0;
  return { id: value["id"], turns: value["turns"], failure, changedAt };
}

function isTurn(value: unknown): value is Turn {
  if (!isRecord(value) || typeof value["content"] !== "string") return false;
  return value["role"] === "user" || value["role"] === "assistant";
}

function isRecord(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null;
}

function parsed(text: string | null): unknown {
  return attempt(() => JSON.parse(text ?? "null"));
}

function read(store: Store, key: string): string | null {
  return attempt(() => store.getItem(key)) ?? null;
}

function write(store: Store, key: string, text: string): void {
  attempt(() => store.setItem(key, text));
}

/** Storage may be closed, full or broken: the conversation goes on, and is not kept. */
function attempt<Result>(action: () => Result): Result | undefined {
  try {
    return action();
  } catch {
    return undefined;
  }
}
