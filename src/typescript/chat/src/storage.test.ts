import { expect, test } from "vitest";
import { empty, reduce, type State } from "./conversations";
import { changeOf, load, save } from "./storage";

/** A browser's storage, without the browser. */
class Memory {
  readonly kept = new Map<string, string>();
  get length() { return this.kept.size; }
  key(index: number) { return [...this.kept.keys()][index] ?? null; }
  getItem(key: string) { return this.kept.get(key) ?? null; }
  setItem(key: string, value: string) { this.kept.set(key, value); }
  removeItem(key: string) { this.kept.delete(key); }
}

const said = (id: string, content: string, changedAt = 1) => ({
  ...empty(id),
  turns: [{ role: "user" as const, content }],
  changedAt,
});
const stateOf = (...conversations: ReturnType<typeof said>[]): State => ({
  conversations,
  current: conversations[0]?.id ?? "",
  answering: null,
});

test("what is saved is loaded, the newest first", () => {
  const store = new Memory();
  save(store, stateOf(said("a", "One", 1), said("b", "Two", 2)), null);
  const loaded = load(store, "z");
  expect(loaded.conversations.map(({ id }) => id)).toEqual(["b", "a"]);
  expect(loaded.current).toBe("a");
});

test.each([
  "{broken",
  "null",
  "7",
  "[]",
  "{}",
  JSON.stringify({ id: "b" }),
  JSON.stringify({ id: "b", turns: "none" }),
  JSON.stringify({ id: "b", turns: [null] }),
  JSON.stringify({ id: "b", turns: [{ role: "king", content: "x" }] }),
  JSON.stringify({ id: "b", turns: [{ role: "user", content: 7 }] }),
  JSON.stringify({ id: "another", turns: [] }),
])("a broken record costs that record: %s", (record) => {
  const store = new Memory();
  save(store, stateOf(said("a", "One"), said("b", "Two"), said("c", "Three")), null);
  store.setItem("servekit-chat/b", record);
  expect(load(store, "z").conversations.map(({ id }) => id).sort()).toEqual(["a", "c"]);
});

test("nothing that can be read is a first conversation", () => {
  expect(load(new Memory(), "z")).toEqual({ conversations: [empty("z")], current: "z", answering: null });
});

test("what an older version kept is taken over", () => {
  const store = new Memory();
  const old = { id: "a", turns: [{ role: "user", content: "Hi" }], failure: null };
  store.setItem("servekit-chat", JSON.stringify({ conversations: [old, { id: 3 }], current: "a" }));
  const loaded = load(store, "z");
  expect(loaded.conversations).toEqual([{ ...old, changedAt: 0 }]);
  save(store, loaded, null);
  expect([...store.kept.keys()].sort()).toEqual(["servekit-chat-current", "servekit-chat/a"]);
});

test("only what changed is written, and what is gone is removed", () => {
  const store = new Memory();
  const before = stateOf(said("a", "One"), said("b", "Two"));
  save(store, before, null);
  // Another tab has changed b meanwhile.
  store.setItem("servekit-chat/b", JSON.stringify(said("b", "Two, changed there")));
  const changed = { ...before, conversations: [said("a", "One, changed here"), before.conversations[1]!] };
  save(store, changed, before);
  expect(store.getItem("servekit-chat/b")).toContain("changed there");
  save(store, { ...changed, conversations: [changed.conversations[0]!] }, changed);
  expect(store.getItem("servekit-chat/b")).toBeNull();
});

test("an answer that a reload interrupts is marked", () => {
  const store = new Memory();
  const asking = reduce(stateOf(said("a", "Hi")), { kind: "continued" });
  save(store, asking, null);
  expect(load(store, "z").conversations[0]?.failure?.message).toContain("closed before");
  const writing = reduce(asking, { kind: "piece", id: "a", text: "Half" });
  save(store, writing, asking);
  expect(load(store, "z").conversations[0]?.turns[1]?.cut).toBe("failed");
});

test("storage that is full or closed stops nothing", () => {
  const closed = new Proxy(new Memory(), {
    get: () => { throw new DOMException("closed", "SecurityError"); },
  });
  expect(() => save(closed, stateOf(said("a", "One")), null)).not.toThrow();
  expect(load(closed, "z").current).toBe("z");
});

test("another tab's change is read as what it is", () => {
  const record = said("a", "One");
  expect(changeOf({ key: "servekit-chat/a", newValue: JSON.stringify(record) })).toEqual({ id: "a", conversation: record });
  expect(changeOf({ key: "servekit-chat/a", newValue: null })).toEqual({ id: "a", conversation: null });
  expect(changeOf({ key: "servekit-chat/a", newValue: "{broken" })).toBeNull();
  expect(changeOf({ key: "other", newValue: "1" })).toBeNull();
  expect(changeOf({ key: null, newValue: null })).toBeNull();
});
